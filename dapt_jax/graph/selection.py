"""Which gates stay under a budget: the best logits that it buys.

Gates move in chunks of `round_to` channels that occur on the same axes, so that every axis keeps a
multiple of it. Taken are the longest run of chunks in decreasing logit that fits, then the chunks
behind it that still fit, then exchanges (see `exchange`) until the budget is nearly met. What is
left of a budget is spent on widths: a branch with a logit below zero stays closed, because which
branches are open is what the search has found out. Only where widths cannot meet the budget
(`_FAR`; in a network whose cells share one width, a channel more may cost a third of it), the
branches of least certainty open or close against their logits.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dapt_jax.graph import choice, chunks, exchange, groups

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph

#: Distance to the budget, relative to it, above which branches open or close against their logit.
_FAR = 0.02
#: Branches opened or closed against their logit, and how many of the least certain may be.
_FLIPS, _MOST_FREE = 4, 20
#: Costs evaluated at most while trying such sets, and how often that is done.
_MOST, _ROUNDS = 8000, 4


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a decision must keep to; see `decide.decide`."""

  budget: float
  unit: str
  round_to: int | Mapping[str, int]
  min_width: int | Mapping[str, int]
  max_cut: float | Mapping[str, float]
  keep_branches: bool

  def chunk(self, name: str) -> int:
    """Channels of this group that stay or go together."""
    return choice.value_for(self.round_to, name, 1)

  def least(self, name: str, size: int) -> int:
    """Channels that an axis of `size` positions of this group keeps at least."""
    share = 1.0 - choice.value_for(self.max_cut, name, 1.0)
    wanted = max(choice.value_for(self.min_width, name, 1), math.ceil(share * size - 1e-9))
    return min(wanted, size)


def within_budget(
  graph: ChannelGraph,
  logits: Mapping[str, np.ndarray],
  alive: Mapping[str, np.ndarray],
  limits: Limits,
) -> dict[str, np.ndarray]:
  """Spends a budget on the best logits, `{group: f32[width] of 0 and 1}`.

  Gates that are not `alive`, `{group: bool[width]}`, stay closed.

  Raises:
    ValueError: if even the cheapest network with a path through every layer costs more.
  """
  search = Selection(graph, logits, alive, limits)
  search.require()
  search.fill(np.flatnonzero(~search.on & ~search.closed))
  exchange.until_close(search)
  if not limits.keep_branches:
    search.open_needed()
    for _ in range(_ROUNDS):
      if search.gap() <= _FAR or not search.flip_branches():
        break
      exchange.until_close(search)
  return search.gates(search.on)


class Selection:
  """A set of chunks, `on`, whose cost stays within the budget."""

  def __init__(
    self,
    graph: ChannelGraph,
    logits: Mapping[str, np.ndarray],
    alive: Mapping[str, np.ndarray],
    limits: Limits,
  ) -> None:
    self.graph = graph
    self.limits = limits
    self.limit = limits.budget * graph.total(limits.unit) * (1 + 1e-9)
    names = list(logits)
    found = [chunks.of_group(logits[n], alive[n], graph.groups[n], limits.chunk(n)) for n in names]
    sizes = [len(c.priority) for c in found]
    owner = np.repeat(np.arange(len(names)), sizes)
    priority = np.concatenate([c.priority for c in found])
    best = np.argsort(-priority, kind='stable')
    rank = np.append(np.argsort(best, kind='stable'), len(best))
    # Gates that are not alive have a number behind the last chunk, which no set contains.
    self.chunk_of = {
      n: np.where(c.of_gate < 0, len(best), rank[c.of_gate + end - size])
      for n, c, size, end in zip(names, found, sizes, np.cumsum(sizes))
    }
    self.priority = priority[best]
    kinds: dict[tuple[int, int], int] = {}
    pairs = zip(owner[best].tolist(), np.concatenate([c.kind for c in found])[best].tolist())
    self.kind = np.array([kinds.setdefault(pair, len(kinds)) for pair in pairs], int)
    of_branch = np.array([graph.groups[n].kind == 'branch' for n in names], bool)
    self.branch = branch = of_branch[owner[best]]
    self.closed = branch & (self.priority <= 0)
    self.on = np.zeros(len(best), bool)
    self.must = branch & ~self.closed if limits.keep_branches else self.on.copy()
    self.evaluations = 0

  def gates(self, on: np.ndarray) -> dict[str, np.ndarray]:
    """Binary gates of a set of chunks."""
    padded = np.append(on, False).astype(np.float32)
    return {n: padded[c] for n, c in self.chunk_of.items()}

  def cost(self, on: np.ndarray) -> float:
    """Cost of a set of chunks."""
    self.evaluations += 1
    return float(self.graph.cost_model.absolute(self.gates(on), self.limits.unit, np))

  def gap(self) -> float:
    """What is left, as a share of the budget."""
    return 1.0 - self.cost(self.on) / self.limit

  def require(self) -> None:
    """Turns on what must stay: a summand of every sum, `min_width` channels on every axis."""
    for name in self.chunk_of:
      group = self.graph.groups[name]
      if group.kind not in ('branch', 'link'):
        self._require_width(group)
    wanted = self.must.copy()
    self.must |= self._require_summands(cheapest=False)
    if self.cost(self.must) > self.limit:
      self.must = wanted
      self.must |= self._require_summands(cheapest=True)
    least = self.cost(self.must)
    if least > self.limit:
      unit = self.limits.unit
      raise ValueError(
        f'budget is {self.limits.budget} of the {unit}, but the cheapest network that leaves a '
        f'path through every layer takes {least / self.graph.total(unit):.4f}; most of it is '
        f'{self._dearest()!r}: raise the budget or max_cut, lower min_width or round_to, '
        'or gate more levels'
      )
    self.on = self.must.copy()

  def _require_width(self, group: groups.Group) -> None:
    for layer in group.layers:
      least = self.limits.least(group.name, len(layer))
      numbers = self._living(self.chunk_of[group.name][layer])
      for number in sorted(set(numbers.tolist())):
        if self.must[numbers].sum() >= least:
          break
        self.must[number] = True

  def _living(self, numbers: np.ndarray) -> np.ndarray:
    return numbers[numbers < len(self.on)]

  def _require_summands(self, cheapest: bool) -> np.ndarray:
    out = np.zeros_like(self.must)
    for names, is_open in zip(self.graph.sums, self.graph.open_sums):
      if is_open or any(n not in self.chunk_of for n in names):
        continue
      numbers = self._summands(names)
      if not numbers or self.must[numbers].any():
        continue
      price = lambda i: self.cost(self.must | out | (np.arange(len(self.on)) == i))
      out[min(numbers, key=price) if cheapest else min(numbers)] = True
    return out

  def _summands(self, names: Sequence[str]) -> list[int]:
    """Chunks of the summands that may stay; none where the whole sum has been cut."""
    return self._living(np.concatenate([self.chunk_of[n] for n in names])).tolist()

  def _dearest(self) -> str:
    """The group whose least width takes the most of the least cost."""
    saved = {}
    for name, numbers in self.chunk_of.items():
      without = self.must.copy()
      without[self._living(numbers)] = False
      saved[name] = self.cost(without)
    return min(saved, key=lambda n: saved[n]) if saved else 'what no gate can remove'

  def fill(self, candidates: np.ndarray) -> None:
    """Adds candidates in order; a kind of which one does not fit is left alone from there on."""
    while len(candidates):
      self.on, count = self.longest(self.on, candidates)
      if count == len(candidates) or self.gap() < exchange.CLOSE:
        return
      rest = candidates[count + 1 :]
      candidates = rest[self.kind[rest] != self.kind[candidates[count]]]

  def open_needed(self) -> None:
    """Opens branches in order of logits where even all widths leave more than flips could spend."""
    start = self.on.copy()
    most, opened = self._all_widths(), 0
    for number in np.flatnonzero(self.branch & ~self.on):
      if most >= (1 - _FAR) * self.limit:
        break
      self.on[number] = True
      with_it = self._all_widths()
      # Not for nothing, as a pool would be, and not if even the least widths then cost too much.
      if with_it > most and self.fits(self.must | (self.on & self.branch)):
        most, opened = with_it, opened + 1
      else:
        self.on[number] = False
    if opened <= _FLIPS:
      self.on = start
    else:
      self._refit_widths()

  def _all_widths(self) -> float:
    """Cost of the open branches at full width."""
    return self.cost(self.on | ~self.branch)

  def flip_branches(self) -> bool:
    """Opens and closes the branches of least certainty that bring the gap within `_FAR`.

    Sets of up to `_FLIPS` branches are tried in order of the sum of their |logit|, with as many of
    the best widths as fit. Where none leaves so little, the set that leaves the smallest gap is
    taken. False if none makes it smaller.
    """
    start, best, gap = self.on, self.on, self.gap()
    certainty = {n: abs(self.priority[n]) for n in np.flatnonzero(self.branch).tolist()}
    ranked = sorted(certainty, key=lambda n: certainty[n])
    some = [[n for n in ranked if start[n] == is_on][: _MOST_FREE // 2] for is_on in (True, False)]
    free = ranked if len(ranked) <= _MOST_FREE else some[0] + some[1]
    sets = [c for size in range(1, _FLIPS + 1) for c in itertools.combinations(free, size)]
    last = self.evaluations + _MOST
    for flips in sorted(sets, key=lambda c: sum(certainty[n] for n in c)):
      if self.evaluations > last:
        break
      self.on = start.copy()
      self.on[list(flips)] ^= True
      if not self._has_paths() or self._all_widths() < (1 - gap) * self.limit:
        continue
      self._refit_widths()
      if self.fits(self.on) and self.gap() < gap - 1e-9:
        best, gap = self.on, self.gap()
        if gap <= _FAR:
          break
    self.on = best
    return best is not start

  def fits(self, on: np.ndarray) -> bool:
    """Whether a set of chunks stays within the budget."""
    return self.cost(on) <= self.limit

  def _has_paths(self) -> bool:
    """Whether every sum keeps a summand."""
    for names, is_open in zip(self.graph.sums, self.graph.open_sums):
      if is_open or any(n not in self.chunk_of for n in names):
        continue
      numbers = self._summands(names)
      if numbers and not self.on[numbers].any():
        return False
    return True

  def longest(self, start: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, int]:
    """`start` with as many of these chunks as fit, in order, without the others; how many fit."""

    def first(count: int) -> np.ndarray:
      on = start.copy()
      on[numbers] = np.arange(len(numbers)) < count
      return on

    low, high = 0, len(numbers)
    while low < high:
      middle = (low + high + 1) // 2
      low, high = (middle, high) if self.fits(first(middle)) else (low, middle - 1)
    return first(low), low

  def _refit_widths(self) -> None:
    """Keeps as many widths in order of logits as fit."""
    self.on = self.longest(self.on, np.flatnonzero(~self.must & ~self.branch))[0]
