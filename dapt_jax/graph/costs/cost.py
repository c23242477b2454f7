"""Parameters, MACs and bytes moved as differentiable functions of the gates.

A cost is a sum of products: every contraction contributes (live inputs) x (live outputs) x (the
rest) x (liveness of its branch), every parameter array the product of its live axes. Units that
are measured stand beside them.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from dapt_jax.graph.costs import liveness
from dapt_jax.types import Gates

#: All units of cost; 'latency' is there once `calibrate` has measured it.
UNITS = ('macs', 'params', 'bytes', 'latency')


class Measured(Protocol):
  """A unit that is no sum of products, e.g. `latency.LatencyModel`."""

  def absolute(self, gates: Mapping[str, Any], xp: Any) -> Any:
    """Cost at these gates; `xp` is `jax.numpy` (differentiable) or `numpy`."""


@dataclasses.dataclass(frozen=True)
class Count:
  """Live positions of an axis: base + sum over groups of parts . gates.

  Attributes:
    base: positions that always live.
    parts: {group: f64[width], positions per gate}.
  """

  base: float
  parts: Mapping[str, np.ndarray]

  @property
  def size(self) -> float:
    """Positions when everything is open."""
    return self.base + sum(float(p.sum()) for p in self.parts.values())

  def key(self) -> tuple[Any, ...]:
    """Equal for counts that are equal at all gates."""
    return (self.base, *((n, p.tobytes()) for n, p in sorted(self.parts.items())))

  def evaluate(self, gates: Mapping[str, Any], xp: Any) -> Any:
    """Live positions at these gates."""
    parts = [xp.dot(p, gates[n]) if n in gates else float(p.sum()) for n, p in self.parts.items()]
    return self.base + sum(parts)


@dataclasses.dataclass(frozen=True)
class Links:
  """A kernel whose single entries may be gated.

  Attributes:
    group: name of the link group.
    shape: shape of the kernel.
    axes: per axis [(channel group, positions, gates)]; positions not listed always live.
  """

  group: str
  shape: tuple[int, ...]
  axes: tuple[tuple[tuple[str, np.ndarray, np.ndarray], ...], ...]

  def evaluate(self, gates: Mapping[str, Any], xp: Any) -> Any:
    """Live entries: gated link by link, and by the channels on every axis."""
    live = gates[self.group].reshape(self.shape)
    for number, pieces in enumerate(self.axes):
      vector = xp.ones(self.shape[number])
      for name, positions, index in pieces:
        if name in gates:
          spread = np.zeros((len(index), self.shape[number]))
          spread[np.arange(len(index)), positions] = 1.0
          vector = vector + xp.dot(gates[name][index] - 1.0, spread)
      live = live * vector.reshape([-1 if i == number else 1 for i in range(len(self.shape))])
    return live.sum()


@dataclasses.dataclass(frozen=True)
class Term:
  """One product of the cost.

  Attributes:
    name: what it counts, for tables.
    counts: live positions of the axes beside the kernel's.
    kernel: live positions of the kernel's axes.
    alive: number of its liveness expression.
    links: set where the entries of the kernel may be gated.
  """

  name: str
  counts: tuple[Count, ...]
  kernel: tuple[Count, ...]
  alive: int
  links: Links | None = None


@dataclasses.dataclass(frozen=True)
class _Product:
  """A factor, the numbers of the counts it multiplies, its liveness, and links or None."""

  factor: float
  counts: tuple[int, ...]
  alive: int
  links: Links | None


class CostModel:
  """Costs of a graph.

  Attributes:
    terms: {unit: the terms of its sum}.
    live: liveness of the values of the program.
    measured: {unit: model of a unit that is no sum of terms}.
  """

  def __init__(self, terms: dict[str, list[Term]], live: liveness.Liveness) -> None:
    self.terms = terms
    self.live = live
    self.measured: dict[str, Measured] = {}
    self._counts: list[Count] = []
    self._numbers: dict[Any, int] = {}
    gated = {t.links.group for ts in terms.values() for t in ts if t.links is not None}
    self._products = {
      (unit, links): _compact([self._product(t, links) for t in ts])
      for unit, ts in terms.items()
      for links in ((False, True) if gated else (False,))
    }
    self._totals = dict.fromkeys(terms, 0.0)
    self._totals.update({unit: float(self.absolute({}, unit, np)) for unit in terms})

  @property
  def units(self) -> tuple[str, ...]:
    """The units of cost that are there."""
    return tuple(self._totals)

  def with_unit(self, unit: str, model: Measured) -> CostModel:
    """A copy with another unit."""
    out = copy.copy(self)
    out.measured = {**self.measured, unit: model}
    out._totals = {**self._totals, unit: float(model.absolute({}, np))}
    return out

  def check(self, unit: str) -> None:
    """Raises ValueError for a unit that is not there."""
    if not isinstance(unit, str):
      raise ValueError(f'unit is {unit!r}; allowed are {list(UNITS)}')
    if unit == 'latency' and unit not in self._totals:
      raise ValueError(
        "unit is 'latency', but this graph has not been timed: call "
        'graph = graph.calibrate(batch=64) first'
      )
    if unit not in self._totals:
      raise ValueError(f'unit is {unit!r}; allowed are {list(UNITS)}')

  def _product(self, term: Term, links: bool) -> _Product:
    own = links and term.links is not None
    counts = term.counts if own else (*term.counts, *term.kernel)
    factor = math.prod(c.base for c in counts if not c.parts)
    numbers = sorted(self._number(c) for c in counts if c.parts)
    return _Product(factor, tuple(numbers), term.alive, term.links if own else None)

  def _number(self, count: Count) -> int:
    number = self._numbers.setdefault(count.key(), len(self._counts))
    if number == len(self._counts):
      self._counts.append(count)
    return number

  def absolute(self, gates: Mapping[str, Any], unit: str, xp: Any = jnp) -> Any:
    """Cost at these gates: MACs, parameters, bytes or seconds.

    Args:
      gates: `{group: [width]}`; groups left out count as open.
      unit: one of `UNITS`.
      xp: `jax.numpy` (differentiable) or `numpy` (float64, exact for binary gates).
    """
    if xp is np:
      gates = {n: np.asarray(g, np.float64) for n, g in gates.items()}
    self.check(unit)
    if unit in self.measured:
      return self.measured[unit].absolute(gates, xp)
    alive = self.live.evaluate(gates)
    links = any(n.startswith('link:') for n in gates)
    products = self._products.get((unit, links), self._products[unit, False])
    used = {c for p in products for c in p.counts}
    values = {c: self._counts[c].evaluate(gates, xp) for c in used}
    total = 0.0
    for product in products:
      live = alive[product.alive]
      if isinstance(live, float) and live == 0.0:
        continue
      size = math.prod([values[c] for c in product.counts])
      if product.links is not None and product.links.group in gates:
        size = size * product.links.evaluate(gates, xp)
      elif product.links is not None:
        size = size * math.prod(product.links.shape)
      total = total + live * product.factor * size
    return total

  def share(self, gates: Gates, unit: str) -> Any:
    """Cost over the whole network's cost, f32[]."""
    return jnp.asarray(self.absolute(gates, unit) / self.total(unit), jnp.float32)

  def total(self, unit: str) -> float:
    """Cost of the whole network."""
    self.check(unit)
    return self._totals[unit]


def _compact(products: Sequence[_Product]) -> list[_Product]:
  """Adds up the factors of products that are equal otherwise."""
  factors: dict[Any, float] = {}
  out = []
  for product in products:
    if product.links is not None:
      out.append(product)
      continue
    key = (product.counts, product.alive)
    factors[key] = factors.get(key, 0.0) + product.factor
  return out + [_Product(f, counts, alive, None) for (counts, alive), f in factors.items()]
