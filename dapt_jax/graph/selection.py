"""Which gates stay under a budget: the best logits that it buys.

Gates move in chunks of `round_to` channels that occur on the same axes, so that every axis keeps a
multiple of it. Taken are the longest run of chunks in decreasing logit that fits, then the
chunks behind it that still fit, then exchanges until the budget is met within `_CLOSE`. What is
left of a budget is spent on widths: a branch with a logit below zero stays closed, because which
branches are open is what the search has found out. Only where widths cannot spend the budget
(`_FAR`), such branches open after all, one at a time and as few as it takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dapt_jax.graph import chunks, groups

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph

#: Distance to the budget, relative to it, at which exchanges stop.
_CLOSE = 0.005
#: Distance above which branches of a logit below zero open.
_FAR = 0.02
#: Costs evaluated at most while exchanging.
_MOST = 4000
#: Chunks moved at once.
_STEPS = (1, -1, 2, -2, 3, -3, 4, -4, 6, -6, 8, -8, 12, -12)


def within_budget(
  graph: ChannelGraph,
  logits: Mapping[str, np.ndarray],
  budget: float,
  unit: str,
  round_to: int,
  min_width: int,
) -> dict[str, np.ndarray]:
  """Spends a budget on the best logits, `{group: f32[width] of 0 and 1}`.

  Raises:
    ValueError: if even the cheapest network with a path through every layer costs more.
  """
  search = _Search(graph, logits, budget, unit, round_to, min_width)
  search.require()
  search.fill(np.flatnonzero(~search.on & ~search.closed))
  search.exchange()
  while search.gap() > _FAR and search.open_one():
    search.exchange()
  if search.gap() > _FAR:  # exchange open branches for others, too
    search.fixed, search.evaluations = set(), 0
    search.fill(np.flatnonzero(~search.on & ~search.closed))
    search.exchange()
  return search.gates(search.on)


class _Search:
  """A set of chunks, `on`, whose cost stays within the budget."""

  def __init__(
    self,
    graph: ChannelGraph,
    logits: Mapping[str, np.ndarray],
    budget: float,
    unit: str,
    round_to: int,
    min_width: int,
  ) -> None:
    self.graph = graph
    self.unit = unit
    self.budget = budget
    self.limit = budget * graph.total(unit) * (1 + 1e-9)
    self.min_width = min_width
    found = [c for n, t in logits.items() for c in chunks.of_group(t, graph.groups[n], round_to)]
    self.chunks = sorted(found, key=lambda c: -c.priority)
    kinds: dict[tuple[str, int], int] = {}
    self.kind = np.array([kinds.setdefault(c.kind, len(kinds)) for c in self.chunks], int)
    self.chunk_of = {n: np.zeros(len(t), int) for n, t in logits.items()}
    for number, chunk in enumerate(self.chunks):
      self.chunk_of[chunk.group][chunk.index] = number
    branch = np.array([graph.groups[c.group].kind == 'branch' for c in self.chunks], bool)
    self.branch = branch
    self.closed = branch & np.array([c.priority <= 0 for c in self.chunks], bool)
    self.fixed = set(self.kind[branch].tolist())
    self.on = np.zeros(len(self.chunks), bool)
    self.must = self.on.copy()
    self.evaluations = 0

  def gates(self, on: np.ndarray) -> dict[str, np.ndarray]:
    """Binary gates of a set of chunks."""
    return {n: on[c].astype(np.float32) for n, c in self.chunk_of.items()}

  def cost(self, on: np.ndarray) -> float:
    """Cost of a set of chunks."""
    self.evaluations += 1
    return float(self.graph.cost_model.absolute(self.gates(on), self.unit, np))

  def gap(self) -> float:
    """What is left, as a share of the budget."""
    return 1.0 - self.cost(self.on) / self.limit

  def require(self) -> None:
    """Turns on what must stay: a summand of every sum, `min_width` channels on every axis."""
    for name in self.chunk_of:
      group = self.graph.groups[name]
      if group.kind not in ('branch', 'link'):
        self._require_width(group)
    best = self._require_summands(cheapest=False)
    self.must |= best
    if self.cost(self.must) > self.limit:
      self.must &= ~best
      self.must |= self._require_summands(cheapest=True)
    least = self.cost(self.must)
    if least > self.limit:
      raise ValueError(
        f'budget is {self.budget} of the {self.unit}, but the cheapest network that leaves a path '
        f'through every layer takes {least / self.graph.total(self.unit):.4f}; most of it is '
        f'{self._dearest()!r}: raise the budget, lower min_width or round_to, or gate more levels'
      )
    self.on = self.must.copy()

  def _require_width(self, group: groups.Group) -> None:
    numbers = self.chunk_of[group.name]
    for layer in group.layers:
      for number in sorted(set(numbers[layer].tolist())):
        if self.must[numbers[layer]].sum() >= min(self.min_width, len(layer)):
          break
        self.must[number] = True

  def _require_summands(self, cheapest: bool) -> np.ndarray:
    out = np.zeros_like(self.must)
    for names, is_open in zip(self.graph.sums, self.graph.open_sums):
      if is_open or any(n not in self.chunk_of for n in names):
        continue
      numbers = [int(self.chunk_of[n][0]) for n in names]
      price = lambda i: self.cost(self.must | out | (np.arange(len(self.on)) == i))
      out[min(numbers, key=price) if cheapest else min(numbers)] = True
    return out

  def _dearest(self) -> str:
    """The group whose least width takes the most of the least cost."""
    saved = {}
    for name, numbers in self.chunk_of.items():
      without = self.must.copy()
      without[numbers] = False
      saved[name] = self.cost(without)
    return min(saved, key=lambda n: saved[n]) if saved else 'what no gate can remove'

  def fill(self, candidates: np.ndarray) -> None:
    """Adds candidates in order; a kind of which one does not fit is left alone from there on."""
    while len(candidates):
      low, high = 0, len(candidates)
      while low < high:
        middle = (low + high + 1) // 2
        on = self.on.copy()
        on[candidates[:middle]] = True
        low, high = (middle, high) if self.cost(on) <= self.limit else (low, middle - 1)
      self.on[candidates[:low]] = True
      if low == len(candidates) or self.gap() < _CLOSE:
        return
      rest = candidates[low + 1 :]
      candidates = rest[self.kind[rest] != self.kind[candidates[low]]]

  def open_one(self) -> bool:
    """Opens one more branch, the first in order of logits that leaves the gap within `_FAR`.

    Branches with a logit above zero come first, then those for which no width has to go. Where
    none leaves so little, the one that leaves the smallest gap is opened. False if none makes it
    smaller.
    """
    start, gap = self.on, self.gap()
    best = start
    wanted, others = self.branch & ~self.closed & ~start, self.closed & ~start
    trials = [(n, self._shrink_to_fit) for n in np.flatnonzero(wanted)]
    trials += [(n, self._fits) for n in np.flatnonzero(others)]
    trials += [(n, self._shrink_to_fit) for n in np.flatnonzero(others)]
    for number, fit in trials:
      self.on = start.copy()
      self.on[number] = True
      if fit() and self.gap() < gap - 1e-9:
        best, gap = self.on, self.gap()
        if gap <= _FAR:
          break
    self.on = best
    return best is not start

  def _fits(self) -> bool:
    return self.cost(self.on) <= self.limit

  def _shrink_to_fit(self) -> bool:
    """Closes widths of the lowest logits until the cost fits; False if it cannot."""
    widths = np.flatnonzero(self.on & ~self.must & ~np.isin(self.kind, list(self.fixed)))
    low, high = 0, len(widths)
    while low < high:
      middle = (low + high) // 2
      on = self.on.copy()
      on[widths[len(widths) - middle :]] = False
      low, high = (low, middle) if self.cost(on) <= self.limit else (middle + 1, high)
    self.on[widths[len(widths) - low :]] = False
    return self._fits()

  def exchange(self) -> None:
    """Trades chunks of low logit for others while that comes closer to the budget."""
    while self.gap() >= _CLOSE and self.evaluations < _MOST:
      if not (self._swap() or self._move()):
        return

  def _swap(self) -> bool:
    """The pair (one in, one out) that leaves the smallest gap, if it is smaller than now."""
    now = self.cost(self.on)
    ins = [(i, self.cost(self._flipped(i)) - now) for i in self._next(~self.on)]
    outs = [(o, now - self.cost(self._flipped(o))) for o in self._next(self.on & ~self.must, -1)]
    free = self.limit - now
    pairs = [
      (free - (plus - minus), i, o)
      for i, plus in ins
      for o, minus in outs
      if 0 < plus - minus <= free and self.kind[i] != self.kind[o]
    ]
    # Costs of two flips do not quite add up: try the best few.
    return any(self._accept(self._flipped(i, o)) for _, i, o in sorted(pairs)[:3])

  def _move(self) -> bool:
    """A few chunks of one kind in (or out) against as many of another as it takes."""
    best, best_cost = self.on, self.cost(self.on)
    kinds = [k for k in range(int(self.kind.max(initial=-1)) + 1) if k not in self.fixed]
    for step, one in itertools.product(_STEPS, kinds):
      start = self._stepped(one, step)
      if start is None or self.evaluations > _MOST:
        continue
      for other in kinds:
        if other == one:
          continue
        on = self._balanced(start, other)
        cost = self.cost(on)
        if best_cost < cost <= self.limit:
          best, best_cost = on, cost
          if cost > (1 - _CLOSE) * self.limit:
            return self._accept(best)
    return self._accept(best)

  def _stepped(self, kind: int, step: int) -> np.ndarray | None:
    """The set with `step` more (or fewer) chunks of a kind, None if there are not so many."""
    mine = self.kind == kind
    numbers = np.flatnonzero(mine & ~self.on if step > 0 else mine & self.on & ~self.must)
    if len(numbers) < abs(step):
      return None
    return self._flipped(*(numbers[:step] if step > 0 else numbers[step:]).tolist())

  def _balanced(self, start: np.ndarray, kind: int) -> np.ndarray:
    """`start` with as many chunks of a kind as fit (with the fewest, if even those do not)."""
    numbers = np.flatnonzero((self.kind == kind) & ~self.must)
    low, high = 0, len(numbers)
    while low < high:
      middle = (low + high + 1) // 2
      fits = self.cost(_with(start, numbers, middle)) <= self.limit
      low, high = (middle, high) if fits else (low, middle - 1)
    return _with(start, numbers, low)

  def _accept(self, on: np.ndarray) -> bool:
    better = self.cost(self.on) < self.cost(on) <= self.limit
    if better:
      self.on = on
    return better

  def _flipped(self, *numbers: int) -> np.ndarray:
    on = self.on.copy()
    on[list(numbers)] ^= True
    return on

  def _next(self, among: np.ndarray, step: int = 1) -> Sequence[int]:
    """Of every kind the first (step 1) or last (step -1) chunk among these."""
    numbers = np.flatnonzero(among & ~np.isin(self.kind, list(self.fixed)))[::step]
    first = np.unique(self.kind[numbers], return_index=True)[1]
    return numbers[np.sort(first)].tolist()


def _with(on: np.ndarray, numbers: np.ndarray, count: int) -> np.ndarray:
  """The set with the first `count` of these chunks and without the others."""
  out = on.copy()
  out[numbers] = np.arange(len(numbers)) < count
  return out
