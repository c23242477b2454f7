"""Icons of ten concepts each, drawn by many designers: `icons_train` and `icons_unseen`.

This file is the one place that says which concepts belong to which data set and how designers are
dealt out: no concept and no designer is in both data sets, and no designer is in both splits of
one. The pictures are made once, by `python -m dapt_jax.data.fetch icons`; see `icon_sets`.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from dapt_jax.data import dataset as dataset_lib

#: Edge length of the stored pictures, in pixels.
SIZE = 64
#: Of the deal of designers.
SEED = 0
#: Concepts, the classes, of each data set in the order of their labels: the twenty words for
#: things that most designers drew, dealt out by hand so that look-alikes stay on one side.
CONCEPTS: dict[str, tuple[str, ...]] = {
  'icons_train': (
    'bell',
    'book',
    'camera',
    'cloud',
    'eye',
    'folder',
    'home',
    'key',
    'lock',
    'phone',
  ),
  'icons_unseen': (
    'bookmark',
    'calendar',
    'clock',
    'flag',
    'globe',
    'heart',
    'moon',
    'search',
    'star',
    'sun',
  ),
}
#: Share of the designers behind every split.
SHARES: dict[tuple[str, str], float] = {
  ('icons_train', 'train'): 0.45,
  ('icons_train', 'test'): 0.05,
  ('icons_unseen', 'train'): 0.25,
  ('icons_unseen', 'test'): 0.25,
}
NAMES = tuple(CONCEPTS)
#: What `fetch` calls both together.
FETCH_NAME = 'icons'
_ARRAYS, _ABOUT = 'icons.npz', 'icons.json'


def deal(designers: Sequence[str]) -> dict[str, tuple[str, str]]:
  """Deals designers out to the splits, in the shares of `SHARES`.

  Args:
    designers: their names; order and repeats do not matter.

  Returns:
    `{designer: (data set, split)}`.
  """
  names = sorted(set(designers))
  order = np.random.default_rng(SEED).permutation(len(names))
  ends = np.rint(np.cumsum(list(SHARES.values())) * len(names)).astype(int)
  parts = list(SHARES)
  place = np.searchsorted(ends, np.arange(len(names)), side='right')
  return {names[k]: parts[min(p, len(parts) - 1)] for k, p in zip(order, place)}


def find(roots: Sequence[pathlib.Path]) -> pathlib.Path | None:
  """Returns the first folder with prepared icons, or None."""
  folders = (root / FETCH_NAME for root in roots)
  return next((f for f in folders if (f / _ARRAYS).is_file() and (f / _ABOUT).is_file()), None)


def save(
  folder: pathlib.Path,
  parts: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]],
  about: dict[str, object],
) -> None:
  """Writes the pictures of every split, and what is known about them.

  Args:
    folder: an existing directory.
    parts: `{(data set, split): (u8[n, SIZE, SIZE], i32[n])}`.
    about: JSON-ready, with `'package'`.
  """
  arrays = {}
  for (name, split), (images, labels) in parts.items():
    arrays[f'{name}/{split}/images'], arrays[f'{name}/{split}/labels'] = images, labels
  np.savez_compressed(folder / _ARRAYS, allow_pickle=False, **arrays)
  text = json.dumps({'rules': rules(), **about}, indent=1, sort_keys=True)
  (folder / _ABOUT).write_text(text + '\n', encoding='utf-8')


def rules() -> dict[str, object]:
  """What the prepared files follow; files that follow other rules are made anew."""
  shares = {f'{name}/{split}': share for (name, split), share in SHARES.items()}
  concepts = {name: list(words) for name, words in CONCEPTS.items()}
  return {'size': SIZE, 'seed': SEED, 'concepts': concepts, 'shares': shares}


def about(folder: pathlib.Path) -> dict[str, object]:
  """Reads what was saved about the icons in a folder that `find` returned.

  Raises:
    ValueError: the file is damaged, or the icons follow other rules than this version's.
  """
  path = folder / _ABOUT
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except (json.JSONDecodeError, UnicodeDecodeError) as e:
    raise ValueError(f'{path} is damaged ({e}). {remedy()}') from e
  if found.get('rules') != rules():
    raise ValueError(f'{path}: made by other rules than this version has. {remedy()}')
  return found


def load(name: str, split: str, folder: pathlib.Path) -> dataset_lib.Dataset:
  """Reads prepared icons.

  Args:
    name: one of `NAMES`.
    split: 'train', 'test' or 'all' (train, then test).
    folder: from `find`.

  Returns:
    A `Dataset` of u8 pixels, 64x64x1, the ink white on black.

  Raises:
    ValueError: the files are damaged or follow other rules; the message says what to do.
  """
  if split == 'all':
    return dataset_lib.concatenate([load(name, part, folder) for part in ('train', 'test')])
  package = about(folder)['package']
  try:
    with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
      images, labels = arrays[f'{name}/{split}/images'], arrays[f'{name}/{split}/labels']
  except (OSError, KeyError, ValueError, EOFError) as e:
    raise ValueError(f'{folder / _ARRAYS} is damaged ({e}). {remedy()}') from e
  words = CONCEPTS[name]
  return dataset_lib.Dataset(
    images[..., None], labels, len(words), words, name, split, f'package {package} in {folder}'
  )


def remedy() -> str:
  """Returns the sentence that says how to bring the icons."""
  return f'Bring them with: python -m dapt_jax.data.fetch {FETCH_NAME}.'
