"""Pooling of `[N, H, W, C]`, fast forward and backward on every backend, inside loops too.

The derivative of `lax.reduce_window` with `max` is `select_and_scatter_add`, which the CPU backend
runs as one scalar loop. The `'patches'` lowering is a chain of elementwise selections over shifted
slices instead; it gives the gradient to the first maximum of a window in row-major order, exactly
as `lax` does, so the two lowerings agree on ties as well.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dapt_jax.models import conv, windows

Pair = tuple[int, int]
Pads = tuple[tuple[int, int], ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_patches(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> jax.Array:
  """Maximum over the windows of `[N, H, W, C]` by shifted selections."""
  return _max_and_index(x, window, strides, pads)[0]


def _max_and_index(
  x: jax.Array, window: Pair, strides: Pair, pads: Pads
) -> tuple[jax.Array, jax.Array]:
  """The maximum of every window and the first position that holds it (`i * kw + j`, int8)."""
  shifted = windows.shifted_windows(windows.pad_spatial(x, pads, -np.inf), window, strides)
  value, index = shifted[0], jnp.zeros(shifted[0].shape, jnp.int8)
  for k, candidate in enumerate(shifted[1:], start=1):
    # Ties stay with the earlier position, NaNs come through: both as in lax.
    keep = (value >= candidate) | (value != value)
    value, index = jnp.where(keep, value, candidate), jnp.where(keep, index, jnp.int8(k))
  return value, index


def _max_fwd(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> tuple[jax.Array, Any]:
  value, index = _max_and_index(x, window, strides, pads)
  return value, (index, x.shape)


def _max_bwd(window: Pair, strides: Pair, pads: Pads, saved: Any, dy: jax.Array) -> tuple[Any]:
  index, shape = saved
  indices = _reading_windows(index, shape, window, strides, pads, -1)
  values = _reading_windows(dy, shape, window, strides, pads, 0)
  zero = jnp.zeros((), dy.dtype)
  terms = [jnp.where(i == k, v, zero) for k, (i, v) in enumerate(zip(indices, values))]
  return (functools.reduce(jnp.add, terms),)


_max_patches.defvjp(_max_fwd, _max_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _sum_patches(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> jax.Array:
  """Sum over the windows of `[N, H, W, C]` by shifted additions."""
  shifted = windows.shifted_windows(windows.pad_spatial(x, pads), window, strides)
  return functools.reduce(jnp.add, shifted)


def _sum_fwd(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> tuple[jax.Array, Any]:
  return _sum_patches(x, window, strides, pads), x.shape


def _sum_bwd(window: Pair, strides: Pair, pads: Pads, shape: Any, dy: jax.Array) -> tuple[Any]:
  return (functools.reduce(jnp.add, _reading_windows(dy, shape, window, strides, pads, 0)),)


_sum_patches.defvjp(_sum_fwd, _sum_bwd)


def _reading_windows(
  y: jax.Array, shape: tuple[int, ...], window: Pair, strides: Pair, pads: Pads, fill: int
) -> list[jax.Array]:
  """For every window position, the window that reads each input entry through that position.

  Shifts instead of scatters: XLA's CPU code for a sum of padded arrays (the transpose of slices)
  is many times slower than for a sum of slices of one padded array.

  Args:
    y: `[N, H', W', C]`, one value per window.
    shape: shape `[N, H, W, C]` of the pool's input.
    window: `(kh, kw)`.
    strides: window strides.
    pads: padding of the pool's input.
    fill: the value where no window reads.

  Returns:
    `kh * kw` arrays of shape `shape`.
  """
  config = [(0, 0, 0)]
  for out, size, k, s, (low, high) in zip(y.shape[1:3], shape[1:3], window, strides, pads):
    config.append((k - 1, low + size + high - (out - 1) * s - 1, s - 1))
  spread = lax.pad(y, jnp.asarray(fill, y.dtype), (*config, (0, 0, 0)))
  # Without the barrier XLA fuses what made `y` into the sum and computes it kh * kw times.
  spread = lax.optimization_barrier(spread)
  n, h, w, c = shape
  (kh, kw), ((top, _), (left, _)) = window, pads
  starts = [(kh - 1 - i + top, kw - 1 - j + left) for i in range(kh) for j in range(kw)]
  return [lax.slice(spread, (0, r, q, 0), (n, r + h, q + w, c)) for r, q in starts]


def _resolve(lowering: str) -> str:
  """Resolves 'auto': select_and_scatter is a scalar loop on CPU alone."""
  if lowering not in conv.LOWERINGS:
    raise ValueError(f'lowering={lowering!r}: choose one of {conv.LOWERINGS}')
  if lowering != 'auto':
    return lowering
  return 'patches' if jax.default_backend() == 'cpu' else 'lax'


def _reduce_window(
  x: jax.Array,
  init: float,
  operator: Any,
  window: tuple[int, int],
  strides: tuple[int, int],
  pads: tuple[tuple[int, int], ...],
) -> jax.Array:
  """`lax.reduce_window` over the spatial axes of `[N, H, W, C]`."""
  return lax.reduce_window(
    x,
    np.asarray(init, x.dtype),
    operator,
    (1, *window, 1),
    (1, *strides, 1),
    ((0, 0), *pads, (0, 0)),
  )


def max_pool(
  x: jax.Array,
  *,
  window: tuple[int, int] = (2, 2),
  strides: tuple[int, int] = (2, 2),
  padding: conv.Padding = 'SAME',
  lowering: str = 'auto',
) -> jax.Array:
  """Maximum over windows; padding never wins.

  Args:
    x: `f32[N, H, W, C]`.
    window: `(kh, kw)`.
    strides: window strides.
    padding: `'SAME'`, `'VALID'` or `((top, bottom), (left, right))`.
    lowering: `'auto'`, `'lax'` (`reduce_window`) or `'patches'` (shifted selections).

  Returns:
    `f32[N, H', W', C]`.
  """
  pads = conv.explicit_padding(x.shape[1:3], window, strides, padding)
  if _resolve(lowering) == 'lax':
    return _reduce_window(x, -np.inf, lax.max, window, strides, pads)
  return _max_patches(x, window, strides, pads)


def sum_pool(
  x: jax.Array,
  *,
  window: tuple[int, int] = (2, 2),
  strides: tuple[int, int] = (2, 2),
  padding: conv.Padding = 'SAME',
  lowering: str = 'auto',
) -> jax.Array:
  """Sum over windows; arguments and result as in `max_pool`."""
  pads = conv.explicit_padding(x.shape[1:3], window, strides, padding)
  if _resolve(lowering) == 'lax':
    return _reduce_window(x, 0.0, lax.add, window, strides, pads)
  return _sum_patches(x, window, strides, pads)


def avg_pool(
  x: jax.Array,
  *,
  window: tuple[int, int] = (2, 2),
  strides: tuple[int, int] = (2, 2),
  padding: conv.Padding = 'SAME',
  lowering: str = 'auto',
) -> jax.Array:
  """Mean over windows; padded positions do not count.

  Args:
    x: `f32[N, H, W, C]`.
    window: `(kh, kw)`.
    strides: window strides.
    padding: `'SAME'`, `'VALID'` or `((top, bottom), (left, right))`.
    lowering: `'auto'`, `'lax'` (`reduce_window`) or `'patches'` (shifted sums).

  Returns:
    `f32[N, H', W', C]`.
  """
  pads = conv.explicit_padding(x.shape[1:3], window, strides, padding)
  total = sum_pool(x, window=window, strides=strides, padding=pads, lowering=lowering)
  return total / _counts(x.shape[1:3], window, strides, pads).astype(x.dtype)


def _counts(
  size: tuple[int, ...],
  window: tuple[int, int],
  strides: tuple[int, int],
  pads: tuple[tuple[int, int], ...],
) -> np.ndarray:
  """How many unpadded entries each window holds: `[H', W', 1]`, a constant of the trace."""
  per_axis = []
  for n, k, s, (low, high) in zip(size, window, strides, pads):
    starts = np.arange(0, n + low + high - k + 1, s) - low
    per_axis.append(np.minimum(starts + k, n) - np.maximum(starts, 0))
  return (per_axis[0][:, None] * per_axis[1][None, :])[..., None].astype(np.float32)
