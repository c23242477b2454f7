"""Convolutions of `[N, H, W, C]` whose derivatives are written here.

The derivatives are `custom_vjp`: reverse mode of any order, no forward mode (`jax.jvp`); the 'lax'
lowering has both. Nothing but input and kernel is kept for the backward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dapt_jax.models import products, windows


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, geometry: windows.Geometry) -> jax.Array:
  """`products.convolve`, by products of patches backward too."""
  return products.convolve(x, kernel, geometry)


def _conv_fwd(x: jax.Array, kernel: jax.Array, geometry: windows.Geometry) -> tuple[jax.Array, Any]:
  return conv(x, kernel, geometry), (x, kernel)


def _conv_bwd(geometry: windows.Geometry, saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
  x, kernel = saved
  # Without the barrier XLA computes what made `dy` again for every shifted window.
  dy = lax.optimization_barrier(dy)
  into_kernel = products.kernel_gradient(x, kernel, dy, geometry)
  return input_gradient(x.shape, kernel, dy, geometry), into_kernel


conv.defvjp(_conv_fwd, _conv_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_mixed(x: jax.Array, kernel: jax.Array, geometry: windows.Geometry) -> jax.Array:
  """Convolution without groups: `lax.conv`, but the kernel's gradient by products of patches.

  Arguments as `products.convolve`. On the CPU backend the kernel's gradient is the slow part of
  `lax.conv`.
  """
  return conv_lax(x, kernel, geometry)


def _mixed_fwd(
  x: jax.Array, kernel: jax.Array, geometry: windows.Geometry
) -> tuple[jax.Array, Any]:
  return conv_lax(x, kernel, geometry), (x, kernel)


def _mixed_bwd(
  geometry: windows.Geometry, saved: Any, dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = saved
  dy = lax.optimization_barrier(dy)
  (dx,) = jax.vjp(lambda x: conv_lax(x, kernel, geometry), x)[1](dy)
  return dx, products.kernel_gradient(x, kernel, dy, geometry)


conv_mixed.defvjp(_mixed_fwd, _mixed_bwd)


def conv_lax(
  x: jax.Array, kernel: jax.Array, geometry: windows.Geometry, groups: int = 1
) -> jax.Array:
  """`lax.conv_general_dilated`; arguments as `products.convolve`, and feature groups."""
  return lax.conv_general_dilated(
    x,
    kernel,
    geometry.strides,
    geometry.pads,
    rhs_dilation=geometry.dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def input_gradient(
  shape: Sequence[int], kernel: jax.Array, dy: jax.Array, geometry: windows.Geometry
) -> jax.Array:
  """Gradient of a convolution with respect to its input.

  Args:
    shape: `(N, H, W, C)` of the input.
    kernel: `[kh, kw, C, O]`.
    dy: `[N, H', W', O]`, the gradient of the output.
    geometry: window placement.

  Returns:
    An array of shape `shape`.
  """
  if max(geometry.strides) > 1 and geometry.dilation == (1, 1):
    return products.strided_input_gradient(shape, kernel, dy, geometry)
  back, spread = windows.reversed_geometry(shape, kernel.shape[:2], dy.shape, geometry)
  if spread != (0, 0):
    none = (0, 0, 0)
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), (none, *((0, 0, s) for s in spread), none))
  return conv(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), back)
