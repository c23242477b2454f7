"""What all denoising networks share: the time, the null condition, the code that modulates."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

#: A dense layer that gives zero at first.
zero_dense = functools.partial(nn.Dense, kernel_init=nn.initializers.zeros)
#: Layer normalisation without scale and bias, which the code takes the place of.
plain_norm = functools.partial(nn.LayerNorm, use_bias=False, use_scale=False)


def time_features(t: jax.Array, width: int) -> jax.Array:
  """Cosines and sines of t at rates from 1000 down to 0.1 (Vaswani et al., 2017, section 3.5).

  Args:
    t: f32[B], times in [0, 1].
    width: number of features, even.

  Returns:
    f32[B, width].
  """
  rates = 1e3 * jnp.exp(-jnp.log(1e4) * jnp.arange(width // 2) / (width // 2))
  angles = t[:, None] * rates
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Null(nn.Module):
  """Replaces the condition of dropped rows, f32[B, C] or f32[B, M, C], by a learned f32[C]."""

  @nn.compact
  def __call__(self, condition: jax.Array, drop: jax.Array) -> jax.Array:
    """Takes the condition and bool[B], the rows to drop."""
    null = self.param('value', nn.initializers.zeros, condition.shape[-1:])
    return jnp.where(drop.reshape(drop.shape + (1,) * (condition.ndim - 1)), null, condition)


class Code(nn.Module):
  """Time f32[B] and condition f32[B, C] as one vector f32[B, width]."""

  width: int

  @nn.compact
  def __call__(self, t: jax.Array, condition: jax.Array) -> jax.Array:
    """Takes times in [0, 1] and the condition."""
    time = nn.Dense(self.width, name='time')(time_features(t, self.width))
    mixed = nn.silu(time + nn.Dense(self.width, use_bias=False, name='condition')(condition))
    return nn.Dense(self.width, name='mixed')(mixed)


def check(width: int, arrays: Mapping[str, tuple[jax.Array, tuple[int, ...]]]) -> None:
  """Checks the width, and the number of axes of every array."""
  if width < 2 or width % 2:
    raise ValueError(f'width={width} must be even, for as many sines as cosines of the time')
  for name, (array, allowed) in arrays.items():
    if array.ndim not in allowed:
      raise ValueError(
        f'{name} has shape {array.shape}: it must have {" or ".join(map(str, allowed))} axes, '
        'batch first'
      )
