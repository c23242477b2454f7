"""The readers: dot_general and convolution. Here channels are made, and here gates can act."""

from __future__ import annotations

import numpy as np

from dapt_jax.graph import rules


def contract(ctx, node, ins, pairs, what):
  """Joins the contracted axes and finds the parameters that can carry the gates.

  Args:
    ctx: the running analysis.
    node: a contraction of `node.ins[0]` with `node.ins[1]`.
    ins: their labels.
    pairs: [(axis of the left, axis of the right)] that are summed over.
    what: name of the contraction for the reason of a refusal.
  """
  views = [ctx.views(v) for v in node.ins[:2]]
  for operand in (0, 1):
    taken = {p[operand] for p in pairs}
    for view in views[operand]:
      for axis, ends in enumerate(view.axes):
        for end in ends if axis not in taken else ():
          ctx.write(view.parameter, end)
  # A parameter reads an activation; of two parameters, the second reads the first.
  side = next((s for s in (1, 0) if _can_read(ctx, node, s, views)), None)
  for axes in pairs:
    ctx.space.unify(ins[0][axes[0]], ins[1][axes[1]])
    if side is not None and all(v.axes[axes[side]] for v in views[side]):
      for view in views[side]:
        for end in view.axes[axes[side]]:
          ctx.read(view.parameter, end, ins[side][axes[side]])
    elif not any(ctx.carry(node.ins[s], axes[s], node.ins[1 - s]) for s in (0, 1)):
      why = f'{what} contracts {_partners(ctx, node)}: no parameter carries the gate'
      ctx.space.refuse(ins[0][axes[0]], why)


def _can_read(ctx, node, side, views):
  """Whether this operand shows parameters that scale the product linearly."""
  if not views[side] or ctx.depends_on_input(node.ins[side]):
    return False
  other = node.ins[1 - side]
  return ctx.depends_on_input(other) or not any(
    ctx.depends_on(other, v.parameter) for v in views[side]
  )


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
  groups = params['feature_group_count']
  if groups > 1:
    channels = params['dimension_numbers'].lhs_spec[1]
    per_group = cut.whole_size(node.ins[0], channels) // groups
    params['feature_group_count'] = args[0].shape[channels] // per_group
  return cut.bind(node, args, params)


@rules.register('conv_general_dilated', _replay_conv)
def _conv(ctx, node, ins):
  p = node.params
  lhs, rhs, out = (p['dimension_numbers'][i] for i in range(3))
  left, right = ins
  labels_out: list[np.ndarray] = [left[0]] * len(out)
  labels_out[out[0]] = left[lhs[0]]
  labels_out[out[1]] = right[rhs[0]]
  if p['batch_group_count'] != 1:
    for axis in (left[lhs[0]], left[lhs[1]], right[rhs[0]], right[rhs[1]]):
      ctx.space.refuse(axis, 'a convolution with groups of the batch')
  elif p['feature_group_count'] == 1:
    contract(ctx, node, ins, [(lhs[1], rhs[1])], 'a convolution')
  else:
    _join_groups(ctx, p['feature_group_count'], left[lhs[1]], right[rhs[0]], right[rhs[1]])
  shape = ctx.program.shape(node.outs[0])
  for a, b, c in zip(lhs[2:], rhs[2:], out[2:]):
    labels_out[c] = ctx.space.fresh(shape[c])
    ctx.space.refuse(left[a], 'spatial axis of a convolution')
    ctx.space.refuse(labels_out[c], 'spatial axis of a convolution')
    ctx.space.refuse(right[b], 'kernel tap of a convolution')
  return [tuple(labels_out)]


def _join_groups(ctx, groups, channels, outputs, within):
  """Inputs and outputs of a group of a convolution live or die together."""
  channels, outputs = channels.reshape(groups, -1), outputs.reshape(groups, -1)
  for block in (channels[:, 1:], outputs):
    for column in range(block.shape[1]):
      ctx.space.unify(channels[:, 0], block[:, column])
  ctx.space.refuse(within, 'a grouped convolution needs whole groups')
