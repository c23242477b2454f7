"""Prepared TFDS directories, read through TFDS and array_record without TensorFlow.

A prepared directory is `<data_dir>/<name>[/<config>]/<version>/` with `dataset_info.json`. It must
have been prepared with `file_format='array_record'`; TFRecord files need TensorFlow to read.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from dapt_jax.data import arrays, splits, stored
from dapt_jax.data import dataset as dataset_lib

_CHUNK = 1024
#: What array_record, TFDS and Pillow raise for data that are not what they should be.
_DAMAGE = (RuntimeError, IndexError, OSError, SyntaxError)


def find(name: str, roots: list[pathlib.Path]) -> pathlib.Path | None:
  """Returns the prepared directory of `name`, highest version first, or None.

  Args:
    name: TFDS name: 'name', 'name/config', 'name:1.0.0' or 'name/config:1.0.0'.
    roots: TFDS data directories, searched in order.
  """
  base, _, version = name.partition(':')
  if not re.fullmatch(r'\w+(/[\w.-]+)?', base):
    return None
  for root in roots:
    found = [p.parent for p in (root / base).glob('*/dataset_info.json')]
    if '/' not in base:
      found += [p.parent for p in (root / base).glob('*/*/dataset_info.json')]
    found = [p for p in found if _version(p) and version in ('', p.name)]
    if found:
      return max(found, key=_version)
  return None


def names(roots: list[pathlib.Path]) -> list[str]:
  """Returns the names of all data sets prepared in the given directories."""
  found = {
    p.relative_to(root).parts[0]
    for root in roots
    for pattern in ('*/*/dataset_info.json', '*/*/*/dataset_info.json')
    for p in root.glob(pattern)
  }
  return sorted(found)


def _version(path: pathlib.Path) -> tuple[int, ...]:
  match = re.fullmatch(r'(\d+)\.(\d+)\.(\d+)', path.name)
  return tuple(map(int, match.groups())) if match else ()


def refusal(folder: pathlib.Path) -> str | None:
  """Returns why a prepared directory cannot be read here, with the remedy, or None."""
  try:
    info = json.loads((folder / 'dataset_info.json').read_text(encoding='utf-8'))
  except (json.JSONDecodeError, UnicodeDecodeError) as e:
    return f'{folder}: dataset_info.json is damaged ({e}); prepare the data set again.'
  file_format = info.get('fileFormat', 'tfrecord')
  if file_format == 'array_record':
    return None
  return (
    f'{folder} is in {file_format} format, which needs TensorFlow to read; prepare it again with '
    f'tfds build {info.get("name", folder.parent.name)} --file_format=array_record'
  )


def load(
  name: str,
  split: str,
  folder: pathlib.Path,
  image_size: int | Sequence[int] | None = None,
  *,
  in_memory: bool = True,
) -> dataset_lib.Dataset:
  """Reads a prepared directory that `find` returned.

  The test split is TFDS's 'test', else its 'validation', else a seeded class-balanced fifth of
  'train'. About 0.2-0.5 ms an image of 28x28 (TFDS decodes PNG one by one).

  Args:
    name: name for the data set.
    split: 'train', 'test' or 'all'.
    folder: the prepared directory.
    image_size: needed where the pictures differ in size; otherwise resizes as well.
    in_memory: False reads the labels alone (some 0.05 ms an image), and pictures when they are
      asked for.

  Returns:
    A `Dataset` with TFDS's class names.

  Raises:
    ModuleNotFoundError: array_record is not installed.
    ValueError: TFRecord format, no picture with a class label in it, no train split, or a damaged
      file.
  """
  reason = refusal(folder)
  if reason is not None:
    raise ValueError(reason)
  # Imported here: TFDS takes a second to load and only this source needs it.
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(folder)
  keys = _keys(builder, folder)
  available = list(builder.info.splits)
  if 'train' not in available:
    raise ValueError(f"{folder}: has splits {available}; a 'train' split is needed.")
  held_out = next((s for s in ('test', 'validation') if s in available), None)
  part = 'train'
  if held_out is not None:
    part = {'train': 'train', 'test': held_out, 'all': f'train+{held_out}'}[split]
  read = _read_all if in_memory else _read_labels
  pixels, labels = read(builder, part, keys, image_size)
  label = builder.info.features[keys[1]]
  names, source = tuple(label.names), f'TFDS directory {folder}'
  data = dataset_lib.Dataset(pixels, labels, label.num_classes, names, name, split, source)
  if held_out is None and split != 'all':
    train, test = splits.train_test_indices(data.labels)
    data = data.subset(train if split == 'train' else test)
  return data if image_size is None else data.resize(image_size)


def _keys(builder: Any, folder: pathlib.Path) -> tuple[str, str]:
  """Returns the names of the picture feature and of the label feature."""
  import tensorflow_datasets as tfds

  features = builder.info.features
  image_key, label_key = builder.info.supervised_keys or ('image', 'label')
  named = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
  image, label = named.get(image_key), named.get(label_key)
  is_picture = isinstance(image, tfds.features.Tensor | tfds.features.Image)
  if not is_picture or not isinstance(label, tfds.features.ClassLabel):
    raise ValueError(
      f'{folder}: expected a picture {image_key!r} and a class label {label_key!r}; the data set '
      f'has {features!r}. Read it with TFDS yourself and use from_arrays.'
    )
  return image_key, label_key


def _read_all(builder: Any, part: str, keys: tuple[str, str], image_size: Any):
  """Pictures and labels of a part, in memory."""
  records = _Records(builder, part, keys)
  images: list[np.ndarray] = []
  labels: list[int] = []
  for start in range(0, len(records), _CHUNK):
    rows = records.take(range(start, min(start + _CHUNK, len(records))))
    images.extend(row[keys[0]] for row in rows)
    labels.extend(int(row[keys[1]]) for row in rows)
  return arrays.check_pixels(arrays.stack(images, image_size)), np.asarray(labels, np.int32)


def _read_labels(builder: Any, part: str, keys: tuple[str, str], image_size: Any):
  """Pictures of a part, left on disk, and its labels, for which every record is read once."""
  records, undecoded = (_Records(builder, part, keys, decode=d) for d in (True, False))
  labels: list[int] = []
  for start in range(0, len(records), _CHUNK):
    rows = undecoded.take(range(start, min(start + _CHUNK, len(records))))
    labels.extend(int(row[keys[1]]) for row in rows)
  read = lambda positions: [row[keys[0]] for row in records.take(positions.tolist())]
  return stored.make(read, len(records), image_size), np.asarray(labels, np.int32)


class _Records:
  """The examples of a part by position; a file that cannot be read is named."""

  def __init__(self, builder: Any, part: str, keys: tuple[str, str], *, decode: bool = True):
    """Opens the files; `decode=False` leaves pictures as the bytes they are stored in."""
    import tensorflow_datasets as tfds

    decoders = None if decode else {keys[0]: tfds.decode.SkipDecoding()}
    self._keys, self._name = keys, builder.info.name
    self._files = builder.info.splits[part].file_instructions
    try:
      self._source = builder.as_data_source(split=part, decoders=decoders)
    except ImportError as e:
      raise ModuleNotFoundError(
        'array_record is needed to read prepared TFDS data; pip install array-record.'
      ) from e

  def __len__(self) -> int:
    return len(self._source)

  def take(self, positions: Sequence[int]) -> list[dict[str, Any]]:
    """Returns the examples at some positions.

    Raises:
      ValueError: a record cannot be read or decoded.
    """
    try:
      return self._take(positions)
    except _DAMAGE as e:
      raise ValueError(
        f'{self._damaged(positions)} cannot be read ({e}). The file is damaged, cut short or gone: '
        f'copy it again, or prepare the data set again with tfds build {self._name} '
        '--file_format=array_record'
      ) from e

  def _take(self, positions: Sequence[int]) -> list[dict[str, Any]]:
    rows = list(self._source.__getitems__(list(positions)))
    if any(row[key] is None for row in rows for key in self._keys):
      raise OSError('a record is empty')  # as array_record returns it from some shortened files
    return rows

  def _damaged(self, positions: Sequence[int]) -> str:
    """The file, and the record in it, that cannot be read."""
    for position in positions:
      try:
        self._take([position])
      except _DAMAGE:
        break
    for file in self._files:
      if position < file.take:
        break
      position -= file.take
    return f'{file.filename}: record {file.skip + position}'
