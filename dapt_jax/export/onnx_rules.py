"""ONNX operators for JAX primitives: one table, `RULES`, for opset 18."""

from __future__ import annotations

from typing import Any

import numpy as np

from dapt_jax.export import onnx_shapes
from dapt_jax.export.onnx_graph import Call, Operand, Rule, Writer, ints

#: Primitives that are one ONNX operator with the same operands.
_SAME = {
  **{'abs': 'Abs', 'acos': 'Acos', 'acosh': 'Acosh', 'add': 'Add', 'add_any': 'Add'},
  **{'and': 'And', 'asin': 'Asin', 'asinh': 'Asinh', 'atan': 'Atan', 'atanh': 'Atanh'},
  **{'ceil': 'Ceil', 'cos': 'Cos', 'cosh': 'Cosh', 'div': 'Div', 'eq': 'Equal', 'erf': 'Erf'},
  **{'exp': 'Exp', 'floor': 'Floor', 'ge': 'GreaterOrEqual', 'gt': 'Greater'},
  **{'le': 'LessOrEqual', 'log': 'Log', 'logistic': 'Sigmoid', 'lt': 'Less', 'max': 'Max'},
  **{'min': 'Min', 'mul': 'Mul', 'neg': 'Neg', 'not': 'Not', 'or': 'Or', 'pow': 'Pow'},
  **{'sign': 'Sign', 'sin': 'Sin', 'sinh': 'Sinh', 'sqrt': 'Sqrt', 'sub': 'Sub', 'tan': 'Tan'},
  **{'tanh': 'Tanh', 'xor': 'Xor'},
}
_LOGICAL = ('and', 'or', 'not', 'xor')
_REDUCE = {
  'reduce_sum': 'ReduceSum',
  'reduce_prod': 'ReduceProd',
  'reduce_max': 'ReduceMax',
  'reduce_min': 'ReduceMin',
  'reduce_or': 'ReduceMax',
  'reduce_and': 'ReduceMin',
}


def _same(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  if call.name in _LOGICAL and call.out_dtypes[0] != np.bool_:
    raise ValueError(f'{call.name!r} of integers has no ONNX rule, only that of booleans')
  return w.node(_SAME[call.name], *ins)


def _identity(w: Writer, call: Call, ins: list[Operand]) -> list[Operand]:
  return ins


def _one(call: Call) -> np.ndarray:
  return np.ones((), call.out_dtypes[0])


def _ne(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  return w.node('Not', w.node('Equal', *ins))


def _is_finite(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  return w.node('Not', w.node('Or', w.node('IsInf', *ins), w.node('IsNaN', *ins)))


def _rsqrt(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  return w.node('Reciprocal', w.node('Sqrt', *ins))


def _square(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  return w.node('Mul', ins[0], ins[0])


def _integer_pow(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  return w.node('Pow', ins[0], np.asarray(call.params['y'], call.out_dtypes[0]))


def _log1p(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  return w.node('Log', w.node('Add', ins[0], _one(call)))


def _expm1(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  return w.node('Sub', w.node('Exp', ins[0]), _one(call))


def _erfc(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  return w.node('Sub', _one(call), w.node('Erf', ins[0]))


def _round(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  if call.params['rounding_method'].name != 'TO_NEAREST_EVEN':
    raise ValueError("'round' away from zero has no ONNX rule, only that to even numbers")
  return w.node('Round', ins[0])


def _cast(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  return w.node('Cast', ins[0], to=call.out_dtypes[0])


def _select(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  if len(ins) != 3:
    raise ValueError(f"'select_n' among {len(ins) - 1} cases has no ONNX rule, only that of two")
  return w.node('Where', w.node('Cast', ins[0], to=np.dtype(bool)), ins[2], ins[1])


def _clamp(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  low, x, high = ins
  return w.node('Min', w.node('Max', x, low), high)


def _reduce(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  boolean = call.out_dtypes[0] == np.bool_
  x = w.node('Cast', ins[0], to=np.dtype(np.int32)) if boolean else ins[0]
  out = w.node(_REDUCE[call.name], x, ints(call.params['axes']), keepdims=0)
  return w.node('Cast', out, to=np.dtype(bool)) if boolean else out


def _arg(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  operator = {'argmax': 'ArgMax', 'argmin': 'ArgMin'}[call.name]
  out = w.node(operator, ins[0], axis=int(call.params['axes'][0]), keepdims=0)
  return w.node('Cast', out, to=call.out_dtypes[0])


def _cumsum(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  axis = np.asarray(call.params['axis'], np.int64)
  return w.node('CumSum', ins[0], axis, reverse=int(call.params['reverse']))


def _dot(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  (left, right), (left_batch, right_batch) = call.params['dimension_numbers']
  a, b = (len(s) for s in call.shapes)
  if not left_batch and len(left) == 1 and left[0] == a - 1 and b == 2:
    return w.node('MatMul', ins[0], w.transpose(ins[1], (right[0], 1 - right[0])))
  letters = iter('abcdefghijklmnopqrstuvwxyz')
  one, two = [next(letters) for _ in range(a)], [next(letters) for _ in range(b)]
  for i, j in zip((*left, *left_batch), (*right, *right_batch)):
    two[j] = one[i]
  free = [one[i] for i in range(a) if i not in (*left, *left_batch)]
  free += [two[j] for j in range(b) if j not in (*right, *right_batch)]
  out = [one[i] for i in left_batch] + free
  return w.node('Einsum', *ins, equation=f'{"".join(one)},{"".join(two)}->{"".join(out)}')


def _conv(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  p = call.params
  if p['batch_group_count'] != 1 or any(d != 1 for d in p['lhs_dilation']):
    raise ValueError('a transposed or batch-grouped convolution has no ONNX rule')
  spec = p['dimension_numbers']
  out = w.node(
    'Conv',
    w.transpose(ins[0], spec.lhs_spec),
    w.transpose(ins[1], spec.rhs_spec),
    strides=_plain(p['window_strides']),
    dilations=_plain(p['rhs_dilation']),
    pads=_pads(call, p['padding']),
    group=int(p['feature_group_count']),
  )
  return w.transpose(out, np.argsort(spec.out_spec))


def _window(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  """Pooling wants the layout N, C, space: two axes that the window leaves alone come first."""
  p = call.params
  window, strides, pads = p['window_dimensions'], p['window_strides'], p['padding']
  if any(d != 1 for d in (*p['base_dilation'], *p['window_dilation'])):
    raise ValueError(f'{call.name!r} with dilation has no ONNX rule')
  trivial = [a == b == 1 and tuple(c) == (0, 0) for a, b, c in zip(window, strides, pads)]
  alone = [i for i, t in enumerate(trivial) if t]
  if len(alone) < 2:
    raise ValueError(f'{call.name!r} over more than all but two axes has no ONNX rule')
  first = [alone[0], alone[-1]]
  space = [i for i in range(len(window)) if i not in first]
  options: dict[str, Any] = {
    'kernel_shape': _plain(window[i] for i in space),
    'strides': _plain(strides[i] for i in space),
    'pads': _pads(call, [pads[i] for i in space]),
  }
  x = w.transpose(ins[0], first + space)
  if call.name == 'reduce_window_max':
    out = w.node('MaxPool', x, **options)
  else:
    mean = w.node('AveragePool', x, count_include_pad=1, **options)
    out = w.node('Mul', mean, np.asarray(np.prod(window), call.out_dtypes[0]))
  return w.transpose(out, np.argsort(first + space))


def _plain(values: Any) -> list[int]:
  return [int(v) for v in values]


def _pads(call: Call, pairs: Any) -> list[int]:
  """ONNX order: all low sides, then all high sides."""
  pads = [int(low) for low, _ in pairs] + [int(high) for _, high in pairs]
  if min(pads, default=0) < 0:
    raise ValueError(f'{call.name!r} with negative padding has no ONNX rule')
  return pads


#: Rule by primitive. A new one is a function of (writer, call, operands) and a line in the tests.
RULES: dict[str, Rule] = {
  **dict.fromkeys(_SAME, _same),
  **dict.fromkeys(_REDUCE, _reduce),
  **dict.fromkeys(('copy', 'copy_p', 'stop_gradient', 'optimization_barrier', 'name'), _identity),
  **{'argmax': _arg, 'argmin': _arg, 'clamp': _clamp, 'conv_general_dilated': _conv},
  **{'convert_element_type': _cast, 'cumsum': _cumsum, 'dot_general': _dot, 'erfc': _erfc},
  **{'expm1': _expm1, 'integer_pow': _integer_pow, 'is_finite': _is_finite, 'log1p': _log1p},
  **{'ne': _ne, 'reduce_window_max': _window, 'reduce_window_sum': _window, 'round': _round},
  **{'rsqrt': _rsqrt, 'select_n': _select, 'square': _square},
  **onnx_shapes.RULES,
}
