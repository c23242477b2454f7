"""ONNX operators for the primitives that move positions about; part of `onnx_rules.RULES`."""

from __future__ import annotations

import numpy as np

from dapt_jax.export.onnx_graph import BATCHES, Call, Operand, Rule, Writer, ints


def _reshape(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  return w.reshape(ins[0], call.out_shapes[0])


def _transpose(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  return w.transpose(ins[0], call.params['permutation'])


def _broadcast(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  target = call.out_shapes[0]
  aligned = [1] * len(target)
  for axis, size in zip(call.params['broadcast_dimensions'], call.shapes[0]):
    aligned[axis] = size
  x = w.reshape(ins[0], tuple(aligned)) if tuple(aligned) != call.shapes[0] else ins[0]
  if tuple(aligned) == target:
    return x
  # A one in the target keeps the size that the operand has.
  return w.node('Expand', x, w.sizes(tuple(1 if a == t else t for a, t in zip(aligned, target))))


def _slice(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  p = call.params
  steps = p['strides'] or [1] * len(call.shapes[0])
  return _cut(w, call, ins[0], p['start_indices'], p['limit_indices'], steps)


def _dynamic_slice(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  if any(isinstance(x, str) for x in ins[1:]):
    raise ValueError("'dynamic_slice' at a place that depends on the input has no ONNX rule")
  pairs = list(zip(call.shapes[0], call.out_shapes[0]))
  starts = [0 if n < 0 else int(np.clip(x, 0, n - k)) for x, (n, k) in zip(ins[1:], pairs)]
  ends = [s + k for s, (_, k) in zip(starts, pairs)]
  return _cut(w, call, ins[0], starts, ends, [1] * len(pairs))


def _cut(w: Writer, call: Call, x: Operand, starts, ends, steps) -> Operand:
  """Slices the axes that lose something; the batch must stay whole."""
  whole = call.shapes[0]
  axes = [i for i, (a, b) in enumerate(zip(whole, call.out_shapes[0])) if a != b]
  if any(whole[i] < 0 for i in axes) or any(
    n < 0 and (s != 0 or k != 1) for n, s, k in zip(whole, starts, steps)
  ):
    raise ValueError(f'{call.name!r} along the batch has no ONNX rule')
  if not axes:
    return x
  pick = lambda values: ints([values[i] for i in axes])
  return w.node('Slice', x, pick(starts), pick(ends), ints(axes), pick(steps))


def _rev(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  axes = call.params['dimensions']
  if any(call.shapes[0][i] < 0 for i in axes):
    raise ValueError("'rev' along the batch has no ONNX rule")
  ends = ints([np.iinfo(np.int64).min] * len(axes))
  return w.node('Slice', ins[0], ints([-1] * len(axes)), ends, ints(axes), ints([-1] * len(axes)))


def _pad(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  config = call.params['padding_config']
  if any(inner for _, _, inner in config):
    raise ValueError("'pad' between the entries has no ONNX rule")
  return w.node('Pad', ins[0], ints([c[0] for c in config] + [c[1] for c in config]), ins[1])


def _concatenate(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  return w.node('Concat', *ins, axis=int(call.params['dimension']))


def _stack(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  axis = int(call.params['axis'])
  pieces = [w.reshape(x, (*shape[:axis], 1, *shape[axis:])) for x, shape in zip(ins, call.shapes)]
  return w.node('Concat', *pieces, axis=axis)


def _split(w: Writer, call: Call, ins: list[Operand]) -> list[Operand]:
  axis = int(call.params['axis'])
  if len(call.out_shapes) == 1:
    return [ins[0]]
  sizes = ints([s[axis] for s in call.out_shapes])
  return w.node('Split', ins[0], sizes, outs=len(sizes), axis=axis)


def _gather(w: Writer, call: Call, ins: list[Operand]) -> Operand:
  """`table[ids]`: whole slices along one axis. Ids out of range are not defined in ONNX."""
  numbers, sizes = call.params['dimension_numbers'], call.params['slice_sizes']
  table = call.shapes[0]
  axes = tuple(numbers.start_index_map)
  full = [n if n >= 0 else -n * BATCHES[0] for n in table]
  whole = all(s == n for i, (s, n) in enumerate(zip(sizes, full)) if i not in axes)
  lookup = len(axes) == 1 and tuple(numbers.collapsed_slice_dims) == axes and sizes[axes[0]] == 1
  if not (lookup and whole) or numbers.operand_batching_dims:
    raise ValueError("'gather' has an ONNX rule only as a look-up of whole slices along one axis")
  axis = axes[0]
  indices = w.reshape(ins[1], call.shapes[1][:-1])
  out = w.node('Gather', ins[0], indices, axis=axis)
  # ONNX puts the axes of the indices in the place of the axis looked up; JAX where it is told.
  rank = len(call.out_shapes[0])
  offsets = list(numbers.offset_dims)
  others = [i for i in range(rank) if i not in offsets]
  places = offsets[:axis] + others + offsets[axis:]
  return w.transpose(out, np.argsort(places))


RULES: dict[str, Rule] = {
  **{'broadcast_in_dim': _broadcast, 'concatenate': _concatenate, 'dynamic_slice': _dynamic_slice},
  **{'gather': _gather, 'pad': _pad, 'reshape': _reshape, 'rev': _rev, 'slice': _slice},
  **{'split': _split, 'squeeze': _reshape, 'stack': _stack, 'transpose': _transpose},
}
