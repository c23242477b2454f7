"""A small target task and trainable structures for the tests of the transfer room."""

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax import data
from dapt_jax.models import model as model_lib
from dapt_jax.transfer import protocol, retrain

SHAPE = (4, 4, 1)
CLASSES = 3


def dataset(size, seed, name='toy'):
  """uint8 pictures; class c is bright in its own column."""
  rng = np.random.default_rng(seed)
  labels = np.arange(size) % CLASSES
  pixels = rng.integers(0, 120, (size, *SHAPE))
  pixels[np.arange(size), :, labels, 0] += 120
  names = tuple('abc')
  return data.Dataset(
    pixels.astype(np.uint8), labels.astype(np.int32), CLASSES, names, name, 'train', 'made up'
  )


def target(size=60, test_size=45):
  train, test = dataset(size, 0), dataset(test_size, 1)
  return protocol.Target('toy', 'origin', train, test, data.Standardizer.fit(train))


def model(**options):
  config = {'widths': (12,), 'batch_norm': True, **options}
  return model_lib.create('mlp', input_shape=SHAPE, num_classes=CLASSES, in_loop=True, **config)


def structure(**options):
  made = model(**options)
  return retrain.Structure(made.init, made.apply, made.apply_train)


def images(made=None):
  """(train images, train labels, test images, test labels), standardised."""
  task = made or target()
  return (
    jnp.asarray(task.standardizer(task.train.images)),
    task.train.labels,
    jnp.asarray(task.standardizer(task.test.images)),
    task.test.labels,
  )


def linear():
  """A structure without normalisation: `logits = x w`, weights zero."""
  size = int(np.prod(SHAPE))
  apply = lambda params, x: x.reshape(len(x), -1) @ params['w']
  return retrain.Structure(
    lambda key: {'w': jnp.zeros((size, CLASSES))}, apply, lambda params, x: (apply(params, x), {})
  )


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def pretend(
  structure, train_images, train_labels, support, *test, recipe, key, on_chunk=None, devices=None
):
  """Stands for `retrain.retrain` where its results do not matter: builds, and trains nothing."""
  runs = len(support.shots)
  accuracy = np.linspace(0.2, 0.8, runs).astype(np.float32)
  steps = np.full(runs, recipe.steps)
  return retrain.Outcome(accuracy, np.zeros(runs, np.float32), steps, None)
