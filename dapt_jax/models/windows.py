"""Where the window of a convolution or a pooling stands: shifted views, and the way back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[int, int]


class Geometry(NamedTuple):
  """Window placement of a convolution: strides, explicit padding, kernel dilation."""

  strides: Pair
  pads: tuple[Pair, Pair]
  dilation: Pair


def pad_spatial(x: jax.Array, pads: Sequence[Pair], value: float = 0.0) -> jax.Array:
  """Pads (or, for negative pads, crops) the spatial axes of `[N, H, W, C]`."""
  if not any(low or high for low, high in pads):
    return x
  config = ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0))
  return lax.pad(x, jnp.asarray(value, x.dtype), config)


def num_outputs(size: Sequence[int], window: Sequence[int], geometry: Geometry) -> Pair:
  """Output positions `(H', W')` of an input of spatial `size`.

  Raises:
    ValueError: when the dilated window is larger than the padded input.
  """
  rows, cols = (
    (n + low + high - (k - 1) * d - 1) // s + 1
    for n, k, s, (low, high), d in zip(size, window, *geometry)
  )
  if rows < 1 or cols < 1:
    raise ValueError(
      f'window {tuple(window)} with dilation {geometry.dilation} is larger than the input '
      f'{tuple(size)} padded by {geometry.pads}'
    )
  return rows, cols


def shifted_windows(
  x: jax.Array, window: Pair, strides: Pair, dilation: Pair = (1, 1)
) -> list[jax.Array]:
  """The views of an already padded input under each window position, in row-major order.

  Args:
    x: `[N, H, W, C]`, padded.
    window: `(kh, kw)`.
    strides: window strides.
    dilation: window dilation.

  Returns:
    `kh * kw` arrays `[N, H', W', C]`; entry `i * kw + j` is what window entry `(i, j)` sees.

  Raises:
    ValueError: when the dilated window is larger than the input.
  """
  n, h, w, c = x.shape
  (kh, kw), (sh, sw), (dh, dw) = window, strides, dilation
  rows, cols = num_outputs((h, w), window, Geometry(strides, ((0, 0), (0, 0)), dilation))
  return [
    lax.slice(
      x,
      (0, i * dh, j * dw, 0),
      (n, i * dh + (rows - 1) * sh + 1, j * dw + (cols - 1) * sw + 1, c),
      (1, sh, sw, 1),
    )
    for i, j in itertools.product(range(kh), range(kw))
  ]


def reversed_geometry(
  shape: Sequence[int], window: Sequence[int], out_shape: Sequence[int], geometry: Geometry
) -> tuple[Geometry, Pair]:
  """The convolution that carries an output's gradient back to the input.

  Args:
    shape: `(N, H, W, C)` of the input.
    window: `(kh, kw)`.
    out_shape: `(N, H', W', O)` of the output.
    geometry: window placement of the convolution.

  Returns:
    Its window placement (stride one), and how many zeros to put between the entries of the
    gradient first, by axis.
  """
  pads = []
  for size, k, out, s, (low, _), d in zip(shape[1:3], window, out_shape[1:3], *geometry):
    before = (k - 1) * d - low
    pads.append((before, size - ((out - 1) * s + 1 + before - (k - 1) * d)))
  spread = (geometry.strides[0] - 1, geometry.strides[1] - 1)
  return Geometry((1, 1), (pads[0], pads[1]), geometry.dilation), spread
