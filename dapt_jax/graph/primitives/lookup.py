"""Primitives that look positions up or write some: gather, scatter, dynamic slices.

Axes taken whole pass; an axis of which an index picks positions stays whole.
"""

from __future__ import annotations

from jax import lax

from dapt_jax.graph.primitives import rules


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


def _replay_dynamic_slice(cut, node, args):
  sizes = [
    args[0].shape[i] if n == cut.whole_size(node.ins[0], i) else n
    for i, n in enumerate(node.params['slice_sizes'])
  ]
  return lax.dynamic_slice(args[0], args[1:], sizes)


@rules.register('dynamic_slice', _replay_dynamic_slice)
def _dynamic_slice(ctx, node, ins):
  sizes = node.params['slice_sizes']
  whole = [n == len(a) for a, n in zip(ins[0], sizes)]
  rules.move_views(ctx, node.ins[0], node.outs[0], [i if w else -1 for i, w in enumerate(whole)])
  axes = []
  for axis, size, passes in zip(ins[0], sizes, whole):
    if passes:
      axes.append(axis)
      continue
    ctx.space.refuse(axis, 'an index looks positions of it up')
    axes.append(ctx.space.fresh(size))
    ctx.space.refuse(axes[-1], 'positions looked up in another axis')
  return [tuple(axes)]


@rules.register('dynamic_update_slice')
def _dynamic_update_slice(ctx, node, ins):
  for axis, update in zip(ins[0], ins[1]):
    if len(axis) == len(update):
      ctx.space.unify(axis, update)
    else:
      ctx.space.refuse(axis, 'an index writes positions of it')
      ctx.space.refuse(update, 'written into another axis')
  return [ins[0]]


@rules.register([f'scatter{kind}' for kind in ('', '-add', '-mul', '-min', '-max', '_add')])
def _scatter(ctx, node, ins):
  """Axes written whole join those of the update; all others stay whole."""
  numbers = node.params['dimension_numbers']
  gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
  window = [i for i in range(len(ins[0])) if i not in gone]
  origin = dict(zip(numbers.update_window_dims, window))
  passing = set()
  for j, update in enumerate(ins[2]):
    i = origin.get(j)
    if (
      i is not None
      and i not in numbers.scatter_dims_to_operand_dims
      and len(update) == len(ins[0][i])
    ):
      ctx.space.unify(ins[0][i], update)
      passing.add(i)
    else:
      ctx.space.refuse(update, 'written into another axis')
  for i, axis in enumerate(ins[0]):
    if i not in passing:
      ctx.space.refuse(axis, 'an index writes positions of it')
  for axis in ins[1]:
    ctx.space.refuse(axis, 'an axis of indices')
  return [ins[0]]
