"""Which primitives a picture shows as layers: how they are called, what they read and write."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import program as program_lib
from dapt_jax.graph.picture.diagram import Axis, Item, Segment

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph

_KERNELS = ('kernel', 'w', 'weight', 'embedding')


def find(
  graph: ChannelGraph,
  analysis: analysis_lib.Analysis,
  node: program_lib.Node,
  roots: Sequence[frozenset[int]],
) -> Item | None:
  """The item of a primitive that a picture shows in any case, its links still missing.

  Args:
    graph: the whole graph.
    analysis: of the program that the node is in.
    node: makes an activation.
    roots: of every operand, the flat numbers of the parameters that it is made of alone.

  Returns:
    A layer, a product of two activations, a pooling; None for anything else.
  """
  if node.name in ('dot_general', 'conv_general_dilated'):
    side = next((s for s in (1, 0) if roots[s]), None)
    if side is None:
      two = all(analysis.depends_on_input(v) for v in node.ins[:2])
      return Item('join', '', '@') if two else None
    shape = _dense if node.name == 'dot_general' else _conv
    text, reads, writes = shape(graph, analysis, node, side)
    return _layer(graph, text, roots[side], reads, writes)
  if node.name == 'gather' and roots[0]:
    numbers = node.params['dimension_numbers']
    table, out = analysis.axes[node.ins[0]], analysis.axes[node.outs[0]]
    reads = [_axis(graph, table[i]) for i in numbers.start_index_map]
    writes = [_axis(graph, out[i]) for i in numbers.offset_dims]
    return _layer(graph, 'embedding', roots[0], reads, writes)
  if node.name.startswith('reduce_window') and 'window_dimensions' in node.params:
    kind = {'reduce_window_max': 'max ', 'reduce_window_sum': 'sum '}.get(node.name, '')
    window = [n for n in node.params['window_dimensions'] if n > 1]
    strides = [n for n in node.params['window_strides'] if n > 1]
    return Item('pool', '', f'{kind}pool {times(window)}{_over(strides)}')
  return None


def module(graph: ChannelGraph, roots: Collection[int]) -> str:
  """Path of the module of these parameters: 'stem/bn' of 'stem/bn/scale' and of its statistics."""
  path = _path(graph, roots)
  return path.rpartition('/')[0] or path


def side_of_parameter(graph: ChannelGraph, leaf: int) -> tuple[Axis, ...]:
  """The last axis of a parameter, with its groups."""
  axes = graph.analysis.axes[graph.program.inputs[leaf]]
  return tuple(_axis(graph, a) for a in axes[-1:])


def times(sizes: Sequence[int]) -> str:
  """'3x3'."""
  return 'x'.join(map(str, sizes))


def _path(graph: ChannelGraph, roots: Collection[int]) -> str:
  leaf = min(roots, key=lambda i: (not graph.tree.counted[i], i))
  name = graph.tree.names[leaf]
  return name if graph.tree.counted[leaf] else name.partition('/')[2] or name


def _layer(
  graph: ChannelGraph,
  text: str,
  roots: frozenset[int],
  reads: Sequence[Axis],
  writes: Sequence[Axis],
) -> Item:
  path = _path(graph, roots)
  head, _, tail = path.rpartition('/')
  name = head if head and tail in _KERNELS else path
  return Item('layer', name, text, leaves=roots, reads=tuple(reads), writes=tuple(writes))


def _axis(graph: ChannelGraph, label: np.ndarray) -> Axis:
  return tuple(Segment(name, gates) for name, _, gates in graph.members.split(label))


def _dense(graph, analysis, node, side):
  """(text, axes read, axes written) of a product with a parameter; batch axes go to the text."""
  contracted, batch = (numbers[side] for numbers in node.params['dimension_numbers'])
  labels = analysis.axes[node.ins[side]]
  free = [i for i in range(len(labels)) if i not in (*contracted, *batch)]
  copies = ''.join(f'{len(labels[i])} x ' for i in batch)
  reads, writes = ([_axis(graph, labels[i]) for i in chosen] for chosen in (contracted, free))
  return f'{copies}dense', reads, writes


def _conv(graph, analysis, node, side):
  """(text, axes read, axes written) of a convolution."""
  p = node.params
  lhs, rhs = p['dimension_numbers'].lhs_spec, p['dimension_numbers'].rhs_spec
  image, kernel = (analysis.axes[v] for v in node.ins[:2])
  taps = times([len(kernel[i]) for i in rhs[2:]])
  groups = p['feature_group_count']
  kind = 'conv'
  if any(d > 1 for d in p['lhs_dilation']):
    kind, strides = 'transposed conv', p['lhs_dilation']
  else:
    strides = p['window_strides']
  if groups > 1:
    kind = 'depthwise' if len(kernel[rhs[1]]) == 1 else f'{groups} groups'
  dilated = any(d > 1 for d in p['rhs_dilation'])
  spread = f' dilated {times(sorted(set(p["rhs_dilation"])))}' if dilated else ''
  read = image[lhs[1]] if groups > 1 else kernel[rhs[1]]
  text = f'{kind} {taps}{_over([s for s in strides if s > 1])}{spread}'
  return text, [_axis(graph, read)], [_axis(graph, kernel[rhs[0]])]


def _over(strides: Sequence[int]) -> str:
  """'/2' of a stride; nothing where there is none."""
  return f'/{times(sorted(set(strides)))}' if strides else ''
