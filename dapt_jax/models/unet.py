"""U-Net for segmentation (Ronneberger et al., 2015), with SAME padding and BatchNorm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from dapt_jax.models import layers, norm, pooling


class DoubleConv(nn.Module):
  """Two 3x3 convolutions, each with BatchNorm and ReLU.

  Attributes:
    width: number of output channels.
    execution: how to run it.
  """

  width: int
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to `f32[N, H, W, width]`."""
    for name in ('first', 'second'):
      x = layers.ConvBN(self.width, execution=self.execution, name=name)(x, train)
    return x


class UNet(nn.Module):
  """A contracting path, an expanding path, and concatenations from the one to the other.

  Levels are parted by 2x2 max-pooling on the way down and by 2x2 transposed convolutions with
  BatchNorm on the way up. Images of any size will do: what is up-sampled is cut to the size of
  what it meets.

  Attributes:
    num_classes: number of logits of every pixel.
    widths: channels of every level, the finest first; more than one.
    execution: how to run it.
  """

  num_classes: int
  widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to logits `f32[N, H, W, num_classes]`."""
    run, skips = self.execution, []
    for level, width in enumerate(self.widths[:-1], start=1):
      x = DoubleConv(width, run, name=f'down{level}')(x, train)
      skips.append(x)
      x = pooling.max_pool(x, lowering=run.lowering)
    x = DoubleConv(self.widths[-1], run, name='bottom')(x, train)
    for level in range(len(skips), 0, -1):
      width, skip = self.widths[level - 1], skips[level - 1]
      x = layers.ConvTranspose(width, execution=run, name=f'grow{level}')(x)
      x = norm.BatchNorm(axis_name=run.axis_name, name=f'bn{level}')(x, train)
      x = jnp.concatenate([skip, x[:, : skip.shape[1], : skip.shape[2]]], axis=-1)
      x = DoubleConv(width, run, name=f'up{level}')(x, train)
    self.sow('intermediates', 'features', x)
    return layers.dense(self.num_classes, 'head')(x)
