"""Data sets whose pictures are drawn here, once, and kept: how they are stored and found.

Icons and glyphs come as outlines (SVG, fonts). `python -m dapt_jax.data.fetch` draws them into two
files in a folder of the data directory: the pictures, and the rules that they follow. Pictures that
follow other rules than this version's are refused, so an edit of the rules can never go unnoticed.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from dapt_jax.data import dataset as dataset_lib

SPLITS = ('train', 'test')


@dataclasses.dataclass(frozen=True)
class Collection:
  """Data sets that are drawn together.

  Attributes:
    fetch_name: what `fetch` calls them, and the name of their folder in a data directory.
    stem: name of their two files, without the ending.
    class_names: `{data set: names of its classes}`, in the order of the labels.
    rules: all that decides which pictures come out, as JSON can hold it.
  """

  fetch_name: str
  stem: str
  class_names: Mapping[str, tuple[str, ...]]
  rules: Mapping[str, object]

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the data sets."""
    return tuple(self.class_names)

  def find(self, roots: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """Returns the first folder that holds these data sets, or None.

    Args:
      roots: data directories.
    """
    folders = (root / self.fetch_name for root in roots)
    files = (f'{self.stem}.npz', f'{self.stem}.json')
    return next((f for f in folders if all((f / file).is_file() for file in files)), None)

  def save(
    self,
    folder: pathlib.Path,
    parts: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]],
    about: Mapping[str, object],
  ) -> None:
    """Writes the pictures, and what is known about them.

    Args:
      folder: an existing directory.
      parts: `{(data set, split): (u8[n, size, size], i32[n])}`.
      about: as JSON can hold it, with `'package'`.
    """
    arrays = {}
    for (name, split), (images, labels) in parts.items():
      arrays[f'{name}/{split}/images'], arrays[f'{name}/{split}/labels'] = images, labels
    np.savez_compressed(folder / f'{self.stem}.npz', allow_pickle=False, **arrays)
    text = json.dumps({'rules': self.rules, **about}, indent=1, sort_keys=True)
    (folder / f'{self.stem}.json').write_text(text + '\n', encoding='utf-8')

  def about(self, folder: pathlib.Path) -> dict[str, object]:
    """Reads what was saved about the pictures in a folder that `find` returned.

    Raises:
      ValueError: the file is damaged, or the pictures follow other rules than this version's.
    """
    path = folder / f'{self.stem}.json'
    try:
      found = json.loads(path.read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
      raise ValueError(f'{path} is damaged ({e}). {self.remedy()}') from e
    if found.get('rules') != self.rules:
      raise ValueError(f'{path}: made by other rules than this version has. {self.remedy()}')
    return found

  def load(self, name: str, split: str, folder: pathlib.Path) -> dataset_lib.Dataset:
    """Reads one data set.

    Args:
      name: one of `names`.
      split: 'train', 'test' or 'all' (train, then test).
      folder: from `find`.

    Returns:
      A `Dataset` of u8 pixels with one channel, the ink white on black.

    Raises:
      ValueError: the files are damaged or follow other rules; the message says what to do.
    """
    if split == 'all':
      return dataset_lib.concatenate([self.load(name, part, folder) for part in SPLITS])
    source = f'package {self.about(folder)["package"]} in {folder}'
    path = folder / f'{self.stem}.npz'
    try:
      with np.load(path, allow_pickle=False) as arrays:
        images, labels = arrays[f'{name}/{split}/images'], arrays[f'{name}/{split}/labels']
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as e:
      raise ValueError(f'{path} is damaged ({e}). {self.remedy()}') from e
    words = self.class_names[name]
    return dataset_lib.Dataset(images[..., None], labels, len(words), words, name, split, source)

  def remedy(self) -> str:
    """Returns the sentence that says how to bring them."""
    return f'Bring them with: python -m dapt_jax.data.fetch {self.fetch_name}.'
