"""Arrays out of files that `torch.save` wrote, without PyTorch and without running foreign code.

Such a file is a pickle, and a pickle may name any function to be called. The reader here knows
tensors, ordered dicts and plain values, and refuses everything else. Both formats are read: the zip
archive (PyTorch 1.6 and later) and the older stream, where the numbers follow the pickle.
"""

from __future__ import annotations

import collections
import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

# First value of a file in the older format.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DTYPES: dict[str, np.dtype] = {
  'DoubleStorage': np.dtype('<f8'),
  'FloatStorage': np.dtype('<f4'),
  'HalfStorage': np.dtype('<f2'),
  'BFloat16Storage': np.dtype(jnp.bfloat16),
  'LongStorage': np.dtype('<i8'),
  'IntStorage': np.dtype('<i4'),
  'ShortStorage': np.dtype('<i2'),
  'CharStorage': np.dtype('i1'),
  'ByteStorage': np.dtype('u1'),
  'BoolStorage': np.dtype('?'),
}
# What the unpickler and the archive raise on bytes that are not well formed.
_MALFORMED = (
  pickle.UnpicklingError,
  zipfile.BadZipFile,
  AttributeError,
  EOFError,
  LookupError,
  MemoryError,
  OSError,
  OverflowError,
  RuntimeError,
  TypeError,
  ValueError,
)


class FormatError(ValueError):
  """The file is damaged, is no file of `torch.save`, or holds more than tensors."""


def load(path: str | os.PathLike[str]) -> Any:
  """Reads a file that `torch.save` wrote.

  Args:
    path: the file; usually a state dict, `{name: tensor}`.

  Returns:
    What was saved, with a NumPy array of the same shape and type for every tensor. Arrays that
    shared memory as tensors share it still.

  Raises:
    FormatError: for a damaged file, another format, or anything that is no tensor and no plain
      value; save a state dict instead.
  """
  with open(path, 'rb') as file:
    try:
      if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
          return _load_archive(archive)
      file.seek(0)
      return _load_stream(file, os.path.getsize(path))
    except FormatError as error:
      raise FormatError(f'{os.fspath(path)}: {error}') from None
    except _MALFORMED as error:
      raise FormatError(f'{os.fspath(path)} is damaged or not of torch.save') from error


class _Unpickler(pickle.Unpickler):
  """A pickle of tensors: three callables and the names of storage types are all it knows."""

  def __init__(self, file: io.BufferedIOBase, storage: Callable[[str, np.dtype, int], np.ndarray]):
    """Reads from `file`; `storage(key, dtype, count)` gives the numbers behind tensors."""
    super().__init__(file, encoding='utf-8')
    self._storage = storage

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    if module == 'torch' and name in _DTYPES:
      # A string: a pickle can change neither it nor, through it, anything of ours.
      return name
    if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
      return lambda storage, start, shape, strides, *unused: _view(storage, start, shape, strides)
    if (module, name) == ('torch._utils', '_rebuild_parameter'):
      return lambda tensor, *unused: tensor
    raise FormatError(
      f"the file asks for '{module}.{name}'; only tensors and plain values are read, so save a "
      'state dict (model.state_dict()) and not the model'
    )

  def persistent_load(self, pid: Any) -> np.ndarray:
    tag, kind, key, _, count = pid[:5]
    if tag != 'storage' or kind not in _DTYPES or any(pid[5:]):
      raise FormatError(f'{pid!r} is no storage of numbers that can be read')
    return self._storage(str(key), _DTYPES[kind], int(count))


def _view(storage: np.ndarray, start: int, shape: Any, strides: Any) -> np.ndarray:
  """A tensor: a strided view of its storage, checked to stay inside."""
  negative = min((start, *shape, *strides)) < 0 or len(shape) != len(strides)
  last = start + sum((n - 1) * s for n, s in zip(shape, strides))
  if negative or (math.prod(shape) and last >= storage.size):
    raise FormatError(f'tensor {shape} with strides {strides} does not fit {storage.size} numbers')
  steps = [s * storage.itemsize for s in strides]
  return np.lib.stride_tricks.as_strided(storage[start:], shape, steps)


def _load_archive(archive: zipfile.ZipFile) -> Any:
  """The zip format: `NAME/data.pkl` and the numbers in `NAME/data/KEY`."""
  pickles = [name for name in archive.namelist() if name.endswith('/data.pkl')]
  if len(pickles) != 1:
    raise FormatError('a zip archive without one data.pkl; it was not written by torch.save')
  root = pickles[0].removesuffix('data.pkl')
  if f'{root}byteorder' in archive.namelist() and archive.read(f'{root}byteorder') != b'little':
    raise FormatError('numbers in big-endian order are not read')
  storages: dict[str, np.ndarray] = {}

  def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
    if key not in storages:
      values = np.frombuffer(archive.read(f'{root}data/{key}'), dtype)
      if not 0 <= count <= values.size:
        raise FormatError(f'storage {key} holds {values.size} numbers, {count} were announced')
      storages[key] = values[:count].copy()
    return storages[key]

  return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _load_stream(file: io.BufferedIOBase, size: int) -> Any:
  """The older format: five pickles, then the numbers of every storage after their count."""
  storages: dict[str, np.ndarray] = {}

  def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
    if not 0 <= count * dtype.itemsize <= size:
      raise FormatError(f'storage {key} of {count} numbers is larger than the file')
    # Filled below: in this format the numbers come after everything that speaks of them.
    return storages.setdefault(key, np.zeros(count, dtype))

  magic, protocol, system, tree, keys = (_Unpickler(file, storage).load() for _ in range(5))
  if (magic, protocol) != (_MAGIC, _PROTOCOL) or not system['little_endian']:
    raise FormatError('not a little-endian file of torch.save')
  for key in keys:
    count = int.from_bytes(file.read(8), 'little')
    if key not in storages or count != storages[key].size:
      raise FormatError(f'storage {key} does not have the size that was announced')
    values = storages[key]
    data = file.read(values.nbytes)
    if len(data) < values.nbytes:
      raise FormatError(f'the file ends {values.nbytes - len(data)} bytes early')
    values[:] = np.frombuffer(data, values.dtype)
  return tree
