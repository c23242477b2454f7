"""Convolution: one place that decides how it is lowered, by backend, shape and place.

Two lowerings give the same numbers (to rounding), and the same parameters serve both:

* `'lax'`: `lax.conv_general_dilated`; the only choice on GPU and TPU, good for big maps on CPU.
* `'patches'`: pad, shifted slices, concatenate, one matrix product (a depthwise convolution is a
  sum of shifted products). On the CPU backend `lax.conv` inside `lax.scan` or `lax.map` runs about
  50 times slower than outside of it: a loop body does not call the threaded kernel. Matrix
  products do not suffer from this.

`choose` holds the rule and the measurements behind it; `benchmarks/conv.py` guards it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

LOWERINGS = ('auto', 'lax', 'patches')
#: Padding of the two spatial axes: a name, or `((top, bottom), (left, right))`.
Padding = str | Sequence[tuple[int, int]]
_NHWC = ('NHWC', 'HWIO', 'NHWC')


def choose(
  input_shape: Sequence[int],
  kernel_shape: Sequence[int],
  *,
  strides: tuple[int, int] = (1, 1),
  groups: int = 1,
  in_loop: bool = False,
  backend: str | None = None,
) -> str:
  """Decides the lowering of one convolution; a pure function of its arguments.

  Args:
    input_shape: `(N, H, W, C)` of the input.
    kernel_shape: `(kh, kw, C // groups, O)` of the kernel.
    strides: window strides over `(H, W)`.
    groups: number of feature groups; `C` for a depthwise convolution.
    in_loop: whether the convolution runs in the body of `lax.scan`, `lax.map` or `lax.while_loop`,
      or is mapped over a population of kernels by `vmap`.
    backend: `'cpu'`, `'gpu'` or `'tpu'`; None means `jax.default_backend()`.

  Returns:
    `'lax'` or `'patches'`.
  """
  backend = jax.default_backend() if backend is None else backend
  if backend != 'cpu':
    return 'lax'
  kh, kw, _, _ = kernel_shape
  channels = input_shape[3]
  if in_loop or groups > 1 or (kh, kw) == (1, 1):
    return 'patches'
  positions = -(-input_shape[1] // strides[0]) * -(-input_shape[2] // strides[1])
  return 'patches' if positions <= 64 and channels >= 64 else 'lax'


def explicit_padding(
  size: Sequence[int],
  window: Sequence[int],
  strides: Sequence[int],
  padding: Padding,
  dilation: Sequence[int] = (1, 1),
) -> tuple[tuple[int, int], ...]:
  """Turns `'SAME'`, `'VALID'` or pairs into `((top, bottom), (left, right))`.

  Args:
    size: spatial sizes `(H, W)` of the input.
    window: spatial sizes of the window.
    strides: window strides.
    padding: a name or explicit pairs.
    dilation: window dilation.

  Returns:
    One pair of non-negative ints for each spatial axis.

  Raises:
    ValueError: for an unknown name or pairs that do not match the spatial axes.
  """
  if isinstance(padding, str):
    if padding not in ('SAME', 'VALID'):
      raise ValueError(
        f"padding={padding!r}: give 'SAME', 'VALID' or ((top, bottom), (left, right))"
      )
    spans = [(w - 1) * d + 1 for w, d in zip(window, dilation)]
    pairs = lax.padtype_to_pads(tuple(size), spans, tuple(strides), padding)
    return tuple((int(low), int(high)) for low, high in pairs)
  if len(padding) != len(size) or any(len(pair) != 2 for pair in padding):
    raise ValueError(f'padding={padding!r}: give one (low, high) pair for each of {len(size)} axes')
  return tuple((int(low), int(high)) for low, high in padding)


def shifted_windows(
  x: jax.Array,
  window: tuple[int, int],
  strides: tuple[int, int],
  dilation: tuple[int, int] = (1, 1),
) -> list[jax.Array]:
  """The views of an already padded input under each window position, in row-major order.

  Args:
    x: `[N, H, W, C]`, padded.
    window: `(kh, kw)`.
    strides: window strides.
    dilation: window dilation.

  Returns:
    `kh * kw` arrays `[N, H', W', C]`; entry `i * kw + j` is what window entry `(i, j)` sees.
  """
  n, h, w, c = x.shape
  (kh, kw), (sh, sw), (dh, dw) = window, strides, dilation
  rows = (h - (kh - 1) * dh - 1) // sh + 1
  cols = (w - (kw - 1) * dw - 1) // sw + 1
  if rows < 1 or cols < 1:
    raise ValueError(f'window {window} with dilation {dilation} is larger than the padded {h}x{w}')
  return [
    lax.slice(
      x,
      (0, i * dh, j * dw, 0),
      (n, i * dh + (rows - 1) * sh + 1, j * dw + (cols - 1) * sw + 1, c),
      (1, sh, sw, 1),
    )
    for i, j in itertools.product(range(kh), range(kw))
  ]


def pad_spatial(x: jax.Array, pads: Sequence[tuple[int, int]], value: float = 0.0) -> jax.Array:
  """Pads (or, for negative pads, crops) the spatial axes of `[N, H, W, C]`."""
  if not any(low or high for low, high in pads):
    return x
  config = ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0))
  return lax.pad(x, jnp.asarray(value, x.dtype), config)


def _conv_patches(
  x: jax.Array,
  kernel: jax.Array,
  strides: tuple[int, int],
  pads: Sequence[tuple[int, int]],
  dilation: tuple[int, int],
  groups: int,
) -> jax.Array:
  """The 'patches' lowering; the arguments of `conv2d` with explicit pads."""
  kh, kw, inner, out = kernel.shape
  windows = shifted_windows(pad_spatial(x, pads), (kh, kw), strides, dilation)
  taps = kernel.reshape(kh * kw, inner, out)
  if groups == 1:
    stacked = windows[0] if len(windows) == 1 else jnp.concatenate(windows, axis=-1)
    return stacked @ taps.reshape(kh * kw * inner, out)
  if inner == 1:
    # Output channel o of a depthwise convolution reads input channel o // multiplier.
    multiplier = out // groups
    windows = windows if multiplier == 1 else [jnp.repeat(v, multiplier, -1) for v in windows]
    return sum((v * tap[0] for v, tap in zip(windows[1:], taps[1:])), windows[0] * taps[0, 0])
  grouped = jnp.stack([v.reshape(*v.shape[:3], groups, inner) for v in windows], axis=-2)
  blocks = taps.reshape(kh * kw, inner, groups, out // groups)
  y = jnp.einsum('nhwgkc,kcgo->nhwgo', grouped, blocks)
  return y.reshape(*y.shape[:3], out)


def conv2d(
  x: jax.Array,
  kernel: jax.Array,
  *,
  strides: tuple[int, int] = (1, 1),
  padding: Padding = 'SAME',
  dilation: tuple[int, int] = (1, 1),
  groups: int = 1,
  lowering: str = 'auto',
  in_loop: bool = False,
) -> jax.Array:
  """Two-dimensional convolution (cross-correlation) of `[N, H, W, C]`.

  Args:
    x: `[N, H, W, C]`.
    kernel: `[kh, kw, C // groups, O]`.
    strides: window strides over `(H, W)`.
    padding: `'SAME'`, `'VALID'` or `((top, bottom), (left, right))`.
    dilation: kernel dilation.
    groups: feature groups; `C` makes the convolution depthwise.
    lowering: `'auto'` (see `choose`), `'lax'` or `'patches'`.
    in_loop: tells `'auto'` that this runs inside a loop body or under `vmap` over kernels.

  Returns:
    `[N, H', W', O]`, the same for every lowering up to rounding.

  Raises:
    ValueError: for an unknown lowering or shapes that do not fit together.
  """
  if lowering not in LOWERINGS:
    raise ValueError(f'lowering={lowering!r}: choose one of {LOWERINGS}')
  if x.ndim != 4 or kernel.ndim != 4:
    raise ValueError(f'x{x.shape} and kernel{kernel.shape} must be [N, H, W, C] and [kh, kw, I, O]')
  if x.shape[3] != kernel.shape[2] * groups or kernel.shape[3] % groups:
    raise ValueError(
      f'x{x.shape}, kernel{kernel.shape} and groups={groups} do not fit: C must equal I * groups '
      'and O must be a multiple of groups'
    )
  if lowering == 'auto':
    lowering = choose(x.shape, kernel.shape, strides=strides, groups=groups, in_loop=in_loop)
  pads = explicit_padding(x.shape[1:3], kernel.shape[:2], strides, padding, dilation)
  if lowering == 'patches':
    return _conv_patches(x, kernel, strides, pads, dilation, groups)
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    pads,
    rhs_dilation=dilation,
    dimension_numbers=_NHWC,
    feature_group_count=groups,
  )


def conv_general_dilated(
  lhs: jax.Array,
  rhs: jax.Array,
  *,
  window_strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int],
  rhs_dilation: Sequence[int],
  dimension_numbers: lax.ConvDimensionNumbers,
  feature_group_count: int = 1,
  batch_group_count: int = 1,
  lowering: str = 'auto',
  in_loop: bool = False,
  **ignored: Any,
) -> jax.Array:
  """Stands in for `lax.conv_general_dilated_p.bind(lhs, rhs, **eqn.params)` in a replayed jaxpr.

  Takes the fast lowering where it applies (two spatial axes, no input dilation, one batch group)
  and `lax` otherwise. Fix `lowering` and `in_loop` with `functools.partial`.

  Args:
    lhs: the input, in the layout that `dimension_numbers` says.
    rhs: the kernel, likewise.
    window_strides: as in the primitive's parameters.
    padding: explicit pairs, as in the primitive's parameters.
    lhs_dilation: input dilation.
    rhs_dilation: kernel dilation.
    dimension_numbers: `lax.ConvDimensionNumbers` of axis numbers.
    feature_group_count: feature groups.
    batch_group_count: batch groups.
    lowering: as in `conv2d`.
    in_loop: as in `conv2d`.
    **ignored: `precision` and `preferred_element_type` go on to `lax`; the rest of the primitive's
      parameters is dropped.

  Returns:
    The output in the layout that `dimension_numbers` says.
  """
  plain = (
    lhs.ndim == 4
    and batch_group_count == 1
    and all(d == 1 for d in lhs_dilation)
    and ignored.get('preferred_element_type') in (None, lhs.dtype)
  )
  if plain:
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    y = conv2d(
      lhs.transpose(lhs_spec[0], *lhs_spec[2:], lhs_spec[1]),
      rhs.transpose(*rhs_spec[2:], rhs_spec[1], rhs_spec[0]),
      strides=(int(window_strides[0]), int(window_strides[1])),
      padding=padding,
      dilation=(int(rhs_dilation[0]), int(rhs_dilation[1])),
      groups=feature_group_count,
      lowering=lowering,
      in_loop=in_loop,
    )
    # y is [N, H, W, O]; axis order of the wanted output is the inverse of its spec.
    source = {out_spec[0]: 0, out_spec[2]: 1, out_spec[3]: 2, out_spec[1]: 3}
    return y.transpose(*(source[axis] for axis in range(4)))
  kept = {k: ignored[k] for k in ('precision', 'preferred_element_type') if k in ignored}
  return lax.conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation,
    rhs_dilation,
    dimension_numbers,
    feature_group_count=feature_group_count,
    batch_group_count=batch_group_count,
    **kept,
  )
