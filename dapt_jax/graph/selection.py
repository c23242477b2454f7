"""Which gates stay under a budget: the best logits that it buys.

Gates move in chunks of `round_to` channels that occur on the same axes, so that every axis keeps a
multiple of it. Taken are the longest run of chunks in decreasing logit that fits, then the chunks
behind it that still fit, then exchanges (see `exchange`) until the budget is nearly met. What is
left of a budget is spent on widths; branches open or close against their logits only where widths
cannot meet it (see `flips`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from dapt_jax.graph import choice, chunks, exchange, flips, groups

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph


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
    flips.until_close(search)
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
    for numbers in self.sums():
      if self.must[numbers].any():
        continue
      price = lambda i: self.cost(self.must | out | (np.arange(len(self.on)) == i))
      out[min(numbers, key=price) if cheapest else min(numbers)] = True
    return out

  def sums(self) -> Iterator[list[int]]:
    """Of every sum that needs a summand to stay, the chunks of those that may."""
    for names, is_open in zip(self.graph.sums, self.graph.open_sums):
      if not is_open and all(n in self.chunk_of for n in names):
        numbers = self._living(np.concatenate([self.chunk_of[n] for n in names])).tolist()
        if numbers:  # none where the whole sum has been cut
          yield numbers

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

  def fits(self, on: np.ndarray) -> bool:
    """Whether a set of chunks stays within the budget."""
    return self.cost(on) <= self.limit

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
