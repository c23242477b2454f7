"""Reads the terms of the cost off a traced program."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from dapt_jax.graph import bytes_terms, cost, labels, liveness
from dapt_jax.graph import program as program_lib

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph


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
    self.axes = graph.analysis.axes
    edges = {(b.node, b.operand): b.group for b in graph.branches}
    state = graph.tree.state_outputs
    results = [v for i, v in enumerate(self.program.outputs) if i not in state]
    self.live = liveness.Liveness(self.program, results, edges)
    self.leaf = {v: i for i, v in enumerate(self.program.inputs[: graph.tree.num_params])}
    # Counts by the identity of the label array, which is shared along unchanged axes.
    self.known: dict[int, tuple[np.ndarray, cost.Count]] = {}

  def build(self) -> cost.CostModel:
    macs = []
    for index, node in enumerate(self.program.nodes):
      if node.name == 'dot_general':
        macs.append(self._dot(node, self.live.of_node[index]))
      elif node.name == 'conv_general_dilated':
        macs.append(self._conv(node, self.live.of_node[index]))
      elif (inner := _inner_macs(node)) > 0:
        count = cost.Count(inner, {})
        macs.append(cost.Term(node.name, (count,), (), self.live.of_node[index]))
    params = [
      self._term(leaf, (), self.live.of_value[value])
      for value, leaf in self.leaf.items()
      if self.graph.tree.counted[leaf]
    ]
    moved = [
      term
      for index, alive in enumerate(self.live.of_node)
      for term in bytes_terms.of_node(self.graph.analysis, index, self._count, alive)
    ]
    return cost.CostModel({'macs': macs, 'params': params, 'bytes': moved}, self.live)

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
    label = self.axes[self.program.inputs[leaf]]
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

  def _parameter(self, node: program_lib.Node, side: int) -> int | None:
    """Leaf whose axes are those of this operand in some order, or None."""
    view = self.graph.analysis.view(node.ins[side])
    if view is None or view[0] not in self.leaf:
      return None
    whole = sorted(view[1]) == list(range(len(self.program.shape(view[0]))))
    return self.leaf[view[0]] if whole else None

  def _dot(self, node: program_lib.Node, alive: int) -> cost.Term:
    contracted, batch = node.params['dimension_numbers']
    operands = [self.axes[v] for v in node.ins]
    for side in (1, 0):
      leaf = self._parameter(node, side)
      if leaf is not None:
        # Batch axes are axes of the parameter too: of the other operand only the free ones count.
        skip = (*contracted[1 - side], *batch[1 - side])
        free = tuple(self._count(a) for i, a in enumerate(operands[1 - side]) if i not in skip)
        return self._term(leaf, free, alive)
    skip = (*contracted[1], *batch[1])
    axes = [*operands[0], *(a for i, a in enumerate(operands[1]) if i not in skip)]
    return cost.Term('dot_general', tuple(self._count(a) for a in axes), (), alive)

  def _conv(self, node: program_lib.Node, alive: int) -> cost.Term:
    """Every kernel entry once per example and output position; padding counts as work."""
    numbers = node.params['dimension_numbers']
    out = self.axes[node.outs[0]]
    counts = tuple(self._count(out[i]) for i in (numbers.out_spec[0], *numbers.out_spec[2:]))
    leaf = self._parameter(node, 1)
    if leaf is not None:
      return self._term(leaf, counts, alive)
    kernel = tuple(self._count(a) for a in self.axes[node.ins[1]])
    return cost.Term('conv_general_dilated', (*counts, *kernel), (), alive)


def _inner_macs(node: program_lib.Node) -> float:
  """MACs of the programs inside a node that the analysis does not look into (a scan, say)."""
  bodies = [node.body] if node.body is not None else program_lib.bodies(node)
  macs = [_fixed_macs(b) for b in bodies]
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
      out = program.shape(node.outs[0])
      total += math.prod(shapes[1]) * math.prod(
        out[i] for i in (numbers.out_spec[0], *numbers.out_spec[2:])
      )
    else:
      total += _inner_macs(node)
  return total
