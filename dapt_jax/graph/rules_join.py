"""Primitives that put values side by side, take them apart, repeat or look them up."""

from __future__ import annotations

import numpy as np
from jax import lax

from dapt_jax.graph import rules


@rules.register('concatenate')
def _concatenate(ctx, node, ins):
  along = node.params['dimension']
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
  return [tuple(p if i == axis else a for i, a in enumerate(ins[0])) for p in pieces]


@rules.register('tile')
def _tile(ctx, node, ins):
  return [tuple(np.tile(a, r) if r != 1 else a for a, r in zip(ins[0], node.params['reps']))]


@rules.register('rev')
def _rev(ctx, node, ins):
  gone = node.params['dimensions']
  return [tuple(a[::-1] if i in gone else a for i, a in enumerate(ins[0]))]


def _replay_gather(cut, node, args):
  numbers, sizes = node.params['dimension_numbers'], list(node.params['slice_sizes'])
  for axis, size in enumerate(sizes):
    if size == cut.whole_size(node.ins[0], axis):
      sizes[axis] = args[0].shape[axis]
  return lax.gather(
    args[0],
    args[1],
    numbers,
    tuple(sizes),
    indices_are_sorted=node.params['indices_are_sorted'],
    unique_indices=node.params['unique_indices'],
    mode=node.params['mode'],
    fill_value=node.params['fill_value'],
  )


@rules.register('gather', _replay_gather)
def _gather(ctx, node, ins):
  """A look-up: axes taken whole pass, all others stay whole."""
  numbers, sizes = node.params['dimension_numbers'], node.params['slice_sizes']
  table = ins[0]
  left_out = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
  passing = [i for i in range(len(table)) if i not in left_out]
  passes = lambda i: i not in numbers.start_index_map and sizes[i] == len(table[i]) > 1
  whole = {i for i in passing if passes(i)}
  for i, axis in enumerate(table):
    if i not in whole:
      ctx.space.refuse(axis, 'an index looks positions of it up')
  for axis in ins[1]:
    ctx.space.refuse(axis, 'an axis of indices')
  axes = []
  source = iter(passing)
  for i, size in enumerate(ctx.program.shape(node.outs[0])):
    origin = next(source) if i in numbers.offset_dims else -1
    if origin in whole:
      axes.append(table[origin])
      continue
    axes.append(ctx.space.fresh(size))
    ctx.space.refuse(axes[-1], 'an axis of indices')
  return [tuple(axes)]
