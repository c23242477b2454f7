"""Branches that open or close against their logits, where widths alone cannot meet a budget.

A branch with a logit below zero stays closed, because which branches are open is what the search
has found out. But in a network whose cells share one width, a channel more may cost a third of the
budget; then the branches of least certainty open or close.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from dapt_jax.graph import exchange

if TYPE_CHECKING:
  from dapt_jax.graph.selection import Selection

#: Distance to the budget, relative to it, above which branches open or close against their logit.
_FAR = 0.02
#: Branches opened or closed against their logit, and how many of the least certain may be.
_FLIPS, _MOST_FREE = 4, 20
#: Costs evaluated at most while trying such sets, and how often that is done.
_MOST, _ROUNDS = 8000, 4


def until_close(search: Selection) -> None:
  """Flips branches, with exchanges of widths in between, while the budget is far from met."""
  _open_needed(search)
  for _ in range(_ROUNDS):
    if search.gap() <= _FAR or not _flip(search):
      break
    exchange.until_close(search)


def _open_needed(search: Selection) -> None:
  """Opens branches in order of logits where even all widths leave more than flips could spend."""
  start = search.on.copy()
  most, opened = _all_widths(search), 0
  for number in np.flatnonzero(search.branch & ~search.on):
    if most >= (1 - _FAR) * search.limit:
      break
    search.on[number] = True
    with_it = _all_widths(search)
    # Not for nothing, as a pool would be, and not if even the least widths then cost too much.
    if with_it > most and search.fits(search.must | (search.on & search.branch)):
      most, opened = with_it, opened + 1
    else:
      search.on[number] = False
  if opened <= _FLIPS:
    search.on = start
  else:
    _refit_widths(search)


def _flip(search: Selection) -> bool:
  """Opens and closes the branches of least certainty that bring the gap within `_FAR`.

  Sets of up to `_FLIPS` branches are tried in order of the sum of their |logit|, with as many of
  the best widths as fit. Where none leaves so little, the set that leaves the smallest gap is
  taken. False if none makes it smaller.
  """
  start, best, gap = search.on, search.on, search.gap()
  last = search.evaluations + _MOST
  for flips in _sets(search):
    if search.evaluations > last:
      break
    search.on = start.copy()
    search.on[list(flips)] ^= True
    has_paths = all(search.on[numbers].any() for numbers in search.sums())
    if not has_paths or _all_widths(search) < (1 - gap) * search.limit:
      continue
    _refit_widths(search)
    if search.fits(search.on) and search.gap() < gap - 1e-9:
      best, gap = search.on, search.gap()
      if gap <= _FAR:
        break
  search.on = best
  return best is not start


def _sets(search: Selection) -> list[tuple[int, ...]]:
  """Sets of branches to flip, the least certain first."""
  certainty = {n: abs(search.priority[n]) for n in np.flatnonzero(search.branch).tolist()}
  ranked = sorted(certainty, key=lambda n: certainty[n])
  half = _MOST_FREE // 2
  opened, closed = ([n for n in ranked if search.on[n] == on][:half] for on in (True, False))
  free = ranked if len(ranked) <= _MOST_FREE else opened + closed
  sets = [c for size in range(1, _FLIPS + 1) for c in itertools.combinations(free, size)]
  return sorted(sets, key=lambda c: sum(certainty[n] for n in c))


def _all_widths(search: Selection) -> float:
  """Cost of the open branches at full width."""
  return search.cost(search.on | ~search.branch)


def _refit_widths(search: Selection) -> None:
  """Keeps as many widths in order of logits as fit."""
  search.on = search.longest(search.on, np.flatnonzero(~search.must & ~search.branch))[0]
