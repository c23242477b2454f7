"""Depthwise convolution of `[N, H, W, C]` as a sum of shifted products, forward and backward."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dapt_jax.models import windows


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, geometry: windows.Geometry) -> jax.Array:
  """Convolution of every channel with its own window.

  Args:
    x: `[N, H, W, C]`.
    kernel: `[kh, kw, 1, C]`.
    geometry: window placement.

  Returns:
    `[N, H', W', C]`.
  """
  taps = kernel.reshape(-1, kernel.shape[3])
  products = [window * tap for window, tap in zip(_windows(x, kernel, geometry), taps)]
  return functools.reduce(jnp.add, products)


def _windows(x: jax.Array, kernel: jax.Array, geometry: windows.Geometry) -> list[jax.Array]:
  """Shifted windows of the padded input, made once: XLA would compute `x` anew for each."""
  strides, pads, dilation = geometry
  padded = lax.optimization_barrier(windows.pad_spatial(x, pads))
  return windows.shifted_windows(padded, (kernel.shape[0], kernel.shape[1]), strides, dilation)


def _fwd(x: jax.Array, kernel: jax.Array, geometry: windows.Geometry) -> tuple[jax.Array, Any]:
  return conv(x, kernel, geometry), (x, kernel)


def _bwd(geometry: windows.Geometry, saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
  x, kernel = saved
  dy = lax.optimization_barrier(dy)
  sums = [jnp.sum(window * dy, (0, 1, 2)) for window in _windows(x, kernel, geometry)]
  back, spread = windows.reversed_geometry(x.shape, kernel.shape[:2], dy.shape, geometry)
  if spread != (0, 0):
    none = (0, 0, 0)
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), (none, *((0, 0, s) for s in spread), none))
  return conv(dy, jnp.flip(kernel, (0, 1)), back), jnp.stack(sums).reshape(kernel.shape)


conv.defvjp(_fwd, _bwd)
