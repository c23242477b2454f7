"""Up-sampling of `[N, H, W, C]` by a transposed convolution whose windows do not overlap."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from dapt_jax.models import conv


def upsample(x: jax.Array, kernel: jax.Array, lowering: str = 'auto') -> jax.Array:
  """Transposed convolution with stride equal to kernel size: every position becomes a tile.

  Kernel entries stand as in `lax.conv_transpose`: the last one makes the first pixel of a tile.

  Args:
    x: `[N, H, W, C]`.
    kernel: `[factor, factor, C, O]`.
    lowering: `'lax'` is a convolution of the input spread by zeros; `'mixed'` and `'patches'` are
      one matrix product, of `factor ** 2` times fewer terms; `'auto'` takes the product on CPU.

  Returns:
    `[N, factor * H, factor * W, O]`, the same for every lowering up to rounding.

  Raises:
    ValueError: for an unknown lowering or shapes that do not fit together.
  """
  if lowering not in conv.LOWERINGS:
    raise ValueError(f'lowering={lowering!r}: choose one of {conv.LOWERINGS}')
  if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
    raise ValueError(f'x{x.shape} and kernel{kernel.shape} must be [N, H, W, C] and [f, f, C, O]')
  factor = kernel.shape[0]
  if kernel.shape[1] != factor:
    raise ValueError(f'kernel{kernel.shape} must be square: its size is the up-sampling factor')
  if lowering == 'lax' or (lowering == 'auto' and jax.default_backend() != 'cpu'):
    return lax.conv_transpose(x, kernel, (factor, factor), 'VALID')
  n, h, w, _ = x.shape
  tiles = jnp.einsum('nhwc,ijco->nhiwjo', x, jnp.flip(kernel, (0, 1)))
  return tiles.reshape(n, h * factor, w * factor, kernel.shape[3])
