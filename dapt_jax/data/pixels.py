"""Arithmetic on picture arrays: bytes to floats, and resizing with weights written out.

Resizing is separable and linear. Each axis is treated on its own: an axis that shrinks is
averaged over areas, an axis that grows is interpolated linearly between pixel centres. Every row
of the weight matrix sums to one, so values stay within [0, 1]; for shrinking the columns sum to
`n_out / n_in` as well, so the mean of the picture is preserved exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

#: Pictures turned to floats at one time; bounds the memory of a resize.
_CHUNK = 4096


class Lazy(Protocol):
  """Pictures that are not in memory: an array [n, h, w, c] of which rows are read; see `stored`."""

  @property
  def shape(self) -> tuple[int, ...]:
    """(n, h, w, c)."""

  @property
  def ndim(self) -> int:
    """4."""

  @property
  def dtype(self) -> np.dtype:
    """u8, or f32 in [0, 1]."""

  def __len__(self) -> int: ...

  def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
    """Reads rows into memory."""

  def select(self, index: np.ndarray) -> Lazy:
    """Some rows, not read."""

  def resize(self, size: int | Sequence[int]) -> Lazy:
    """Another size, not read."""


def to_float(pixels: np.ndarray) -> np.ndarray:
  """Returns pictures as f32 in [0, 1].

  Args:
    pixels: u8 in 0..255 or floats already in [0, 1], of any shape.

  Returns:
    f32 of the same shape.
  """
  if pixels.dtype == np.uint8:
    return pixels.astype(np.float32) / np.float32(255)
  return np.asarray(pixels, np.float32)


def check_size(size: int | Sequence[int]) -> tuple[int, int]:
  """Returns `size` as `(height, width)`.

  Args:
    size: one edge length for a square picture, or `(height, width)`, in pixels.

  Raises:
    ValueError: the size is not one or two positive whole numbers.
  """
  pair = tuple(size) if isinstance(size, Sequence | np.ndarray) else (size, size)
  ok = len(pair) == 2 and all(isinstance(s, int | np.integer) and s >= 1 for s in pair)
  if not ok:
    raise ValueError(
      f'image size {size!r}: expected one positive whole number of pixels, or (height, width); '
      'for example 28 or (28, 28).'
    )
  return int(pair[0]), int(pair[1])


def axis_weights(n_in: int, n_out: int) -> np.ndarray:
  """Returns the matrix that resamples one axis.

  Shrinking: output pixel i covers the interval [i, i + 1) * n_in / n_out of the input axis, and
  each input pixel counts with the length of its overlap. Growing: linear interpolation between
  pixel centres at half-integer positions, held constant beyond the outermost centres.

  Args:
    n_in: pixels before.
    n_out: pixels after.

  Returns:
    f32[n_out, n_in]; every row sums to one.
  """
  if n_out <= n_in:
    edges = np.arange(n_out + 1) * (n_in / n_out)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(n_in)[None, :]
    overlap = np.minimum(high, pixel + 1) - np.maximum(low, pixel)
    return (np.clip(overlap, 0, None) * (n_out / n_in)).astype(np.float32)
  centre = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
  distance = np.abs(centre[:, None] - np.arange(n_in)[None, :])
  return np.clip(1 - distance, 0, None).astype(np.float32)


def resize(pixels: np.ndarray, size: int | Sequence[int]) -> np.ndarray:
  """Resizes pictures: area average where an axis shrinks, bilinear where it grows.

  The picture is stretched to the new shape; proportions are not kept.

  Args:
    pixels: [n, h, w, c], u8 in 0..255 or floats in [0, 1].
    size: one edge length, or `(height, width)`, in pixels.

  Returns:
    f32[n, height, width, c] in [0, 1].

  Raises:
    ValueError: the size is not positive whole numbers.
  """
  height, width = check_size(size)
  n, h, w, c = pixels.shape
  rows, columns = axis_weights(h, height), axis_weights(w, width)
  out = np.empty((n, height, width, c), np.float32)
  for start in range(0, n, _CHUNK):
    part = to_float(pixels[start : start + _CHUNK]).transpose(0, 3, 1, 2)  # [m, c, h, w]
    part = part @ columns.T
    part = part.swapaxes(2, 3) @ rows.T  # [m, c, width, height]
    out[start : start + _CHUNK] = part.transpose(0, 3, 2, 1)
  return np.clip(out, 0, 1, out=out)
