"""Convolution: one place that decides how it is lowered, by backend, shape and place.

Three lowerings give the same numbers (to rounding), and the same parameters serve all of them:

* `'lax'`: `lax.conv_general_dilated`; the only choice on GPU and TPU.
* `'mixed'`: the same, but the kernel's gradient by matrix products of patches.
* `'patches'`: matrix products of patches throughout (a depthwise convolution is a sum of shifted
  products). On the CPU backend `lax.conv` inside `lax.scan` or `lax.map` runs up to 50 times slower
  than outside of it: a loop body does not call the threaded kernel. Matrix products do not suffer.

`choose` holds the rule; docs/conv.md the measurements behind it; `benchmarks/conv.py` guards it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dapt_jax.models import depthwise, patches, windows

LOWERINGS = ('auto', 'lax', 'mixed', 'patches')
#: Padding of the two spatial axes: a name, or `((top, bottom), (left, right))`.
Padding = str | Sequence[tuple[int, int]]


def choose(
  kernel_shape: Sequence[int],
  size: Sequence[int],
  *,
  dilation: Sequence[int] = (1, 1),
  groups: int = 1,
  in_loop: bool = False,
  backend: str | None = None,
) -> str:
  """Decides the lowering of one convolution; a pure function of its arguments.

  The rule: `'lax'` off the CPU. On the CPU `'patches'` in loops, for 1x1 kernels (one matrix
  product), for groups, for a single channel and for inputs smaller than the window (where `lax`
  runs one scalar loop); `'mixed'` for everything else.

  Args:
    kernel_shape: `(kh, kw, C // groups, O)` of the kernel.
    size: `(H, W)` of the input, not padded.
    dilation: kernel dilation.
    groups: number of feature groups; `C` for a depthwise convolution.
    in_loop: whether the convolution runs in the body of `lax.scan`, `lax.map` or `lax.while_loop`,
      or is mapped over a population of kernels by `vmap`.
    backend: `'cpu'`, `'gpu'` or `'tpu'`; None means `jax.default_backend()`.

  Returns:
    `'lax'`, `'mixed'` or `'patches'`.
  """
  backend = jax.default_backend() if backend is None else backend
  if backend != 'cpu':
    return 'lax'
  kh, kw, channels = kernel_shape[:3]
  small = any(n < (k - 1) * d + 1 for n, k, d in zip(size, (kh, kw), dilation))
  return 'patches' if in_loop or groups > 1 or channels == 1 or kh == kw == 1 or small else 'mixed'


def explicit_padding(
  size: Sequence[int],
  window: Sequence[int],
  strides: Sequence[int],
  padding: Padding,
  dilation: Sequence[int] = (1, 1),
) -> tuple[tuple[int, int], tuple[int, int]]:
  """Turns `'SAME'`, `'VALID'` or pairs into `((top, bottom), (left, right))`.

  Args:
    size: spatial sizes `(H, W)` of the input.
    window: spatial sizes of the window.
    strides: window strides.
    padding: a name or explicit pairs.
    dilation: window dilation.

  Returns:
    One pair of ints for each spatial axis.

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
    return _two_pairs(pairs)
  if len(padding) != len(size) or any(len(pair) != 2 for pair in padding):
    raise ValueError(f'padding={padding!r}: give one (low, high) pair for each of {len(size)} axes')
  return _two_pairs(padding)


def _two_pairs(pairs: Sequence[Sequence[int]]) -> tuple[tuple[int, int], tuple[int, int]]:
  """Plain ints, hashable."""
  (top, bottom), (left, right) = pairs
  return (int(top), int(bottom)), (int(left), int(right))


def _grouped_patches(
  x: jax.Array, kernel: jax.Array, geometry: windows.Geometry, groups: int
) -> jax.Array:
  """Grouped convolution without `lax.conv`; depthwise where every group has one channel."""
  inner, width = kernel.shape[2:]
  if inner == 1:
    # Output channel o reads input channel o // multiplier.
    multiplier = width // groups
    x = x if multiplier == 1 else jnp.repeat(x, multiplier, axis=-1)
    return depthwise.conv(x, kernel, geometry)
  parts = [
    patches.conv(part, block, geometry)
    for part, block in zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1))
  ]
  return jnp.concatenate(parts, axis=-1)


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
    lowering: `'auto'` (see `choose`), `'lax'`, `'mixed'` or `'patches'`. All but `'lax'` have
      derivatives in reverse mode only.
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
    size = x.shape[1:3]
    lowering = choose(kernel.shape, size, dilation=dilation, groups=groups, in_loop=in_loop)
  pads = explicit_padding(x.shape[1:3], kernel.shape[:2], strides, padding, dilation)
  (sh, sw), (dh, dw) = strides, dilation
  geometry = windows.Geometry((sh, sw), pads, (dh, dw))
  if lowering == 'lax' or not x.size or not kernel.size:
    return patches.conv_lax(x, kernel, geometry, groups)
  if groups > 1:
    return _grouped_patches(x, kernel, geometry, groups)
  return (patches.conv if lowering == 'patches' else patches.conv_mixed)(x, kernel, geometry)


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
