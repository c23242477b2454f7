"""The readers: dot_general and convolution. Here channels are made, and here gates can act."""

from __future__ import annotations

import numpy as np

from dapt_jax.graph import rules


def contract(ctx, node, ins, pairs, what):
  """Joins the contracted axes and finds the parameter that can carry the gates.

  Args:
    ctx: the running analysis.
    node: a contraction of `node.ins[0]` with `node.ins[1]`.
    ins: their labels.
    pairs: [(axis of the left, axis of the right)] that are summed over.
    what: name of the contraction for the reason of a refusal.
  """
  views = [ctx.view(v) for v in node.ins[:2]]
  # A parameter reads an activation; of two parameters, the second reads the first.
  side = next((s for s in (1, 0) if _can_read(ctx, node, s, views)), None)
  for axes in pairs:
    ctx.space.unify(ins[0][axes[0]], ins[1][axes[1]])
    if side is None or views[side][1][axes[side]] < 0:
      why = f'{what} contracts {_partners(ctx, node)}: no parameter carries the gate'
      ctx.space.refuse(ins[0][axes[0]], why)
    else:
      ctx.read(views[side][0], views[side][1][axes[side]])
  for side, taken in ((0, {p[0] for p in pairs}), (1, {p[1] for p in pairs})):
    if views[side] is not None:
      for axis, origin in enumerate(views[side][1]):
        if axis not in taken and origin >= 0:
          ctx.write(views[side][0], origin)


def _can_read(ctx, node, side, views):
  """Whether this operand is a parameter that scales the product linearly."""
  if views[side] is None or ctx.depends_on_input(node.ins[side]):
    return False
  other = node.ins[1 - side]
  return ctx.depends_on_input(other) or not ctx.depends_on(other, views[side][0])


def _partners(ctx, node):
  activations = sum(ctx.depends_on_input(v) for v in node.ins[:2])
  if activations == 2:
    return 'two activations'
  return 'a constant, or a parameter that was reshaped, cut, or changed non-linearly'


@rules.register('dot_general')
def _dot_general(ctx, node, ins):
  (lc, rc), (lb, rb) = node.params['dimension_numbers']
  contract(ctx, node, ins, list(zip(lc, rc)), 'a matrix product')
  for left, right in zip(lb, rb):
    ctx.space.unify(ins[0][left], ins[1][right])
  batch = [ins[0][i] for i in lb]
  left_free = [a for i, a in enumerate(ins[0]) if i not in (*lc, *lb)]
  right_free = [a for i, a in enumerate(ins[1]) if i not in (*rc, *rb)]
  return [(*batch, *left_free, *right_free)]


def _replay_conv(cut, node, args):
  params = dict(node.params)
  if params['feature_group_count'] > 1:
    channels = params['dimension_numbers'].lhs_spec[1]
    params['feature_group_count'] = args[0].shape[channels]
  return cut.bind(node, args, params)


@rules.register('conv_general_dilated', _replay_conv)
def _conv(ctx, node, ins):
  p = node.params
  lhs, rhs, out = (p['dimension_numbers'][i] for i in range(3))
  groups = p['feature_group_count']
  left, right = ins
  labels_out: list[np.ndarray] = [left[0]] * len(out)
  labels_out[out[0]] = left[lhs[0]]
  labels_out[out[1]] = right[rhs[0]]
  channels = left[lhs[1]]
  if p['batch_group_count'] != 1 or groups not in (1, len(channels)):
    for axis in (left[lhs[0]], channels, right[rhs[0]], right[rhs[1]]):
      ctx.space.refuse(axis, 'a grouped convolution needs whole groups')
  elif groups == 1:
    contract(ctx, node, ins, [(lhs[1], rhs[1])], 'a convolution')
  else:
    multiplier = len(right[rhs[0]]) // groups
    ctx.space.unify(np.repeat(channels, multiplier), right[rhs[0]])
  shape = ctx.program.shape(node.outs[0])
  for a, b, c in zip(lhs[2:], rhs[2:], out[2:]):
    labels_out[c] = ctx.space.fresh(shape[c])
    ctx.space.refuse(left[a], 'spatial axis of a convolution')
    ctx.space.refuse(labels_out[c], 'spatial axis of a convolution')
    ctx.space.refuse(right[b], 'kernel tap of a convolution')
  return [tuple(labels_out)]
