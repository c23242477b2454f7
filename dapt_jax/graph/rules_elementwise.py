"""Primitives that work position by position, and those that make values from nothing."""

from __future__ import annotations

from collections.abc import Sequence

from dapt_jax.graph import labels, rules
from dapt_jax.graph import program as program_lib

_LINEAR = ('neg', 'copy', 'copy_p', 'convert_element_type', 'reduce_precision')
_UNARY = (
  *('abs', 'acos', 'acosh', 'asin', 'asinh', 'atan', 'atanh', 'cbrt', 'ceil', 'clz', 'conj'),
  *('cos', 'cosh', 'digamma', 'erf', 'erf_inv', 'erfc', 'exp', 'exp2', 'expm1', 'floor', 'imag'),
  *('integer_pow', 'is_finite', 'lgamma', 'log', 'log1p', 'logistic', 'not', 'population_count'),
  *('real', 'round', 'rsqrt', 'sign', 'sin', 'sinh', 'sqrt', 'square', 'stop_gradient'),
  *('tan', 'tanh'),
)
_NARY = (
  *('add', 'add_any', 'and', 'atan2', 'clamp', 'div', 'eq', 'ge', 'gt', 'igamma', 'le', 'lt'),
  *('max', 'min', 'mul', 'ne', 'nextafter', 'or', 'pow', 'rem', 'select_n', 'shift_left'),
  *('shift_right_arithmetic', 'shift_right_logical', 'sub', 'xor'),
)
_RANDOM = (
  *('random_bits', 'random_fold_in', 'random_seed', 'random_split', 'random_unwrap', 'random_wrap'),
  *('rng_bit_generator', 'rng_uniform', 'threefry2x32'),
)


def join(
  ctx: rules.Context, node: program_lib.Node, ins: Sequence[labels.Axes], out: int
) -> labels.Axes:
  """Labels of an elementwise result: axes of equal size are one, size-1 axes broadcast."""
  shape = ctx.program.shape(out)
  operands = [a for a in ins if len(a) == len(shape)]
  axes = []
  for number, size in enumerate(shape):
    found = [a[number] for a in operands if len(a[number]) == size]
    axis = found[0] if found else ctx.space.fresh(size)
    for other in found[1:]:
      ctx.space.unify(axis, other)
    for operand in operands:
      if len(operand[number]) != size:
        rules.drop(ctx, operand[number], 'broadcast')
    axes.append(axis)
  return tuple(axes)


@rules.register([*_UNARY, *_LINEAR])
def _unary(ctx, node, ins):
  if node.name in _LINEAR:
    keep_view(ctx, node.ins[0], node.outs[0])
  return [join(ctx, node, ins, out) for out in node.outs]


@rules.register('optimization_barrier')
def _barrier(ctx, node, ins):
  for source, target in zip(node.ins, node.outs):
    keep_view(ctx, source, target)
  return list(ins)


@rules.register(_NARY)
def _nary(ctx, node, ins):
  if node.name == 'mul':
    keep_view(ctx, *node.ins, node.outs[0]) or keep_view(ctx, *node.ins[::-1], node.outs[0])
  elif node.name == 'div' and not ctx.has_roots(node.ins[1]):
    keep_view(ctx, *node.ins, node.outs[0])
  return [join(ctx, node, ins, node.outs[0])]


def keep_view(ctx: rules.Context, source: int, *others: int) -> bool:
  """Declares that a result is `source` scaled or cast: the same parameter, axis by axis.

  Args:
    ctx: the running analysis.
    source: the value that may be a view of a parameter.
    *others: the factor (if there is one), then the result.

  Returns:
    Whether the result is such a view. A factor computed from the same parameter makes it none.
  """
  *factors, target = others
  views = ctx.views(source)
  same = ctx.program.shape(source) == ctx.program.shape(target)
  if not same or any(ctx.depends_on(f, v.parameter) for f in factors for v in views):
    return False
  ctx.set_views(target, views)
  return bool(views)


@rules.register('bitcast_convert_type')
def _bitcast(ctx, node, ins):
  if ctx.program.shape(node.ins[0]) != ctx.program.shape(node.outs[0]):
    return rules.opaque(ctx, node, ins)
  return [join(ctx, node, ins, node.outs[0])]


@rules.register(['iota', *_RANDOM])
def _made(ctx, node, ins):
  for axes in ins:
    for axis in axes:
      ctx.space.refuse(axis, f'feeds {node.name}')
  return rules.made_here(ctx, node)
