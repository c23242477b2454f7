"""Residual networks for small images (He et al., 2016, section 4.2), shortcut option A."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dapt_jax.models import layers, norm


def shortcut_a(x: jax.Array, width: int, stride: int) -> jax.Array:
  """Parameter-free shortcut: every `stride`-th position, zero channels on both sides.

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
  """Two 3x3 convolutions and a shortcut: `relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x))))))`.

  Attributes:
    width: number of output channels.
    stride: stride of the first convolution and the shortcut.
    execution: how to run it.
  """

  width: int
  stride: int = 1
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to `f32[N, ceil(H / stride), ceil(W / stride), width]`."""
    axis_name = self.execution.axis_name
    y = layers.Conv(self.width, stride=self.stride, execution=self.execution, name='conv1')(x)
    y = nn.relu(norm.BatchNorm(axis_name=axis_name, name='bn1')(y, train))
    y = layers.Conv(self.width, execution=self.execution, name='conv2')(y)
    y = norm.BatchNorm(axis_name=axis_name, name='bn2')(y, train)
    return nn.relu(shortcut_a(x, self.width, self.stride) + y)


class ResNet(nn.Module):
  """CIFAR ResNet of depth `6 * blocks + 2`: three stages of widths `width`, `2 width`, `4 width`.

  Attributes:
    num_classes: number of logits.
    blocks: blocks per stage: 3, 9, 18 for ResNet-20, -56, -110.
    width: channels of the first stage.
    execution: how to run it.
  """

  num_classes: int
  blocks: int = 3
  width: int = 16
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to logits `f32[N, num_classes]`."""
    x = layers.ConvBN(self.width, execution=self.execution, name='stem')(x, train)
    for stage in range(3):
      for i in range(self.blocks):
        stride = 2 if stage > 0 and i == 0 else 1
        name = f'stage{stage + 1}_block{i + 1}'
        x = Block(self.width * 2**stage, stride, self.execution, name=name)(x, train)
    x = layers.global_mean(x)
    self.sow('intermediates', 'features', x)
    return layers.dense(self.num_classes, 'head')(x)
