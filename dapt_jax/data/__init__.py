"""Data: pictures by name, batches by step, splits by seed; no TensorFlow, no hidden download.

`load` gives a `Dataset`; `python -m dapt_jax.data.fetch` brings what is not there.
"""

from dapt_jax.data.arrays import from_arrays
from dapt_jax.data.augment import shift_and_flip
from dapt_jax.data.batches import Batcher, check_shard, make_batcher
from dapt_jax.data.catalog import default_data_dir, load
from dapt_jax.data.dataset import Dataset, concatenate
from dapt_jax.data.folders import from_folder
from dapt_jax.data.splits import split
from dapt_jax.data.standardize import Standardizer

__all__ = [
  'Batcher',
  'Dataset',
  'Standardizer',
  'check_shard',
  'concatenate',
  'default_data_dir',
  'from_arrays',
  'from_folder',
  'load',
  'make_batcher',
  'shift_and_flip',
  'split',
]
