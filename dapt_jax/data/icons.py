"""Icons of ten concepts each, drawn by many designers.

`icons_train` and `icons_unseen` are two data sets of 64x64 that share neither concepts nor
designers. `icons/00`, `icons/01`, ... are a family of data sets of 28x28: no concept is in two of
them, and the designers behind the training splits are not those behind the test splits, in all of
them alike.

This file is the one place that says which concepts belong to which data set and how designers are
dealt out. The pictures are made once, by `python -m dapt_jax.data.fetch icons`; see `icon_sets`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dapt_jax.data import drawn, icon_concepts

#: Of the deal of designers.
SEED = 0
#: What `fetch` calls all of them together.
FETCH_NAME = 'icons'


@dataclasses.dataclass(frozen=True)
class IconCollection(drawn.Collection):
  """Icon data sets that are drawn together.

  Attributes:
    size: edge length of the pictures, in pixels.
    shares: share of the designers behind every split: `'<data set>/<split>'` for one of one data
      set, `'train'` or `'test'` for that split of all of them.
    aliases: `{concept: other names of it}`.
  """

  size: int
  shares: Mapping[str, float]
  aliases: Mapping[str, tuple[str, ...]]

  @property
  def parts(self) -> list[tuple[str, str]]:
    """All pairs of data set and split."""
    return [(name, split) for name in self.names for split in drawn.SPLITS]

  @property
  def home(self) -> dict[str, str]:
    """`{concept: its data set}`."""
    return {word: name for name, words in self.class_names.items() for word in words}

  @property
  def concepts(self) -> dict[str, str]:
    """`{name of an icon, without words of style: its concept}`."""
    return {name: word for word in self.home for name in (word, *self.aliases.get(word, ()))}

  def deal(self, designers: Sequence[str]) -> dict[str, str]:
    """Deals designers out, in the shares of `shares`.

    Args:
      designers: their names; order and repeats do not matter.

    Returns:
      `{designer: a key of shares}`.
    """
    names = sorted(set(designers))
    order = np.random.default_rng(SEED).permutation(len(names))
    ends = np.rint(np.cumsum(list(self.shares.values())) * len(names)).astype(int)
    hands = list(self.shares)
    place = np.searchsorted(ends, np.arange(len(names)), side='right')
    return {names[k]: hands[min(p, len(hands) - 1)] for k, p in zip(order, place)}

  def part(self, name: str, hand: str) -> tuple[str, str] | None:
    """Where a picture goes: the (data set, split), or None for nowhere.

    Args:
      name: the data set of its concept.
      hand: what its designer was dealt, a key of `shares`.
    """
    splits = [split for split in drawn.SPLITS if hand in (split, f'{name}/{split}')]
    return (name, splits[0]) if splits else None


def _collection(
  stem: str,
  concepts: Mapping[str, tuple[str, ...]],
  size: int,
  shares: Mapping[str, float],
  aliases: Mapping[str, tuple[str, ...]],
) -> IconCollection:
  words = {name: list(found) for name, found in concepts.items()}
  rules = {'size': size, 'seed': SEED, 'concepts': words, 'shares': dict(shares)}
  if aliases:
    rules['aliases'] = {word: list(names) for word, names in aliases.items()}
  return IconCollection(FETCH_NAME, stem, concepts, rules, size, shares, aliases)


#: The two data sets of 64x64.
PAIR = _collection(
  'icons',
  icon_concepts.PAIR,
  64,
  {
    'icons_train/train': 0.45,
    'icons_train/test': 0.05,
    'icons_unseen/train': 0.25,
    'icons_unseen/test': 0.25,
  },
  aliases={},
)
#: The family of 28x28.
FAMILY = _collection(
  'family', icon_concepts.FAMILY, 28, {'train': 0.7, 'test': 0.3}, icon_concepts.ALIASES
)
COLLECTIONS = (PAIR, FAMILY)
