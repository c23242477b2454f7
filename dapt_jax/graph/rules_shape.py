"""Primitives that move positions about: broadcast, reshape, transpose, slice, pad, concatenate."""

from __future__ import annotations

import numpy as np
from jax import lax

from dapt_jax.graph import rules


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
  view = ctx.view(node.ins[0])
  if view is not None:
    kept = [view[1][where[d]] if d in where else -1 for d in range(len(shape))]
    ctx.set_view(node.outs[0], view[0], tuple(kept))
  return [tuple(axes)]


@rules.register('transpose')
def _transpose(ctx, node, ins):
  order = node.params['permutation']
  view = ctx.view(node.ins[0])
  if view is not None:
    ctx.set_view(node.outs[0], view[0], tuple(view[1][i] for i in order))
  return [tuple(ins[0][i] for i in order)]


def _replay_squeeze(cut, node, args):
  return lax.reshape(args[0], cut.sizes(node.outs[0]))


@rules.register('squeeze', _replay_squeeze)
def _squeeze(ctx, node, ins):
  gone = {d % len(ins[0]) for d in node.params['dimensions']}
  kept = [i for i in range(len(ins[0])) if i not in gone]
  for i in gone:
    rules.drop(ctx, ins[0][i], 'taken')
  view = ctx.view(node.ins[0])
  if view is not None:
    ctx.set_view(node.outs[0], view[0], tuple(view[1][i] for i in kept))
  return [tuple(ins[0][i] for i in kept)]


def segments(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
  """Splits a reshape into the smallest runs of axes with equal products.

  Returns:
    [(axes of old, axes of new), ...]; axes of size one may form runs of their own.
  """
  out: list[tuple[list[int], list[int]]] = []
  i = j = 0
  while i < len(old) or j < len(new):
    if i < len(old) and old[i] == 1 and (j >= len(new) or new[j] != 1):
      out.append(([i], []))
      i += 1
      continue
    if j < len(new) and new[j] == 1 and (i >= len(old) or old[i] != 1):
      out.append(([], [j]))
      j += 1
      continue
    a, b, p, q = [i], [j], old[i], new[j]
    while p != q:
      if p < q:
        i += 1
        a.append(i)
        p *= old[i]
      else:
        j += 1
        b.append(j)
        q *= new[j]
    out.append((a, b))
    i, j = i + 1, j + 1
  return out


def _replay_reshape(cut, node, args):
  return lax.reshape(args[0], cut.sizes(node.outs[0]))


@rules.register('reshape', _replay_reshape)
def _reshape(ctx, node, ins):
  old, new = ctx.program.shape(node.ins[0]), ctx.program.shape(node.outs[0])
  if node.params.get('dimensions') is not None or 0 in old:
    return rules.opaque(ctx, node, ins)
  runs = segments(old, new)
  axes: list[np.ndarray] = [np.zeros(0, np.int64)] * len(new)
  for a, b in runs:
    if len(a) == 1 and len(b) == 1:
      axes[b[0]] = ins[0][a[0]]
    elif len(b) == 1 and a:
      axes[b[0]] = _merge(ctx, node, [ins[0][i] for i in a], b[0])
    else:
      for i in a:
        if len(ins[0][i]) == 1:
          rules.drop(ctx, ins[0][i], 'taken')
        ctx.space.refuse(ins[0][i], 'a reshape splits it')
      for j in b:
        axes[j] = ctx.space.fresh(new[j])
        if new[j] > 1:
          ctx.space.refuse(axes[j], 'a reshape makes it out of another axis')
  view = ctx.view(node.ins[0])
  if view is not None and all(len(a) <= 1 and len(b) <= 1 for a, b in runs):
    origin = {b[0]: a[0] for a, b in runs if a and b}
    kept = tuple(view[1][origin[j]] if j in origin else -1 for j in range(len(new)))
    ctx.set_view(node.outs[0], view[0], kept)
  return [tuple(axes)]


def _merge(ctx, node, parts, out_axis):
  """Labels of several axes flattened into one: those of the only axis that may still be cut."""
  sizes = [len(p) for p in parts]
  for part in parts:
    if len(part) == 1:
      rules.drop(ctx, part, 'taken')
  open_axes = [i for i, p in enumerate(parts) if len(p) > 1 and not ctx.space.is_refused(p)]
  if len(open_axes) == 1:
    shape = [1] * len(parts)
    shape[open_axes[0]] = sizes[open_axes[0]]
    return np.broadcast_to(parts[open_axes[0]].reshape(shape), sizes).reshape(-1)
  for part in parts:
    ctx.space.refuse(part, 'a reshape merges it with another axis')
  ctx.source(node.outs[0], out_axis)
  return ctx.space.fresh(int(np.prod(sizes)))


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
