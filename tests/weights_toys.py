"""Small tasks and networks for the tests of zoos and generators."""

import jax.numpy as jnp
import numpy as np

from dapt_jax import data
from dapt_jax.models import model as model_lib
from dapt_jax.tasks import bank, splits
from dapt_jax.weights import members

CLASSES, PER_CLASS = 5, 20


def dataset(name, seed):
  """Five classes of 4x4 images: a prototype each, and noise."""
  rng = np.random.default_rng(seed)
  prototypes = rng.uniform(0.1, 0.9, (CLASSES, 4, 4, 1))
  labels = np.repeat(np.arange(CLASSES), PER_CLASS).astype(np.int32)
  noise = 0.1 * rng.normal(size=(len(labels), 4, 4, 1))
  images = np.clip(prototypes[labels] + noise, 0, 1).astype(np.float32)
  names = tuple('abcde')
  return data.Dataset(images, labels, CLASSES, names, name, 'all', 'made up')


def split(**changes):
  options = {
    'held_views': [('b', 'rot180')],
    'num_classes': 3,
    'num_held_sets': 3,
    'transforms': ('rot0', 'rot180'),
    'source_classes': CLASSES,
  }
  return splits.make(('a', 'b'), **{**options, **changes})


def make_bank(**changes):
  return bank.Bank(split(**changes), {n: dataset(n, i) for i, n in enumerate('ab')})


def model(**config):
  options = {'widths': (6,), **config}
  return model_lib.create('mlp', input_shape=(4, 4, 1), num_classes=3, in_loop=True, **options)


LINEAR_CLASSES, PIXELS = 3, 8


def linear():
  """A linear network without bias on 8 pixels, in flat form: the vector is its kernel."""
  kernel = lambda vector: vector.reshape(PIXELS, LINEAR_CLASSES)
  logits = lambda vector, images: images.reshape(len(images), -1) @ kernel(vector)
  size = PIXELS * LINEAR_CLASSES
  ravel = lambda tree: tree['kernel'].reshape(-1)
  moves = np.ones(size, np.float32)
  trained = lambda vector, images: (logits(vector, images), vector)
  return members.Flat(size, ravel, lambda v: {'kernel': kernel(v)}, moves, logits, trained)


def linear_problem(count, noise=0.2, seed=0):
  """Tasks of 3 of 8 classes, in the order of their numbers; class c is pixel c, and noise.

  Returns (flat, images f32[80, 2, 4, 1], tests i32[count, 3, 10], conditions f32[count, 3, 8],
  classes i[count, 3]); conditions are the classes' prototypes.
  """
  rng = np.random.default_rng(seed)
  pixels = np.repeat(np.eye(PIXELS), 10, axis=0) + noise * rng.normal(size=(10 * PIXELS, PIXELS))
  classes = np.sort(
    [rng.choice(PIXELS, LINEAR_CLASSES, replace=False) for _ in range(count)], axis=1
  )
  tests = (10 * classes[:, :, None] + np.arange(10)).astype(np.int32)
  conditions = np.eye(PIXELS, dtype=np.float32)[classes]
  images = pixels.reshape(-1, 2, 4, 1).astype(np.float32)
  return linear(), jnp.asarray(images), tests, conditions, classes
