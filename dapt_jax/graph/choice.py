"""Which groups carry gates, and which share theirs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import checks, groups

#: A regular expression that is searched for in the name of a group, or a predicate on names.
Pattern = str | Callable[[str], bool]
_T = TypeVar('_T')


def matches(pattern: Pattern | None, name: str, otherwise: bool) -> bool:
  """Whether a pattern matches a name; `otherwise` where there is no pattern."""
  if pattern is None:
    return otherwise
  return bool(pattern(name)) if callable(pattern) else re.search(pattern, name) is not None


def value_for(values: _T | Mapping[str, _T], name: str, default: _T) -> _T:
  """What a setting says for a group: one value for all, or {regular expression: value}.

  The first expression found in the name counts; `default` where there is none.
  """
  if not isinstance(values, Mapping):
    return values
  return next((v for pattern, v in values.items() if re.search(pattern, name)), default)


@dataclasses.dataclass(frozen=True)
class Choice:
  """Which groups carry gates, and which share theirs.

  Attributes:
    select: only groups with such names carry gates; None selects all.
    ignore: groups with such names stay whole, even if selected.
    tie: regular expression of what repeats in names ('_block[0-9]+'): groups of equal width whose
      names are equal without it share one decision. Branches are not tied.
  """

  select: Pattern | None = None
  ignore: Pattern | None = None
  tie: str | None = None

  def __post_init__(self) -> None:
    for field in ('select', 'ignore', 'tie'):
      pattern = getattr(self, field)
      if pattern is not None and (field == 'tie' or not callable(pattern)):
        checks.expression(pattern, field)

  def takes(self, name: str) -> bool:
    """Whether the group of this name carries gates."""
    return matches(self.select, name, True) and not matches(self.ignore, name, False)

  def join(
    self,
    analysis: analysis_lib.Analysis,
    found: Sequence[groups.Group],
    members: groups.Members,
  ) -> bool:
    """Ties the labels of groups that repeat; whether there are any."""
    if self.tie is None:
      return False
    alike: dict[tuple[str, int, str], list[int]] = {}
    for number, group in enumerate(found):
      if not group.refused and self.takes(group.name):
        key = (re.sub(self.tie, '', group.name), group.width, group.kind)
        alike.setdefault(key, []).append(number)
    sets = [s for s in alike.values() if len(s) > 1]
    for numbers in sets:
      first, *others = (_representatives(members, n, found[n].width) for n in numbers)
      for other in others:
        analysis.space.unify(first, other)
    return bool(sets)


def _representatives(members: groups.Members, number: int, width: int) -> np.ndarray:
  """One label of every gate of a group."""
  out = np.zeros(width, np.int64)
  own = np.flatnonzero(members.owner == number)
  out[members.gate[own]] = own
  return out
