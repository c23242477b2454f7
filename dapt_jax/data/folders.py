"""Data sets from a folder of pictures, one subfolder per class."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dapt_jax.data import arrays, splits, stored
from dapt_jax.data import dataset as dataset_lib

_GRAY_MODES = ('1', 'L', 'LA')
_DEEP_MODES = ('I', 'F', 'I;16', 'I;16B', 'I;16L', 'I;16N')


def from_folder(
  path: str | pathlib.Path,
  *,
  split: str = 'train',
  image_size: int | Sequence[int] | None = None,
  channels: int | None = None,
  in_memory: bool = True,
) -> dataset_lib.Dataset:
  """Reads a folder of pictures.

  Two layouts: `path/<class>/*.png`, of which a seeded class-balanced fifth is the test split; or
  `path/train/<class>/*` and `path/test/<class>/*`. Classes are numbered in the order of their
  names. Any format Pillow reads will do; rotation tags are applied, transparency is laid on white.
  Names that begin with a dot are skipped.

  Args:
    path: the folder.
    split: 'train', 'test' or 'all'.
    image_size: edge length or `(height, width)`; pictures are stretched to it. Needed where sizes
      differ.
    channels: 1 (gray) or 3 (colour); where None, 1 if every file is gray, else 3.
    in_memory: False decodes a picture when it is asked for; a damaged one is named only then.

  Returns:
    A `Dataset` named after the folder.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: no class folders, an empty class, a file that is not a picture, 16-bit or float
      pictures, sizes that differ without `image_size`, or train/ and test/ with other classes.
  """
  root = pathlib.Path(path).expanduser()
  splits.check_split(split)
  if channels not in (None, 1, 3):
    raise ValueError(f'channels {channels!r}: expected 1 (gray), 3 (colour) or None (from files).')
  if not root.is_dir():
    raise FileNotFoundError(f'{root}: no such folder. Give a folder with one subfolder per class.')
  if (root / 'train').is_dir() and (root / 'test').is_dir():
    names, files = _train_test_files(root, split)
  else:
    names, files = _split_files(root, split)
  paths = [file for file, _ in files]
  if channels is None:
    channels = 1 if all(_mode(file) in _GRAY_MODES for file in paths) else 3
  read = lambda positions: [_read(paths[i], channels) for i in positions]
  whole = dataset_lib.Dataset(
    _all(root, read, len(paths), image_size) if in_memory else stored.make(read, len(paths)),
    np.asarray([label for _, label in files], np.int32),
    len(names),
    names,
    root.name or str(root),
    split,
    f'folder {root}',
  )
  return whole if image_size is None else whole.resize(image_size)


def _all(root: pathlib.Path, read: stored.Read, count: int, image_size: Any) -> np.ndarray:
  """All pictures in memory; those of different sizes are resized."""
  images = read(np.arange(count))
  shapes = sorted({image.shape[:2] for image in images})
  if image_size is None and len(shapes) > 1:
    raise ValueError(
      f'{root}: pictures have {len(shapes)} different sizes, from {shapes[0]} to {shapes[-1]}; '
      'pass image_size=..., for example image_size=28.'
    )
  return arrays.check_pixels(arrays.stack(images, image_size))


def _train_test_files(root: pathlib.Path, split: str):
  names, train = _class_files(root / 'train')
  test_names, test = _class_files(root / 'test')
  if names != test_names:
    raise ValueError(
      f'{root}: train/ and test/ hold different classes; only in one of them: '
      f'{sorted(set(names) ^ set(test_names))}. Make the class folders alike.'
    )
  return names, {'train': train, 'test': test, 'all': train + test}[split]


def _split_files(root: pathlib.Path, split: str):
  names, files = _class_files(root)
  if split == 'all':
    return names, files
  labels = np.asarray([label for _, label in files], np.int32)
  for k, name in enumerate(names):
    if np.sum(labels == k) < 2:
      raise ValueError(
        f'{root / name}: one picture cannot be split into train and test. Add pictures, make '
        "train/ and test/ folders, or use split='all'."
      )
  train, test = splits.train_test_indices(labels)
  return names, [files[i] for i in (train if split == 'train' else test)]


def _class_files(root: pathlib.Path) -> tuple[tuple[str, ...], list[tuple[pathlib.Path, int]]]:
  """Returns the class names and all `(file, class number)` under `root/<class>/`."""
  entries = sorted(p for p in root.iterdir() if not p.name.startswith('.'))
  folders = [p for p in entries if p.is_dir()]
  if not folders:
    raise ValueError(
      f'{root}: no class folders in it. Put the pictures of each class into a folder of their '
      f'own: {root}/<class>/picture.png.'
    )
  if len(folders) < 2:
    raise ValueError(f'{root}: only one class folder ({folders[0].name}); at least two are needed.')
  files: list[tuple[pathlib.Path, int]] = []
  for label, folder in enumerate(folders):
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith('.'))
    if not inside:
      raise ValueError(f'{folder}: this class is empty. Add pictures or remove the folder.')
    nested = [p for p in inside if p.is_dir()]
    if nested:
      raise ValueError(
        f'{nested[0]}: a folder inside a class folder; expected pictures only. For ready splits '
        'name the two upper folders train and test.'
      )
    files.extend((file, label) for file in inside)
  return tuple(p.name for p in folders), files


def _mode(file: pathlib.Path) -> str:
  """Returns Pillow's mode of a picture, from its header alone."""
  try:
    with Image.open(file) as image:
      mode, transparent = image.mode, 'transparency' in image.info
  except (UnidentifiedImageError, OSError, SyntaxError) as e:
    raise ValueError(f'{file}: not a picture that Pillow can read ({e}). Remove it.') from e
  if mode in _DEEP_MODES:
    raise ValueError(f'{file}: mode {mode!r}, more than 8 bits a channel. Save it as 8-bit.')
  return 'LA' if mode == 'L' and transparent else mode


def _read(file: pathlib.Path, channels: int) -> np.ndarray:
  """Decodes one picture to u8[h, w, channels]."""
  _mode(file)
  try:
    with Image.open(file) as opened:
      image = ImageOps.exif_transpose(opened)
      if image.mode in ('LA', 'RGBA', 'PA') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
      decoded = np.asarray(image.convert('L' if channels == 1 else 'RGB'))
  except (OSError, SyntaxError) as e:
    raise ValueError(f'{file}: the picture is damaged ({e}). Replace or remove it.') from e
  return decoded.reshape(*decoded.shape[:2], channels)
