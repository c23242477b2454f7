"""Seconds of a network as a differentiable function of its gates, interpolated from measured ones.

The time of a network is modelled as a sum over its layers (Cai et al., 2019, build such tables),
here with the layers' time as a function of their live widths:

  scale * sum of layers + per_byte * bytes moved + per_layer * living layers + constant

`calibrate` measures the tables of the layers and fits the four numbers. Processors like widths that
fill their vectors: a layer of nine channels may take longer than one of sixteen. So every axis of a
table has two sets of knots, multiples of 8 and other widths; each set is interpolated on its own,
and a width within one channel of a multiple of 8 blends the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from dapt_jax.graph import cost

#: Channels that fill a vector, in float32 on common processors.
VECTOR = 8


@dataclasses.dataclass(frozen=True)
class Knots:
  """Widths of one axis at which a layer is timed.

  Attributes:
    even: multiples of `VECTOR`, increasing.
    odd: other widths, increasing.
  """

  even: tuple[int, ...]
  odd: tuple[int, ...]

  @classmethod
  def of(cls, size: int) -> Knots:
    """At most six knots from 1 to the size of an axis, the size included."""
    most = size // VECTOR
    even = {VECTOR * n for n in (1, round(most / 2), most) if 0 < n <= most}
    odd = {1, max(1, round(size / 3))}
    odd.add(size - 1 if size % VECTOR == 0 else size)
    return cls(tuple(sorted(even)), tuple(sorted(n + (n % VECTOR == 0) for n in odd)))

  @property
  def widths(self) -> tuple[int, ...]:
    """All knots, in the order of the rows or columns of a table."""
    return (*self.even, *self.odd)

  def weights(self, width: Any, xp: Any) -> Any:
    """How much each knot counts at a width (a scalar, any real number), [knots].

    Exact at every knot; nothing counts at width 0; linear in between, but for the blend.
    """
    odd = _linear((0, *self.odd), width, xp)[1:]
    if not self.even:
      return odd
    nearest = xp.maximum(xp.round(width / VECTOR), 1.0) * VECTOR
    blend = xp.maximum(1.0 - xp.abs(width - nearest), 0.0)
    return xp.concatenate([blend * _linear(self.even, width, xp), (1.0 - blend) * odd])


def _linear(knots: tuple[int, ...], width: Any, xp: Any) -> Any:
  """Weights of piecewise linear interpolation, which goes on straight beyond the ends."""
  if len(knots) == 1:
    return xp.ones(1)
  low, high = np.array(knots[:-1]), np.array(knots[1:])
  share = (width - low) / (high - low)
  first, last = np.arange(len(low)) == 0, np.arange(len(low)) == len(low) - 1
  # Share of every piece that has been passed; the outer ends stay open.
  share = xp.clip(share, np.where(first, -np.inf, 0.0), np.where(last, np.inf, 1.0))
  return xp.concatenate([xp.ones(1), share]) - xp.concatenate([share, xp.zeros(1)])


@dataclasses.dataclass(frozen=True)
class Layer:
  """A timed primitive of the network.

  Attributes:
    name: of the primitive and its program, equal for layers that share a table.
    counts: live widths of the axes of its table: none, one or two.
    rest: live widths of further axes, to which the time is taken to be proportional.
    alive: number of its liveness expression.
    seconds: f64[knots of the first axis, of the second], no axis where there is no count.
  """

  name: str
  counts: tuple[cost.Count, ...]
  rest: tuple[cost.Count, ...]
  alive: int
  seconds: np.ndarray


@dataclasses.dataclass(frozen=True)
class Fit:
  """What is fitted to whole networks; see the module. All in seconds (per unit)."""

  scale: float
  per_byte: float
  per_layer: float
  constant: float


class LatencyModel:
  """Seconds of a graph.

  Attributes:
    layers: all timed primitives.
    fit: how they add up.
    bytes_model: cost model of the graph at the batch that was timed.
  """

  def __init__(self, layers: Sequence[Layer], fit: Fit, bytes_model: cost.CostModel) -> None:
    self.layers = layers
    self.fit = fit
    self.bytes_model = bytes_model
    self._axes: dict[Any, tuple[cost.Count, Knots]] = {}
    self._keys = [[self._axis(c) for c in (*x.counts, *x.rest)] for x in layers]

  def _axis(self, count: cost.Count) -> Any:
    """Key of a width that layers share."""
    key = count.key()
    self._axes.setdefault(key, (count, Knots.of(round(count.size))))
    return key

  def parts(self, gates: Mapping[str, Any], xp: Any = jnp) -> tuple[Any, Any, Any]:
    """(sum of the layers in seconds, bytes moved, number of living layers)."""
    alive = self.bytes_model.live.evaluate(gates)
    widths = {key: count.evaluate(gates, xp) for key, (count, _) in self._axes.items()}
    weights = {key: knots.weights(widths[key], xp) for key, (_, knots) in self._axes.items()}
    seconds, living = 0.0, 0.0
    for layer, keys in zip(self.layers, self._keys):
      own: Any = layer.seconds
      for key in keys[: len(layer.counts)]:
        own = xp.tensordot(weights[key], own, 1)
      for key, count in zip(keys[len(layer.counts) :], layer.rest):
        own = own * widths[key] / count.size
      seconds = seconds + alive[layer.alive] * own
      living = living + alive[layer.alive]
    return seconds, self.bytes_model.absolute(gates, 'bytes', xp), living

  def absolute(self, gates: Mapping[str, Any], xp: Any = jnp) -> Any:
    """Seconds at these gates, differentiable where `xp` is `jax.numpy`."""
    fit = self.fit
    seconds, moved, living = self.parts(gates, xp)
    return fit.scale * seconds + fit.per_byte * moved + fit.per_layer * living + fit.constant
