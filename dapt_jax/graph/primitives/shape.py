"""Primitives that move positions about: broadcast, reshape, transpose, slice, pad."""

from __future__ import annotations

import numpy as np
from jax import lax

from dapt_jax.graph.primitives import reshapes, rules


def _replay_broadcast(cut, node, args):
  out = node.outs[0]
  return lax.broadcast_in_dim(args[0], cut.sizes(out), node.params['broadcast_dimensions'])


@rules.register('broadcast_in_dim', _replay_broadcast)
def _broadcast(ctx, node, ins):
  shape = ctx.program.shape(node.outs[0])
  where = {d: i for i, d in enumerate(node.params['broadcast_dimensions'])}
  axes = []
  for d, size in enumerate(shape):
    i = where.get(d)
    if i is not None and len(ins[0][i]) == size:
      axes.append(ins[0][i])
      continue
    axes.append(ctx.space.fresh(size))
    if i is not None:
      rules.drop(ctx, ins[0][i], 'broadcast')
  # An axis of one that is repeated shows no axis of the parameter: its positions are all the same.
  whole = {d for d, i in where.items() if len(ins[0][i]) == shape[d]}
  origins = [where[d] if d in whole else -1 for d in range(len(shape))]
  rules.move_views(ctx, node.ins[0], node.outs[0], origins)
  return [tuple(axes)]


@rules.register('transpose')
def _transpose(ctx, node, ins):
  order = node.params['permutation']
  rules.move_views(ctx, node.ins[0], node.outs[0], order)
  return [tuple(ins[0][i] for i in order)]


def _replay_reshape(cut, node, args):
  return lax.reshape(args[0], cut.sizes(node.outs[0]))


@rules.register('squeeze', _replay_reshape)
def _squeeze(ctx, node, ins):
  gone = {d % len(ins[0]) for d in node.params['dimensions']}
  kept = [i for i in range(len(ins[0])) if i not in gone]
  for i in gone:
    rules.drop(ctx, ins[0][i], 'taken')
  rules.move_views(ctx, node.ins[0], node.outs[0], kept)
  return [tuple(ins[0][i] for i in kept)]


@rules.register('reshape', _replay_reshape)
def _reshape(ctx, node, ins):
  old, new = ctx.program.shape(node.ins[0]), ctx.program.shape(node.outs[0])
  if node.params.get('dimensions') is not None or 0 in old:
    return rules.opaque(ctx, node, ins)
  runs = reshapes.segments(old, new)
  behind = {j: a for a, b in runs for j in b}
  axes: list[np.ndarray] = [np.zeros(0, np.int64)] * len(new)
  for number, (a, b) in enumerate(runs):
    sized = ([i for i in a if old[i] > 1], [j for j in b if new[j] > 1])
    for i in a:
      if old[i] == 1:
        rules.drop(ctx, ins[0][i], 'taken')
    for j in b:
      axes[j] = ctx.space.fresh(new[j])
    if len(sized[0]) == 1 and len(sized[1]) == 1:
      axes[sized[1][0]] = ins[0][sized[0][0]]
    elif len(sized[1]) == 1:
      target = sized[1][0]
      parts = {i: ins[0][i] for i in sized[0]}
      axes[target], behind[target] = _merge(ctx, number, parts)
      if not behind[target]:
        ctx.source(node.outs[0], target)
    elif len(sized[0]) == 1:
      axes = _split(ctx, number, ins[0][sized[0][0]], axes, sized[1])
    else:
      _break(ctx, [*(ins[0][i] for i in sized[0]), *(axes[j] for j in sized[1])])
  _keep_views(ctx, node, behind)
  return [tuple(axes)]


def _break(ctx, parts):
  for part in parts:
    ctx.space.refuse(part, 'a reshape makes other axes out of it')


def _split(ctx, number, label, axes, targets):
  """One axis becomes several: gates act on one of those, the others stay whole."""
  open_axis = ctx.choice(number, [(j, axes[j]) for j in targets], label)
  if open_axis is None:
    ctx.space.refuse(label, 'a reshape splits it')
  for j in targets:
    if j != open_axis:
      ctx.space.refuse(axes[j], 'a reshape makes it out of another axis')
  if open_axis is not None:
    block = np.moveaxis(label.reshape([len(axes[j]) for j in targets]), targets.index(open_axis), 0)
    block = block.reshape(len(block), -1)
    for column in range(1, block.shape[1]):
      ctx.space.unify(block[:, 0], block[:, column])
    axes[open_axis] = block[:, 0]
  return axes


def _merge(ctx, number, parts):
  """Several axes become one: (labels of the one that may still be cut, repeated; [this axis]).

  Where none can stay open the merged axis has labels of its own and shows no axis of a parameter.
  """
  open_axes = [i for i, p in parts.items() if not ctx.space.is_refused(p)]
  chosen = open_axes[0] if len(open_axes) == 1 else None
  if len(open_axes) > 1:
    chosen = ctx.choice(number, [(i, parts[i]) for i in open_axes])
  for i, part in parts.items():
    if i != chosen:
      ctx.space.refuse_rest(part, 'a reshape merges it with another axis')
  sizes = [len(p) for p in parts.values()]
  if chosen is None:
    return ctx.space.fresh(int(np.prod(sizes))), []
  shape = [n if i == chosen else 1 for i, n in zip(parts, sizes)]
  return np.broadcast_to(parts[chosen].reshape(shape), sizes).reshape(-1), [chosen]


def _keep_views(ctx, node, behind):
  """A reshaped parameter stays a view: split axes show one axis, a merged axis the open one."""
  views = []
  for view in ctx.views(node.ins[0]):
    mapped = [tuple(o for i in behind[j] for o in view.axes[i]) for j in range(len(behind))]
    views.append(rules.View(view.parameter, tuple(mapped)))
  ctx.set_views(node.outs[0], views)


def _replay_slice(cut, node, args):
  value, p = node.ins[0], node.params
  x = args[0]
  strides = p['strides'] or (1,) * x.ndim
  start: list[int] = []
  limit: list[int] = []
  step: list[int] = []
  for i, (s, e, t) in enumerate(zip(p['start_indices'], p['limit_indices'], strides)):
    alive = cut.alive(value, i)
    if alive.all():
      start, limit, step = [*start, s], [*limit, e], [*step, t]
    elif t == 1:
      low = int(alive[:s].sum())
      start, limit, step = [*start, low], [*limit, low + int(alive[s:e].sum())], [*step, 1]
    else:
      rank = np.cumsum(alive) - 1
      x = x.take(rank[[k for k in range(s, e, t) if alive[k]]], axis=i)
      start, limit, step = [*start, 0], [*limit, x.shape[i]], [*step, 1]
  return lax.slice(x, start, limit, step)


@rules.register('slice', _replay_slice)
def _slice(ctx, node, ins):
  p = node.params
  strides = p['strides'] or (1,) * len(ins[0])
  ctx.set_views(node.outs[0], ctx.views(node.ins[0]))
  return [
    tuple(
      a if (s, e, t) == (0, len(a), 1) else a[s:e:t]
      for a, s, e, t in zip(ins[0], p['start_indices'], p['limit_indices'], strides)
    )
  ]


def _replay_pad(cut, node, args):
  out, config = node.outs[0], []
  for i, (low, high, inner) in enumerate(node.params['padding_config']):
    alive = cut.alive(out, i)
    if not alive.all():
      low, high = int(alive[:low].sum()), int(alive[len(alive) - high :].sum()) if high else 0
    config.append((low, high, inner))
  return lax.pad(args[0], args[1], config)


@rules.register('pad', _replay_pad)
def _pad(ctx, node, ins):
  axes = []
  for i, (low, high, inner) in enumerate(node.params['padding_config']):
    axis = ins[0][i]
    if low < 0 or high < 0 or inner:
      ctx.space.refuse(axis, 'padded between its positions or by a negative amount')
      axis = ctx.space.fresh(ctx.program.shape(node.outs[0])[i])
      ctx.space.refuse(axis, 'padded between its positions or by a negative amount')
    elif low or high:
      axis = np.concatenate([ctx.space.fresh(low), axis, ctx.space.fresh(high)])
    axes.append(axis)
  return [tuple(axes)]
