"""Primitives that put values side by side, take them apart, or repeat them."""

from __future__ import annotations

import numpy as np

from dapt_jax.graph.primitives import rules


@rules.register('concatenate')
def _concatenate(ctx, node, ins):
  along = node.params['dimension']
  views = [ctx.views(v) for v in node.ins]
  ctx.set_views(node.outs[0], [v for vs in views for v in vs] if all(views) else ())
  axes = []
  for i in range(len(ins[0])):
    if i == along:
      axes.append(np.concatenate([a[i] for a in ins]))
      continue
    for other in ins[1:]:
      ctx.space.unify(ins[0][i], other[i])
    axes.append(ins[0][i])
  return [tuple(axes)]


@rules.register('stack')
def _stack(ctx, node, ins):
  for other in ins[1:]:
    for a, b in zip(ins[0], other):
      ctx.space.unify(a, b)
  axes = list(ins[0])
  axes.insert(node.params['axis'], ctx.space.fresh(len(ins)))
  ctx.space.refuse(axes[node.params['axis']], 'values are stacked along it')
  return [tuple(axes)]


@rules.register('unstack')
def _unstack(ctx, node, ins):
  along = node.params['axis']
  ctx.space.refuse(ins[0][along], 'values are unstacked along it')
  rest = tuple(a for i, a in enumerate(ins[0]) if i != along)
  return [rest for _ in node.outs]


def _replay_split(cut, node, args):
  axis = node.params['axis']
  sizes = [int(cut.alive(v, axis).sum()) for v in node.outs]
  return cut.bind(node, args, {**node.params, 'sizes': tuple(sizes)})


@rules.register('split', _replay_split)
def _split(ctx, node, ins):
  axis = node.params['axis']
  ends = np.cumsum(node.params['sizes'])[:-1]
  pieces = np.split(ins[0][axis], ends)
  for out in node.outs:
    ctx.set_views(out, ctx.views(node.ins[0]))
  return [tuple(p if i == axis else a for i, a in enumerate(ins[0])) for p in pieces]


@rules.register('tile')
def _tile(ctx, node, ins):
  return [tuple(np.tile(a, r) if r != 1 else a for a, r in zip(ins[0], node.params['reps']))]


@rules.register('rev')
def _rev(ctx, node, ins):
  gone = node.params['dimensions']
  ctx.set_views(node.outs[0], ctx.views(node.ins[0]))
  return [tuple(a[::-1] if i in gone else a for i, a in enumerate(ins[0]))]
