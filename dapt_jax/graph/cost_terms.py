"""Reads the terms of the cost off a traced program."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dapt_jax.graph import bytes_terms, cost, labels, liveness
from dapt_jax.graph import program as program_lib

if TYPE_CHECKING:
  from dapt_jax.graph.analysis import Analysis
  from dapt_jax.graph.channel_graph import ChannelGraph


#: Terms of a node of an analysis, given its liveness; its cost in the whole network.
_Own = Callable[['Analysis', program_lib.Node, int], list[cost.Term]]
_Fixed = Callable[[program_lib.Program, program_lib.Node], float]


def build(graph: ChannelGraph) -> cost.CostModel:
  """The cost model of a graph: MACs of its contractions, sizes of its parameters, bytes moved.

  Element-wise work, pooling and reductions count no MACs, as is the custom.
  """
  return _Reader(graph).build()


def counter(graph: ChannelGraph) -> Callable[[np.ndarray], cost.Count]:
  """The function from the labels of an axis to its live positions."""
  return _Reader(graph)._count


class _Reader:
  def __init__(self, graph: ChannelGraph) -> None:
    self.graph = graph
    self.program = graph.program
    edges = {(b.node, b.operand): b.group for b in graph.branches}
    state = graph.tree.state_outputs
    results = [v for i, v in enumerate(self.program.outputs) if i not in state]
    self.live = liveness.Liveness(self.program, results, edges)
    self.leaf = {v: i for i, v in enumerate(self.program.inputs[: graph.tree.num_params])}
    # Counts by the identity of the label array, which is shared along unchanged axes.
    self.known: dict[int, tuple[np.ndarray, cost.Count]] = {}

  def build(self) -> cost.CostModel:
    params = [
      self._term(leaf, (), self.live.of_value[value])
      for value, leaf in self.leaf.items()
      if self.graph.tree.counted[leaf]
    ]
    moved = lambda analysis, node, alive: bytes_terms.of_node(analysis, node, self._count, alive)
    top = (self.graph.analysis, self.live.of_node)
    macs = self._walk(self._contraction, _macs, *top)
    terms = {'macs': macs, 'params': params, 'bytes': self._walk(moved, bytes_terms.fixed, *top)}
    return cost.CostModel(terms, self.live)

  def _walk(
    self, own: _Own, fixed: _Fixed, analysis: Analysis, alive: Sequence[int], times: float = 1.0
  ) -> list[cost.Term]:
    """Terms of a program, each counted `times`; `alive` has the liveness of every node.

    A loop's body counts every turn of a scan, one of a while, and of branches the dearest does. A
    node that the analysis does not look into counts as a constant.
    """
    terms = []
    for index, node in enumerate(analysis.program.nodes):
      found = own(analysis, node, alive[index])
      if index in analysis.bodies:
        turns = float(node.params.get('length', 1))
        for body in _dearest(node, analysis.bodies[index], fixed):
          lives = [alive[index]] * len(body.program.nodes)
          found += self._walk(own, fixed, body, lives, turns)
      elif inner := _inside(fixed, node):
        found = [*found, cost.Term(node.name, (cost.Count(inner, {}),), (), alive[index])]
      terms += found
    if times == 1.0:
      return terms
    return [dataclasses.replace(t, counts=(cost.Count(times, {}), *t.counts)) for t in terms]

  def _contraction(self, analysis: Analysis, node: program_lib.Node, alive: int) -> list[cost.Term]:
    if node.name == 'dot_general':
      return [self._dot(analysis, node, alive)]
    return [self._conv(analysis, node, alive)] if node.name == 'conv_general_dilated' else []

  def _count(self, label: np.ndarray) -> cost.Count:
    found = self.known.get(id(label))
    if found is None or found[0] is not label:
      found = self.known[id(label)] = (label, self._new_count(label))
    return found[1]

  def _new_count(self, label: np.ndarray) -> cost.Count:
    if (self.graph.members.owner[label] < 0).all():
      return cost.Count(float(len(label)), {})
    base, parts = 0, {}
    for name, positions, index in self.graph.members.split(label):
      if name in self.graph.gated_groups:
        width = self.graph.groups[name].width
        parts[name] = np.bincount(index, minlength=width).astype(np.float64)
      else:
        base += len(positions)
    return cost.Count(float(base), parts)

  def _term(self, leaf: int, counts: tuple[cost.Count, ...], alive: int) -> cost.Term:
    label = self.graph.analysis.axes[self.program.inputs[leaf]]
    kernel = tuple(self._count(a) for a in label)
    name = self.graph.tree.names[leaf]
    return cost.Term(name, counts, kernel, alive, self._links(leaf, label))

  def _links(self, leaf: int, label: labels.Axes) -> cost.Links | None:
    name = f'link:{self.graph.tree.names[leaf]}'
    if name not in self.graph.gated_groups:
      return None
    gated = self.graph.gated_groups
    axes = tuple(tuple(p for p in self.graph.members.split(a) if p[0] in gated) for a in label)
    return cost.Links(name, tuple(len(a) for a in label), axes)

  def _parameter(self, analysis: Analysis, value: int) -> int | None:
    """Leaf whose axes are those of this operand in some order, or None."""
    views = analysis.views(value)
    if len(views) != 1 or views[0].parameter not in self.leaf:
      return None
    parameter, axes = views[0]
    whole = self.program.shape(parameter)
    if sorted(axes) != [(i,) for i in range(len(whole))]:
      return None
    same = all(whole[a[0]] == n for a, n in zip(axes, analysis.program.shape(value)))
    return self.leaf[parameter] if same else None

  def _dot(self, analysis: Analysis, node: program_lib.Node, alive: int) -> cost.Term:
    contracted, batch = node.params['dimension_numbers']
    operands = [analysis.axes[v] for v in node.ins]
    for side in (1, 0):
      leaf = self._parameter(analysis, node.ins[side])
      if leaf is not None:
        # Batch axes are axes of the parameter too: of the other operand only the free ones count.
        skip = (*contracted[1 - side], *batch[1 - side])
        free = tuple(self._count(a) for i, a in enumerate(operands[1 - side]) if i not in skip)
        return self._term(leaf, free, alive)
    skip = (*contracted[1], *batch[1])
    axes = [*operands[0], *(a for i, a in enumerate(operands[1]) if i not in skip)]
    return cost.Term('dot_general', tuple(self._count(a) for a in axes), (), alive)

  def _conv(self, analysis: Analysis, node: program_lib.Node, alive: int) -> cost.Term:
    """Every kernel entry once per example and output position; padding counts as work.

    A transposed convolution spreads its input: there it is once per input position.
    """
    numbers = node.params['dimension_numbers']
    spread = any(d > 1 for d in node.params['lhs_dilation'])
    axes = analysis.axes[node.ins[0] if spread else node.outs[0]]
    spec = numbers.lhs_spec if spread else numbers.out_spec
    counts = tuple(self._count(axes[i]) for i in (spec[0], *spec[2:]))
    leaf = self._parameter(analysis, node.ins[1])
    if leaf is not None:
      return self._term(leaf, counts, alive)
    kernel = tuple(self._count(a) for a in analysis.axes[node.ins[1]])
    return cost.Term('conv_general_dilated', (*counts, *kernel), (), alive)


def _dearest(node: program_lib.Node, bodies: Sequence[Analysis], fixed: _Fixed) -> list[Analysis]:
  """The bodies that count: of branches the one that costs most in the whole network."""
  if node.name != 'cond':
    return list(bodies)
  return [max(bodies, key=lambda b: _whole(fixed, b.program))]


def _whole(fixed: _Fixed, program: program_lib.Program) -> float:
  return sum(fixed(program, node) + _inside(fixed, node) for node in program.nodes)


def _inside(fixed: _Fixed, node: program_lib.Node) -> float:
  """Cost of the programs inside a node, which the analysis may not have looked into."""
  sizes = [_whole(fixed, b) for b in node.bodies]
  if node.name == 'cond':
    return max(sizes)
  return float(node.params.get('length', 1)) * sum(sizes)


def _macs(program: program_lib.Program, node: program_lib.Node) -> float:
  """MACs of one primitive in the whole network."""
  shapes = [program.shape(v) for v in node.ins]
  if node.name == 'dot_general':
    contracted, batch = node.params['dimension_numbers']
    skip = (*contracted[1], *batch[1])
    return math.prod(shapes[0]) * math.prod(n for i, n in enumerate(shapes[1]) if i not in skip)
  if node.name == 'conv_general_dilated':
    numbers = node.params['dimension_numbers']
    spread = any(d > 1 for d in node.params['lhs_dilation'])
    spec = numbers.lhs_spec if spread else numbers.out_spec
    sizes = shapes[0] if spread else program.shape(node.outs[0])
    return math.prod(shapes[1]) * math.prod(sizes[i] for i in (spec[0], *spec[2:]))
  return 0.0
