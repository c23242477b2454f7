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

from dapt_jax.data import arrays, splits
from dapt_jax.data import dataset as dataset_lib

_CHUNK = 1024


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
) -> dataset_lib.Dataset:
  """Reads a prepared directory that `find` returned into memory.

  The test split is TFDS's 'test', else its 'validation', else a seeded class-balanced fifth of
  'train'. About 0.2-0.5 ms an image of 28x28 (TFDS decodes PNG one by one).

  Args:
    name: name for the data set.
    split: 'train', 'test' or 'all'.
    folder: the prepared directory.
    image_size: needed where the pictures differ in size; otherwise resizes as well.

  Returns:
    A `Dataset` with TFDS's class names.

  Raises:
    ModuleNotFoundError: array_record is not installed.
    ValueError: TFRecord format, no picture with a class label in it, or no train split.
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

  def read(part: str) -> dataset_lib.Dataset:
    return _read_split(builder, part, keys, (name, folder, image_size))

  if split == 'train' and held_out is not None:
    data = read('train')
  elif split == 'test' and held_out is not None:
    data = read(held_out)
  elif held_out is not None:
    data = dataset_lib.concatenate([read('train'), read(held_out)])
  else:
    data = read('train')
    train, test = splits.train_test_indices(data.labels)
    data = data if split == 'all' else data.subset(train if split == 'train' else test)
  pixels, labels = data.pixels, data.labels
  return dataset_lib.Dataset(
    pixels, labels, data.num_classes, data.class_names, name, split, data.source
  )


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


def _read_split(
  builder: Any, part: str, keys: tuple[str, str], place: tuple[str, pathlib.Path, Any]
) -> dataset_lib.Dataset:
  name, folder, image_size = place
  image_key, label_key = keys
  try:
    source = builder.as_data_source(split=part)
  except ImportError as e:
    raise ModuleNotFoundError(
      'array_record is needed to read prepared TFDS data; pip install array-record.'
    ) from e
  images: list[np.ndarray] = []
  labels: list[int] = []
  for start in range(0, len(source), _CHUNK):
    rows = source.__getitems__(list(range(start, min(start + _CHUNK, len(source)))))
    images.extend(row[image_key] for row in rows)
    labels.extend(int(row[label_key]) for row in rows)
  pixels = arrays.check_pixels(arrays.stack(images, image_size))
  label = builder.info.features[label_key]
  class_names = tuple(label.names)
  data = dataset_lib.Dataset(
    pixels,
    np.asarray(labels, np.int32),
    label.num_classes,
    class_names,
    name,
    part,
    f'TFDS directory {folder}',
  )
  return data if image_size is None else data.resize(image_size)
