"""Residual networks (He et al., 2016), for small images and for ImageNet."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dapt_jax.models import layers, norm

#: What a residual is added to where its shape is not that of the block's input.
SHORTCUTS = ('pad', 'projection')


def shortcut_a(x: jax.Array, width: int, stride: int) -> jax.Array:
  """Parameter-free shortcut (option A): every `stride`-th position, zero channels on both sides.

  Args:
    x: `f32[N, H, W, C]`.
    width: number of channels wanted, at least C.
    stride: stride of both axes.

  Returns:
    `f32[N, ceil(H / stride), ceil(W / stride), width]`.
  """
  if stride != 1:
    x = lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))
  missing = width - x.shape[-1]
  if missing:
    low = missing // 2
    none = (0, 0, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), (none, none, none, (low, missing - low, 0)))
  return x


class Block(nn.Module):
  """Two or three convolutions with BatchNorm, plus a shortcut: `relu(shortcut(x) + residual(x))`.

  The residual is 3x3, 3x3 or, with a bottleneck of a quarter of the width, 1x1, 3x3, 1x1. The
  stride is in the first 3x3 convolution.

  Attributes:
    width: number of output channels; a multiple of four with a bottleneck.
    stride: stride of the block.
    bottleneck: whether the residual has a bottleneck.
    shortcut: `'pad'` (`shortcut_a`) or `'projection'` (where the shape changes, a 1x1 convolution
      with BatchNorm, the paper's option B).
    execution: how to run it.
  """

  width: int
  stride: int = 1
  bottleneck: bool = False
  shortcut: str = 'pad'
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to `f32[N, ceil(H / stride), ceil(W / stride), width]`."""
    inner, run = self.width // 4, self.execution
    plain = ((self.width, 3, self.stride), (self.width, 3, 1))
    narrow = ((inner, 1, 1), (inner, 3, self.stride), (self.width, 1, 1))
    y = x
    for i, (width, size, stride) in enumerate(narrow if self.bottleneck else plain, start=1):
      y = y if i == 1 else nn.relu(y)
      y = layers.Conv(width, size, stride, execution=run, name=f'conv{i}')(y)
      y = norm.BatchNorm(axis_name=run.axis_name, name=f'bn{i}')(y, train)
    if self.shortcut == 'pad':
      x = shortcut_a(x, self.width, self.stride)
    elif x.shape != y.shape:
      projection = layers.ConvBN(
        self.width, 1, self.stride, activation=None, execution=run, name='projection'
      )
      x = projection(x, train)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """Stages of residual blocks; from the second on, each halves the image and doubles the width.

  With the defaults and n blocks in each of three stages, the CIFAR ResNet of depth `6 * n + 2`.

  Attributes:
    num_classes: number of logits.
    blocks: blocks of every stage.
    bottleneck: whether the blocks have bottlenecks; their output is then four times as wide.
    width: channels of the stem and, without bottlenecks, of the first stage.
    stem: `'imagenet'` (7x7, stride 2, max-pooling) or `'small'` (3x3).
    shortcut: `'pad'` or `'projection'`.
    execution: how to run it.
  """

  num_classes: int
  blocks: tuple[int, ...] = (3, 3, 3)
  bottleneck: bool = False
  width: int = 16
  stem: str = 'small'
  shortcut: str = 'pad'
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to logits `f32[N, num_classes]`."""
    if self.shortcut not in SHORTCUTS:
      raise ValueError(f'shortcut={self.shortcut!r}: choose one of {SHORTCUTS}')
    run = self.execution
    x = layers.stem(x, train, self.width, self.stem, run)
    for stage, count in enumerate(self.blocks):
      width = self.width * 2**stage * (4 if self.bottleneck else 1)
      for i in range(count):
        stride = 2 if stage > 0 and i == 0 else 1
        name = f'stage{stage + 1}_block{i + 1}'
        x = Block(width, stride, self.bottleneck, self.shortcut, run, name=name)(x, train)
    x = layers.global_mean(x)
    self.sow('intermediates', 'features', x)
    return layers.dense(self.num_classes, 'head')(x)


class ImageNetResNet(ResNet):
  """A `ResNet` with the defaults of the ImageNet networks: ResNet-18 unless told otherwise.

  The bottleneck has its stride in the 3x3 convolution, as later implementations do, not in the
  first 1x1 of the paper.
  """

  blocks: tuple[int, ...] = (2, 2, 2, 2)
  width: int = 64
  stem: str = 'imagenet'
  shortcut: str = 'projection'
