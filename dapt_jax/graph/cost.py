"""Parameters and multiply-accumulates as differentiable functions of the gates.

Every contraction contributes (live inputs) x (live outputs) x (the rest) x (liveness of its
branch), counted from the jaxpr; every parameter array the product of its live axes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from dapt_jax.graph import liveness
from dapt_jax.types import Gates

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph

UNITS = ('macs', 'params')


@dataclasses.dataclass(frozen=True)
class Count:
  """Live positions of an axis: base + sum over groups of counts . gates.

  Attributes:
    base: positions that always live.
    parts: {group: f32[width], positions per gate}.
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


@dataclasses.dataclass(frozen=True)
class Term:
  """One product of the cost.

  Attributes:
    name: what it counts, for tables.
    factor: fixed multiplier.
    counts: live positions of the gated axes.
    alive: number of its liveness expression.
    links: (link group, [(axis counts per position)]) when single entries are gated.
  """

  name: str
  factor: float
  counts: tuple[Count, ...]
  alive: int
  links: str | None = None
  kernel: tuple[int, ...] = ()


class CostModel:
  """Costs of a graph; `share` is differentiable in the gates."""

  def __init__(self, terms: dict[str, list[Term]], live: liveness.Liveness, axes: Any) -> None:
    self.terms = terms
    self.live = live
    self._axes = axes

  def absolute(self, gates: Gates, unit: str, xp: Any = jnp) -> Any:
    """Cost at these gates in units of MACs or parameters, computed with `xp` (jnp or np)."""
    if unit not in UNITS:
      raise ValueError(f'unit is {unit!r}; allowed are {list(UNITS)}')
    alive = self.live.evaluate(gates)
    known: dict[Any, Any] = {}

    def value(count: Count) -> Any:
      key = count.key()
      if key not in known:
        parts = [
          xp.dot(p, gates[n]) if n in gates else float(p.sum()) for n, p in count.parts.items()
        ]
        known[key] = count.base + sum(parts)
      return known[key]

    total = 0.0
    for term in self.terms[unit]:
      live = alive[term.alive]
      if isinstance(live, float) and live == 0.0:
        continue
      if term.links in gates:
        size = self._entries(term, gates, xp)
      else:
        size = math.prod([value(self._axes(leaf, a)) for leaf, a in self._kernel_axes(term)])
      total = total + live * term.factor * size * math.prod([value(c) for c in term.counts])
    return total

  def _kernel_axes(self, term: Term) -> list[tuple[int, int]]:
    if not term.kernel:
      return []
    leaf, *axes = term.kernel
    return [(leaf, a) for a in axes]

  def _entries(self, term: Term, gates: Gates, xp: Any) -> Any:
    """Live entries of a kernel whose single links are gated."""
    leaf, *axes = term.kernel
    shape = [int(self._axes(leaf, a).size) for a in axes]
    live = gates[term.links].reshape(shape)
    for number in range(len(axes)):
      vector = self._axes.positions(leaf, axes[number], gates, xp)
      live = live * vector.reshape([-1 if i == number else 1 for i in range(len(axes))])
    return live.sum()

  def share(self, gates: Gates, unit: str) -> Any:
    """Cost over the whole network's cost, f32[]."""
    return self.absolute(gates, unit) / self.total(unit)

  def total(self, unit: str) -> float:
    """Cost of the whole network."""
    return float(self.absolute({}, unit, np))


class _AxisCounts:
  """Counts of label arrays, and of the axes of flat arguments."""

  def __init__(self, graph: ChannelGraph) -> None:
    self.graph = graph
    self.gated = set(graph.gated_groups)
    self._cache: dict[tuple[int, int], Count] = {}

  def of(self, label: np.ndarray) -> Count:
    graph, parts = self.graph, {}
    owner = graph.owner[graph.components[label]]
    base = 0
    for number in np.unique(owner).tolist():
      mine = owner == number
      name = graph._numbers[number] if number >= 0 else ''
      if name in self.gated:
        index = graph.gate[graph.components[label[mine]]]
        width = graph.groups[name].width
        parts[name] = np.bincount(index, minlength=width).astype(np.float32)
      else:
        base += int(mine.sum())
    return Count(float(base), parts)

  def __call__(self, leaf: int, axis: int) -> Count:
    if (leaf, axis) not in self._cache:
      value = self.graph.program.inputs[leaf]
      self._cache[leaf, axis] = self.of(self.graph.analysis.axes[value][axis])
    return self._cache[leaf, axis]

  def positions(self, leaf: int, axis: int, gates: Gates, xp: Any) -> Any:
    """Gate of every position of an argument's axis, f32[axis size]."""
    graph = self.graph
    label = graph.analysis.axes[graph.program.inputs[leaf]][axis]
    owner = graph.owner[graph.components[label]]
    out = xp.ones(len(label))
    for number in np.unique(owner[owner >= 0]).tolist():
      name = graph._numbers[number]
      if name in self.gated and name in gates:
        index = graph.gate[graph.components[label]]
        safe = np.where(owner == number, index, 0)
        out = xp.where(owner == number, gates[name][safe], out)
    return out


def build(graph: ChannelGraph) -> CostModel:
  """Reads the cost terms off the traced program."""
  edges = {(b.node, b.operand): b.group for b in graph.branches}
  state = graph.tree.state_outputs
  results = [v for i, v in enumerate(graph.program.outputs) if i not in state]
  live = liveness.Liveness(graph.program, results, edges)
  axes = _AxisCounts(graph)
  macs = []
  for index, node in enumerate(graph.program.nodes):
    if node.name == 'dot_general':
      macs.append(_dot_term(graph, node, live.of_node[index], axes))
    elif node.name == 'conv_general_dilated':
      macs.append(_conv_term(graph, node, live.of_node[index], axes))
  params = []
  for leaf in range(graph.tree.num_params):
    if graph.tree.counted[leaf]:
      value = graph.program.inputs[leaf]
      rank = len(graph.program.shape(value))
      name = graph.tree.names[leaf]
      alive = live.of_value[value]
      kernel = (leaf, *range(rank))
      params.append(Term(name, 1.0, (), alive, _link(graph, leaf), kernel))
  return CostModel({'macs': macs, 'params': params}, live, axes)


def _link(graph, leaf):
  name = f'link:{graph.tree.names[leaf]}'
  return name if name in graph.groups and 'link' in graph.levels else None


def _operand(graph, node, side):
  """(leaf, axis map) if this operand is a parameter seen through linear moves."""
  view = graph.analysis.view(node.ins[side])
  if view is None or sorted(view[1]) != list(range(len(graph.program.shape(view[0])))):
    return None
  return graph.program.inputs.index(view[0]), view[1]


def _dot_term(graph, node, alive, axes):
  (lc, rc), (lb, rb) = node.params['dimension_numbers']
  left, right = (graph.analysis.axes[v] for v in node.ins)
  view = _operand(graph, node, 1)
  if view is not None and not rb:
    counts = [axes.of(a) for i, a in enumerate(left) if i not in lc]
    return _term(graph, view, 1.0, counts, alive)
  view = _operand(graph, node, 0)
  if view is not None and not lb:
    counts = [axes.of(a) for i, a in enumerate(right) if i not in rc]
    return _term(graph, view, 1.0, counts, alive)
  counts = [axes.of(a) for a in left]
  counts += [axes.of(a) for i, a in enumerate(right) if i not in (*rc, *rb)]
  return Term('dot_general', 1.0, tuple(counts), alive)


def _conv_term(graph, node, alive, axes):
  numbers = node.params['dimension_numbers']
  out = graph.analysis.axes[node.outs[0]]
  moved = [out[i] for i in (numbers.out_spec[0], *numbers.out_spec[2:])]
  counts = [axes.of(a) for a in moved]
  view = _operand(graph, node, 1)
  if view is not None:
    return _term(graph, view, 1.0, counts, alive)
  counts += [axes.of(a) for a in graph.analysis.axes[node.ins[1]]]
  return Term('conv', 1.0, tuple(counts), alive)


def _term(graph, view, factor, counts, alive):
  fixed = math.prod(c.base for c in counts if not c.parts)
  moving = tuple(c for c in counts if c.parts)
  leaf = view[0]
  rank = len(graph.program.shape(graph.program.inputs[leaf]))
  kernel = (leaf, *range(rank))
  return Term(graph.tree.names[leaf], factor * fixed, moving, alive, _link(graph, leaf), kernel)
