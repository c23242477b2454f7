"""Primitives that reduce axes, slide a window over space, or run along an axis.

A normaliser (LayerNorm, softmax) reduces the axis that it normalises. There the gates have to be
weights of the reduction: sum(gate * x), and the maximum over what has a gate. `replay` does so.
"""

from __future__ import annotations

from dapt_jax.graph.primitives import rules

_REDUCE = (
  *('argmax', 'argmin', 'reduce_and', 'reduce_max', 'reduce_min', 'reduce_or', 'reduce_prod'),
  *('reduce_sum', 'reduce_xor'),
)
#: Reductions in which a gate can act as the weight of a position.
WEIGHABLE = ('reduce_max', 'reduce_min', 'reduce_sum')
_WINDOW = ('reduce_window', 'reduce_window_max', 'reduce_window_min', 'reduce_window_sum')
_CUMULATIVE = ('cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp')


@rules.register(_REDUCE)
def _reduce(ctx, node, ins):
  gone = set(node.params['axes'])
  if node.name in WEIGHABLE:
    ctx.weigh(node, sorted(gone))
  else:
    for axis in gone:
      ctx.space.refuse(ins[0][axis], f'{node.name} runs over it')
  return [tuple(a for i, a in enumerate(ins[0]) if i not in gone)]


@rules.register(_WINDOW)
def _window(ctx, node, ins):
  if len(node.outs) != 1:
    return rules.opaque(ctx, node, ins)
  p = node.params
  shape = ctx.program.shape(node.outs[0])
  axes = []
  for i, axis in enumerate(ins[0]):
    plain = (
      p['window_dimensions'][i] == 1
      and p['window_strides'][i] == 1
      and tuple(p['padding'][i]) == (0, 0)
      and p['base_dilation'][i] == 1
    )
    if plain:
      axes.append(axis)
      continue
    ctx.space.refuse(axis, 'a window slides over it')
    out = ctx.space.fresh(shape[i])
    ctx.space.refuse(out, 'a window slides over it')
    axes.append(out)
  return [tuple(axes)]


@rules.register(_CUMULATIVE)
def _cumulative(ctx, node, ins):
  ctx.space.refuse(ins[0][node.params['axis']], f'{node.name} runs along it')
  return [ins[0]]


@rules.register('sort')
def _sort(ctx, node, ins):
  """Positions along the sorted axis change places; all other axes are those of every operand."""
  for axes in ins:
    ctx.space.refuse(axes[node.params['dimension']], 'it is sorted')
    for a, b in zip(ins[0], axes):
      ctx.space.unify(a, b)
  return [ins[0] for _ in node.outs]


@rules.register(['top_k', 'approx_top_k'])
def _top_k(ctx, node, ins):
  along = node.params.get('reduction_dimension', node.params.get('axis', -1)) % len(ins[0])
  ctx.space.refuse(ins[0][along], 'the largest of it are chosen')
  outs = []
  for value in node.outs:
    axis = ctx.space.fresh(ctx.program.shape(value)[along])
    ctx.space.refuse(axis, 'the largest of another axis')
    outs.append(tuple(axis if i == along else a for i, a in enumerate(ins[0])))
  return outs
