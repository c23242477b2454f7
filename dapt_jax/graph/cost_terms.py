"""Reads the terms of the cost off a traced program."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dapt_jax.graph import cost, labels, liveness
from dapt_jax.graph import program as program_lib

if TYPE_CHECKING:
  from dapt_jax.graph.analysis import Analysis
  from dapt_jax.graph.channel_graph import ChannelGraph


def build(graph: ChannelGraph) -> cost.CostModel:
  """The cost model of a graph: multiply-accumulates of its contractions, sizes of its parameters.

  Element-wise work, pooling and reductions count nothing, as is the custom for MACs.
  """
  return _Reader(graph).build()


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
    macs = self._macs(self.graph.analysis, self.live.of_node)
    return cost.CostModel({'macs': macs, 'params': params}, self.live)

  def _macs(self, analysis: Analysis, alive: Sequence[int], times: float = 1.0) -> list[cost.Term]:
    """Terms of a program, each counted `times`; `alive` has the liveness of every node."""
    terms = []
    for index, node in enumerate(analysis.program.nodes):
      found = []
      if node.name == 'dot_general':
        found = [self._dot(analysis, node, alive[index])]
      elif node.name == 'conv_general_dilated':
        found = [self._conv(analysis, node, alive[index])]
      elif index in analysis.bodies:
        found = self._inside(analysis, index, alive[index])
      elif (inner := _fixed_inside(node)) > 0:
        found = [cost.Term(node.name, (cost.Count(inner, {}),), (), alive[index])]
      terms += found
    if times == 1.0:
      return terms
    return [dataclasses.replace(t, counts=(cost.Count(times, {}), *t.counts)) for t in terms]

  def _inside(self, analysis: Analysis, index: int, alive: int) -> list[cost.Term]:
    """Terms of the bodies of a loop (every turn of a scan, one of a while) or of a branch."""
    node = analysis.program.nodes[index]
    bodies = analysis.bodies[index]
    if node.name == 'cond':  # the dearest branch, as the whole network has it
      bodies = [max(bodies, key=lambda b: _fixed_macs(b.program))]
    times = float(node.params.get('length', 1))
    return [t for b in bodies for t in self._macs(b, [alive] * len(b.program.nodes), times)]

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


def _fixed_inside(node: program_lib.Node) -> float:
  """MACs of the programs inside a node, which the analysis may not have looked into."""
  macs = [_fixed_macs(b) for b in node.bodies]
  if node.name == 'cond':
    return max(macs)
  return float(node.params.get('length', 1)) * sum(macs) if macs else 0.0


def _fixed_macs(program: program_lib.Program) -> float:
  total = 0.0
  for node in program.nodes:
    shapes = [program.shape(v) for v in node.ins]
    if node.name == 'dot_general':
      contracted, batch = node.params['dimension_numbers']
      skip = (*contracted[1], *batch[1])
      total += math.prod(shapes[0]) * math.prod(n for i, n in enumerate(shapes[1]) if i not in skip)
    elif node.name == 'conv_general_dilated':
      numbers = node.params['dimension_numbers']
      spread = any(d > 1 for d in node.params['lhs_dilation'])
      spec = numbers.lhs_spec if spread else numbers.out_spec
      sizes = shapes[0] if spread else program.shape(node.outs[0])
      total += math.prod(shapes[1]) * math.prod(sizes[i] for i in (spec[0], *spec[2:]))
    else:
      total += _fixed_inside(node)
  return total
