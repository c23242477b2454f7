"""What a picture of a network shows: layers, sums and loops, and where their inputs come from.

A program has hundreds of primitives; a picture has one item per layer. Everything else (casts,
reshapes, activations, pooling over all positions) is followed through without an item of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import program as program_lib
from dapt_jax.graph.picture import layers
from dapt_jax.graph.picture.diagram import PORT, Diagram, Item, Link

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph

_ADD = ('add', 'add_any')
#: Signs of what joins two streams; others are named after their primitive.
_SIGNS = {'add': '+', 'add_any': '+', 'mul': '×', 'sub': '−', 'div': '÷', 'concatenate': 'concat'}


class _Given(NamedTuple):
  """What is known of a value: the item it comes from, if any, and the parameters it shows."""

  source: int | None = None
  roots: frozenset[int] = frozenset()


_NOTHING = _Given()


def read(graph: ChannelGraph) -> Diagram:
  """The items of a traced function, in the order of the program.

  Args:
    graph: from `trace`.

  Returns:
    The diagram: inputs, layers, whatever joins streams, loops with their own diagrams, outputs.
    Results that are new state are left out.
  """
  program, tree, items = graph.program, graph.tree, list[Item]()
  given = [_Given(roots=frozenset([leaf])) for leaf in range(tree.num_params)]
  for leaf in range(tree.num_params, len(program.inputs)):
    shape = layers.times(program.shape(program.inputs[leaf]))
    items.append(Item('input', tree.names[leaf], shape))
    given.append(_Given(len(items) - 1))
  results = _Flow(graph, graph.analysis, items, given).run()
  for number, (value, result) in enumerate(zip(program.outputs, results)):
    if number not in tree.state_outputs and result.source is not None:
      shape = layers.times(program.shape(value))
      items.append(Item('output', 'output', shape, [Link(result.source)]))
  return Diagram(items)


class _Flow:
  """Follows the values of one program; the body of a function call adds to the caller's items."""

  def __init__(
    self,
    graph: ChannelGraph,
    analysis: analysis_lib.Analysis,
    items: list[Item],
    given: Sequence[_Given],
  ) -> None:
    self.graph = graph
    self.analysis = analysis
    self.program = analysis.program
    self.items = items
    self.known = dict(zip(self.program.inputs, given))
    on_top = analysis is graph.analysis
    self.gated = {(b.node, b.operand): b.group for b in graph.branches} if on_top else {}

  def run(self) -> list[_Given]:
    """Follows all nodes; what is known of the results."""
    for index, node in enumerate(self.program.nodes):
      given = [self.known.get(v, _NOTHING) for v in node.ins]
      for value, out in zip(node.outs, self._follow(index, node, given)):
        # Masks steer the data, they are none.
        is_mask = self.program.avals[value].dtype == np.bool_
        self.known[value] = _NOTHING if is_mask else out
    return [self.known.get(v, _NOTHING) for v in self.program.outputs]

  def _follow(
    self, index: int, node: program_lib.Node, given: Sequence[_Given]
  ) -> Sequence[_Given]:
    roots = frozenset().union(*(g.roots for g in given))
    if not any(self.analysis.depends_on_input(v) for v in node.outs):
      return [_Given(None, roots)] * len(node.outs)
    if index in self.analysis.bodies:
      return self._enter(index, node, given)
    item = layers.find(self.graph, self.analysis, node, [g.roots for g in given])
    if item is not None:
      sources = dict.fromkeys(g.source for g in given if g.source is not None)
      return [self._add(item, [Link(s) for s in sources])] * len(node.outs)
    return [self._scaled(self._joined(index, node, given), roots)] * len(node.outs)

  def _add(self, item: Item, links: Sequence[Link]) -> _Given:
    item.links = list(links)
    self.items.append(item)
    return _Given(len(self.items) - 1)

  def _joined(self, index: int, node: program_lib.Node, given: Sequence[_Given]) -> _Given:
    """The one source of a result; a new item where several streams meet."""
    found = [(o, g.source) for o, g in enumerate(given) if g.source is not None]
    links = list(dict.fromkeys(Link(s, self.gated.get((index, o), '')) for o, s in found))
    if node.name not in _ADD:
      links = [k for k in links if not any(self._is_scaled(k.source, o.source) for o in links)]
    if not links:
      return _NOTHING
    if len(links) == 1 and not links[0].branch:
      return _Given(links[0].source)
    kind = 'sum' if node.name in _ADD else 'join'
    return self._add(Item(kind, '', _SIGNS.get(node.name, node.name)), links)

  def _is_scaled(self, source: int, other: int) -> bool:
    """Whether `other` is a normalisation of `source`, which also divides by its deviation."""
    return other != source and other >= 0 and self.items[other].scales(source)

  def _scaled(self, given: _Given, roots: frozenset[int]) -> _Given:
    """Notes parameters that act position by position: a bias, a normalisation."""
    if not roots or given.source is None:
      return given
    module = layers.module(self.graph, roots)
    if given.source != PORT and self.items[given.source].name == module:
      self.items[given.source].leaves |= roots
      return given
    side = layers.side_of_parameter(self.graph, min(roots))
    item = Item('scale', module, leaves=roots, reads=side, writes=side)
    return self._add(item, [Link(given.source)])

  def _enter(self, index: int, node: program_lib.Node, given: Sequence[_Given]) -> list[_Given]:
    """Goes into loops and branches, which become an item where there are layers inside."""
    bodies, name = self.analysis.bodies[index], node.name
    if name.startswith('custom_'):
      return _Flow(self.graph, bodies[0], self.items, given).run()
    operands = list(given)
    if name == 'cond':
      operands = operands[1:]
    elif name == 'while':
      operands, bodies = operands[node.params['cond_nconsts'] :], bodies[1:]
    inner = Diagram([])
    for body in bodies:
      active = [body.depends_on_input(v) for v in body.program.inputs]
      starts = [_Given(PORT) if a else _Given(None, g.roots) for a, g in zip(active, operands)]
      results = _Flow(self.graph, body, inner.items, starts).run()
      inner.exits += [r.source for r in results if r.source not in (None, PORT)]
    if not any(i.kind in ('layer', 'loop') for i in inner.items):
      roots = frozenset().union(*(g.roots for g in given))
      return [self._scaled(self._joined(index, node, given), roots)] * len(node.outs)
    inner.exits = sorted(set(inner.exits))
    turns = f', {node.params["length"]} turns' if 'length' in node.params else ''
    links = [Link(s) for s in dict.fromkeys(g.source for g in operands) if s is not None]
    made = self._add(Item('loop', '', f'{name}{turns}', body=inner), links)
    return [made] * len(node.outs)
