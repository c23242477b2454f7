"""A convolution of `[N, H, W, C]` and its kernel's gradient as matrix products of patches.

Two ways to write them down; what is copied is what costs:

* whole patches: all `kh * kw` shifted views side by side, one product. Nine copies for 3x3.
* by rows: only the `kw` views along a row side by side, `[N, H, W', kw * C]`; one product with the
  kernel rows side by side, `[kw * C, kh * O]`; then the sum of `kh` shifted rows. Three copies in
  and three out, and rows of products at the border that nobody needs.

`_by_rows` chooses. Measured on one core at batch 32 (ms forward, ms kernel gradient): 32x32x16 by
rows 2.6 and 3.0, whole patches 4.2 and 4.2; 8x8x64 2.4 and 2.8 against 2.4 and 2.5.

A patch matrix for a whole batch leaves the cache, and every run pays the page faults anew, so the
batch goes through in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from dapt_jax.models import windows

#: Patches (or patches and products, by rows) made at a time, in bytes.
WHOLE_BYTES, ROWS_BYTES = 2_500_000, 500_000


def convolve(x: jax.Array, kernel: jax.Array, geometry: windows.Geometry) -> jax.Array:
  """Convolution without groups.

  Args:
    x: `[N, H, W, C]`.
    kernel: `[kh, kw, C, O]`.
    geometry: window placement.

  Returns:
    `[N, H', W', O]`.

  Raises:
    ValueError: when the dilated window is larger than the padded input.
  """
  kh, kw, channels, width = kernel.shape
  if kh == kw == 1:
    return _whole(x, (1, 1), geometry) @ kernel.reshape(channels, width)
  rows, cols = windows.num_outputs(x.shape[1:3], (kh, kw), geometry)
  if _by_rows(kernel.shape, rows, geometry):
    size = _chunk(x.shape[0], rows * cols * (kw * channels + kh * width), ROWS_BYTES)
    flat = kernel.transpose(1, 2, 0, 3).reshape(kw * channels, kh * width)
    return _over_chunks(lambda part: _rows_product(part, flat, rows, kernel, geometry), x, size)
  size = _chunk(x.shape[0], rows * cols * kh * kw * channels, WHOLE_BYTES)
  flat = kernel.reshape(-1, width)
  return _over_chunks(lambda part: _whole(part, (kh, kw), geometry) @ flat, x, size)


def kernel_gradient(
  x: jax.Array, kernel: jax.Array, dy: jax.Array, geometry: windows.Geometry
) -> jax.Array:
  """Gradient of a convolution with respect to its kernel.

  Args:
    x: `[N, H, W, C]`, the input.
    kernel: `[kh, kw, C, O]`; only its shape matters.
    dy: `[N, H', W', O]`, the gradient of the output.
    geometry: window placement.

  Returns:
    `[kh, kw, C, O]`.
  """
  kh, kw, channels, width = kernel.shape
  rows, cols = dy.shape[1:3]
  if _by_rows(kernel.shape, rows, geometry):
    size = _chunk(x.shape[0], rows * cols * (kw * channels + kh * width), ROWS_BYTES)
    product = lambda x, dy: _rows_gradient(x, dy, kernel, geometry)
    total = _sum_over_chunks(product, x, dy, size)
    return total.reshape(kh, width, kw, channels).transpose(0, 2, 3, 1)
  depth = kh * kw * channels
  size = x.shape[0] if kh == kw == 1 else _chunk(x.shape[0], rows * cols * depth, WHOLE_BYTES)

  def product_of_whole(x: jax.Array, dy: jax.Array) -> jax.Array:
    return dy.reshape(-1, width).T @ _whole(x, (kh, kw), geometry).reshape(-1, depth)

  return _sum_over_chunks(product_of_whole, x, dy, size).T.reshape(kernel.shape)


def strided_input_gradient(
  shape: Sequence[int], kernel: jax.Array, dy: jax.Array, geometry: windows.Geometry
) -> jax.Array:
  """Gradient of a convolution with strides, without dilation, with respect to its input.

  One product gives what every output adds to the entries under its window. Entries `s` apart, a
  phase, are under equally placed windows, so a phase is a sum of shifted views; the phases are
  interleaved at the end. Spreading `dy` with zeros instead costs `sh * sw` times the products.

  Args:
    shape: `(N, H, W, C)` of the input.
    kernel: `[kh, kw, C, O]`.
    dy: `[N, H', W', O]`, the gradient of the output.
    geometry: window placement.

  Returns:
    An array of shape `shape`.
  """
  (sh, sw), ((top, _), (left, _)), _ = geometry
  kh, kw, channels, width = kernel.shape
  n, rows, cols = dy.shape[:3]
  parts = dy @ kernel.reshape(-1, width).T
  more = (kh - 1) // sh, (kw - 1) // sw  # windows before the last one that reach an entry
  padded = lax.optimization_barrier(windows.pad_spatial(parts, [(m, m) for m in more]))

  def view(i: int, j: int) -> jax.Array:
    """What window entry (i, j) adds, by the place of the entry in its phase."""
    first = (more[0] - i // sh, more[1] - j // sw)
    place = channels * (i * kw + j)
    start = (0, *first, place)
    end = (n, first[0] + rows + more[0], first[1] + cols + more[1], place + channels)
    return lax.slice(padded, start, end)

  zero = jnp.zeros((n, rows + more[0], cols + more[1], channels), dy.dtype)
  phases = [
    [sum((view(i, j) for i in range(p, kh, sh) for j in range(q, kw, sw)), zero) for q in range(sw)]
    for p in range(sh)
  ]
  mixed = jnp.stack([jnp.stack(row, 3) for row in phases], 2)  # [N, L, sh, M, sw, C]
  whole = mixed.reshape(n, sh * (rows + more[0]), sw * (cols + more[1]), channels)
  wanted = ((-top, shape[1] + top - whole.shape[1]), (-left, shape[2] + left - whole.shape[2]))
  return windows.pad_spatial(whole, wanted)


def _by_rows(kernel_shape: Sequence[int], rows: int, geometry: windows.Geometry) -> bool:
  """Whether fewer copies outweigh the rows computed in vain."""
  kh, kw, channels, width = kernel_shape
  if kh == 1 or kw == 1 or geometry.strides[0] > 1:
    return False
  return width <= 2 * channels and max(channels, width) <= 2 * rows


def _whole(x: jax.Array, window: windows.Pair, geometry: windows.Geometry) -> jax.Array:
  """The patch matrix `[N, H', W', kh * kw * C]`."""
  strides, pads, dilation = geometry
  padded = windows.pad_spatial(x, pads)
  if window == strides and dilation == (1, 1):
    return _apart(padded, window)
  return jnp.concatenate(windows.shifted_windows(padded, window, strides, dilation), -1)


def _apart(x: jax.Array, window: windows.Pair) -> jax.Array:
  """The patch matrix of windows that do not overlap: one transposition."""
  n, h, w, c = x.shape
  (kh, kw), rows, cols = window, h // window[0], w // window[1]
  tiles = x[:, : rows * kh, : cols * kw].reshape(n, rows, kh, cols, kw, c)
  return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, cols, kh * kw * c)


def _along_rows(x: jax.Array, width: int, geometry: windows.Geometry) -> jax.Array:
  """`[N, padded rows, W', width * C]`: the views under a window of one row."""
  (_, stride), pads, (_, dilation) = geometry
  # Without the barrier every view is padded anew.
  padded = lax.optimization_barrier(windows.pad_spatial(x, pads))
  views = windows.shifted_windows(padded, (1, width), (1, stride), (1, dilation))
  return jnp.concatenate(views, -1)


def _rows_product(
  x: jax.Array, flat: jax.Array, rows: int, kernel: jax.Array, geometry: windows.Geometry
) -> jax.Array:
  kh, kw, _, width = kernel.shape
  step = geometry.dilation[0]
  product = _along_rows(x, kw, geometry) @ flat
  product = lax.optimization_barrier(product)
  parts = [
    product[:, i * step : i * step + rows, :, i * width : (i + 1) * width] for i in range(kh)
  ]
  return sum(parts[1:], parts[0])


def _rows_gradient(
  x: jax.Array, dy: jax.Array, kernel: jax.Array, geometry: windows.Geometry
) -> jax.Array:
  """`[kh * O, kw * C]`."""
  kh, kw, channels, width = kernel.shape
  step, rows = geometry.dilation[0], dy.shape[1] + (kernel.shape[0] - 1) * geometry.dilation[0]
  views = _along_rows(x, kw, geometry)
  border = (kh - 1) * step
  padded = lax.optimization_barrier(windows.pad_spatial(dy, ((border, border), (0, 0))))
  shifted = [padded[:, border - i * step : border - i * step + rows] for i in range(kh)]
  return jnp.concatenate(shifted, -1).reshape(-1, kh * width).T @ views.reshape(-1, kw * channels)


def _chunk(n: int, floats: int, most: int) -> int:
  """The largest divisor of the batch size at which so many floats an image stay in `most` bytes."""
  fits = lambda size: size * floats * 4 <= most
  return max(size for size in range(1, n + 1) if n % size == 0 and (size == 1 or fits(size)))


def _over_chunks(fn: Callable[[jax.Array], jax.Array], x: jax.Array, size: int) -> jax.Array:
  """`fn` over `[N, ...]` in chunks of `size`."""
  if size == x.shape[0]:
    return fn(x)
  y = lax.map(fn, x.reshape(-1, size, *x.shape[1:]))
  return y.reshape(x.shape[0], *y.shape[2:])


def _sum_over_chunks(
  fn: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, dy: jax.Array, size: int
) -> jax.Array:
  """Sum of `fn` over pairs of chunks of `size`."""
  if size == x.shape[0]:
    return fn(x, dy)
  # A chunk takes every (N / size)-th image, so that a batch split over devices stays split.
  xs, dys = (a.reshape(size, -1, *a.shape[1:]) for a in (x, dy))

  def add(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
    part = [lax.dynamic_index_in_dim(a, i, axis=1, keepdims=False) for a in (xs, dys)]
    return total + fn(*part).astype(total.dtype), None

  # Starting from the first chunk gives the sum its varying axes under shard_map.
  first = fn(xs[:, 0], dys[:, 0])
  half = jnp.issubdtype(first.dtype, jnp.inexact) and first.dtype.itemsize < 4
  total = first.astype(jnp.float32) if half else first
  return lax.scan(add, total, jnp.arange(1, xs.shape[1]))[0].astype(first.dtype)
