"""Carriers: parameters through which an axis of an activation is linear, position by position.

Where two activations are contracted (queries with keys), no parameter reads the axis. A gate can
still act exactly if one of them is homogeneous of degree one in parameters that share the axis:
the columns of the query's kernel together with its bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dapt_jax.graph.primitives import reshapes

if TYPE_CHECKING:
  from dapt_jax.graph.analysis import Analysis

_SAME = (
  'neg',
  'copy',
  'convert_element_type',
  'reduce_precision',
  'rev',
  'slice',
  'optimization_barrier',
)
_ADD = ('add', 'add_any', 'sub')

Found = set[tuple[int, int]]


def find(analysis: Analysis, value: int, axis: int) -> Found:
  """Parameter axes that scale the positions of an axis of `value`; empty if there are none.

  Args:
    analysis: read up to `value`.
    value: value number.
    axis: its axis.

  Returns:
    {(parameter value, axis)}: multiplying all of them by g along the axis multiplies `value` by g.
  """
  return _search(analysis, value, axis) or set()


def _search(analysis: Analysis, value: int, axis: int) -> Found | None:
  views = analysis.views(value)
  if views:
    ends = {(v.parameter, a) for v in views for a in v.axes[axis]}
    return ends if all(v.axes[axis] for v in views) else None
  node = analysis.program.makers.get(value)
  if node is None or not analysis.depends_on_input(value):
    return None
  go = lambda operand, a: _search(analysis, node.ins[operand], a)
  if node.name in _SAME:
    return go(0, axis)
  if node.name == 'transpose':
    return go(0, node.params['permutation'][axis])
  if node.name in ('reshape', 'broadcast_in_dim', 'squeeze'):
    origin = reshapes.origin(analysis.program, node, axis)
    return None if origin is None else go(0, origin)
  if node.name == 'concatenate' and axis != node.params['dimension']:
    return None
  if node.name in (*_ADD, 'concatenate'):
    sides = [go(i, axis) for i in range(len(node.ins)) if _spans(analysis, node, i, axis)]
    found = [s for s in sides if s is not None]
    return set().union(*found) if len(found) == len(node.ins) else None
  if node.name in ('mul', 'div'):
    return _scaled(analysis, node, axis, go)
  if node.name in ('dot_general', 'conv_general_dilated'):
    return _written(analysis, node, axis)
  return None


def _spans(analysis, node, operand, axis):
  shape = analysis.program.shape(node.ins[operand])
  return len(shape) > axis and shape[axis] > 1


def _scaled(analysis, node, axis, go):
  """A product with a factor that depends on no activation, and not on the parameters found."""
  for side in (0, 1) if node.name == 'mul' else (0,):
    other = node.ins[1 - side]
    if not _spans(analysis, node, side, axis) or analysis.depends_on_input(other):
      continue
    found = go(side, axis)
    if found and not any(analysis.depends_on(other, p) for p, _ in found):
      return found
  return None


def _written(analysis, node, axis):
  """The kernel whose free axis this is."""
  label = analysis.axes[node.outs[0]][axis]
  for side in (1, 0):
    views = analysis.views(node.ins[side])
    if not views:
      continue
    for number, own in enumerate(analysis.axes[node.ins[side]]):
      ends = {(v.parameter, a) for v in views for a in v.axes[number]}
      if own is label and ends and ends <= analysis.record.writes:
        return ends
  return None
