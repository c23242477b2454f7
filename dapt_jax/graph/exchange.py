"""Exchanges of widths of low logit for others, that bring a selection closer to its budget."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from dapt_jax.graph.selection import Selection

#: Distance to the budget, relative to it, at which exchanges stop.
CLOSE = 0.005
#: Costs evaluated at most.
_MOST = 4000
#: Chunks moved at once.
_STEPS = (1, -1, 2, -2, 3, -3, 4, -4, 6, -6, 8, -8, 12, -12)


def until_close(search: Selection) -> None:
  """Trades chunks of low logit for others while that comes closer to the budget."""
  last = search.evaluations + _MOST
  while search.gap() >= CLOSE and search.evaluations < last:
    if not (_swap(search) or _move(search, last)):
      return


def _swap(search: Selection) -> bool:
  """The pair (one in, one out) that leaves the smallest gap, if it is smaller than now."""
  now = search.cost(search.on)
  ins = [(i, search.cost(_flipped(search, i)) - now) for i in _next(search, ~search.on)]
  outs = [
    (o, now - search.cost(_flipped(search, o))) for o in _next(search, search.on & ~search.must, -1)
  ]
  free = search.limit - now
  pairs = [
    (free - (plus - minus), i, o)
    for i, plus in ins
    for o, minus in outs
    if 0 < plus - minus <= free and search.kind[i] != search.kind[o]
  ]
  # Costs of two flips do not quite add up: try the best few.
  return any(_accept(search, _flipped(search, i, o)) for _, i, o in sorted(pairs)[:3])


def _move(search: Selection, last: int) -> bool:
  """A few chunks of one kind in (or out) against as many of another as it takes."""
  best, best_cost = search.on, search.cost(search.on)
  kinds = np.unique(search.kind[~search.branch]).tolist()
  for step, one in itertools.product(_STEPS, kinds):
    start = _stepped(search, one, step)
    if start is None or search.evaluations > last:
      continue
    for other in kinds:
      if other == one:
        continue
      on = _balanced(search, start, other)
      cost = search.cost(on)
      if best_cost < cost <= search.limit:
        best, best_cost = on, cost
        if cost > (1 - CLOSE) * search.limit:
          return _accept(search, best)
  return _accept(search, best)


def _stepped(search: Selection, kind: int, step: int) -> np.ndarray | None:
  """The set with `step` more (or fewer) chunks of a kind, None if there are not so many."""
  mine = search.kind == kind
  numbers = np.flatnonzero(mine & ~search.on if step > 0 else mine & search.on & ~search.must)
  if len(numbers) < abs(step):
    return None
  return _flipped(search, *(numbers[:step] if step > 0 else numbers[step:]).tolist())


def _balanced(search: Selection, start: np.ndarray, kind: int) -> np.ndarray:
  """`start` with as many chunks of a kind as fit (with the fewest, if even those do not)."""
  return search.longest(start, np.flatnonzero((search.kind == kind) & ~search.must))[0]


def _accept(search: Selection, on: np.ndarray) -> bool:
  better = search.cost(search.on) < search.cost(on) <= search.limit
  if better:
    search.on = on
  return better


def _flipped(search: Selection, *numbers: int) -> np.ndarray:
  on = search.on.copy()
  on[list(numbers)] ^= True
  return on


def _next(search: Selection, among: np.ndarray, step: int = 1) -> Sequence[int]:
  """Of every kind the first (step 1) or last (step -1) chunk among these."""
  numbers = np.flatnonzero(among & ~search.branch)[::step]
  first = np.unique(search.kind[numbers], return_index=True)[1]
  return numbers[np.sort(first)].tolist()
