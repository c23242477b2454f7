"""Primitives that work position by position, reduce axes, or slide a window over space."""

from __future__ import annotations

from collections.abc import Sequence

from dapt_jax.graph import labels, rules
from dapt_jax.graph import program as program_lib

_UNARY_LINEAR = ['neg', 'copy', 'copy_p', 'convert_element_type', 'reduce_precision', 'real']
_UNARY = """abs acos acosh asin asinh atan atanh cbrt ceil cos cosh digamma erf erf_inv erfc exp
exp2 expm1 floor integer_pow is_finite lgamma log log1p logistic not round rsqrt sign sin sinh sqrt
square stop_gradient tan tanh optimization_barrier imag conj population_count clz""".split()
_NARY = """add add_any and atan2 clamp div eq ge gt igamma le lt max min mul ne nextafter or pow
rem select_n shift_left shift_right_arithmetic shift_right_logical sub xor""".split()
_REDUCE = """argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum
reduce_xor""".split()
_WINDOW = """reduce_window reduce_window_max reduce_window_min reduce_window_sum""".split()
_CUMULATIVE = ['cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp']


def join(
  ctx: rules.Context, node: program_lib.Node, ins: Sequence[labels.Axes], out: int
) -> labels.Axes:
  """Labels of an elementwise result: axes of equal size are one, size-1 axes broadcast."""
  shape = ctx.program.shape(out)
  axes = []
  for number, size in enumerate(shape):
    found = [a[number] for a in ins if len(a) == len(shape) and len(a[number]) == size]
    axis = found[0] if found else ctx.space.fresh(size)
    for other in found[1:]:
      ctx.space.unify(axis, other)
    axes.append(axis)
  return tuple(axes)


@rules.register([*_UNARY, *_UNARY_LINEAR])
def _unary(ctx, node, ins):
  if node.name in _UNARY_LINEAR:
    keep_view(ctx, node.ins[0], node.outs[0])
  return [join(ctx, node, ins, out) for out in node.outs]


@rules.register(_NARY)
def _nary(ctx, node, ins):
  if node.name in ('mul', 'div'):
    left, right = node.ins
    if not ctx.program.shape(right):
      keep_view(ctx, left, node.outs[0])
    elif node.name == 'mul' and not ctx.program.shape(left):
      keep_view(ctx, right, node.outs[0])
  return [join(ctx, node, ins, node.outs[0])]


def keep_view(ctx: rules.Context, source: int, target: int) -> None:
  """`target` is `source` scaled or cast: still the same parameter, axis by axis."""
  view = ctx.view(source)
  if view is not None:
    ctx.set_view(target, *view)


@rules.register(_REDUCE)
def _reduce(ctx, node, ins):
  gone = set(node.params['axes'])
  for axis in gone:
    ctx.space.refuse(ins[0][axis], f'{node.name} runs over it, with no parameter to carry a gate')
  return [tuple(a for i, a in enumerate(ins[0]) if i not in gone)]


@rules.register(_WINDOW)
def _window(ctx, node, ins):
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


@rules.register(['iota', 'rng_bit_generator', 'random_bits', 'random_seed', 'random_wrap'])
def _made(ctx, node, ins):
  for axes in ins:
    for axis in axes:
      ctx.space.refuse(axis, f'feeds {node.name}')
  return rules.made_here(ctx, node)
