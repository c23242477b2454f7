"""Small tasks and networks for the tests of zoos and generators."""

import numpy as np

from dapt_jax import data
from dapt_jax.models import model as model_lib
from dapt_jax.tasks import bank, splits

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
