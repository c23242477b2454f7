"""DenseNet-BC (Huang et al., 2017): every layer reads the concatenation of all before it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from dapt_jax.models import layers, norm, pooling


class NormConv(nn.Module):
  """`bn`, ReLU, then `conv`.

  Attributes:
    width: number of output channels.
    size: kernel size.
    execution: how to run it.
  """

  width: int
  size: int = 1
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to `f32[N, H, W, width]`."""
    x = nn.relu(norm.BatchNorm(axis_name=self.execution.axis_name, name='bn')(x, train))
    return layers.Conv(self.width, self.size, execution=self.execution, name='conv')(x)


class DenseNet(nn.Module):
  """Stem of `2 * growth` channels, dense blocks with transitions between them, a dense head.

  A layer of a block makes `growth` channels by a 3x3 convolution of a 1x1 bottleneck and appends
  them to what it read. A transition is a 1x1 convolution and 2x2 average pooling.

  Attributes:
    num_classes: number of logits.
    blocks: number of layers of every block.
    growth: channels that a layer adds.
    bottleneck: width of the 1x1 convolution of a layer, in units of `growth`.
    compression: share of the channels that a transition keeps.
    stem: `'imagenet'` (7x7, stride 2, max-pooling) or `'small'` (3x3).
    execution: how to run it.
  """

  num_classes: int
  blocks: tuple[int, ...] = (6, 6, 6)
  growth: int = 12
  bottleneck: int = 4
  compression: float = 0.5
  stem: str = 'imagenet'
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to logits `f32[N, num_classes]`."""
    if not 0 < self.compression <= 1:
      raise ValueError(f'compression={self.compression}: give a share above 0, at most 1')
    run = self.execution
    x = layers.stem(x, train, 2 * self.growth, self.stem, run)
    for number, count in enumerate(self.blocks, start=1):
      if number > 1:
        width = int(self.compression * x.shape[-1])
        x = NormConv(width, execution=run, name=f'transition{number - 1}')(x, train)
        x = pooling.avg_pool(x, lowering=run.lowering)
      for i in range(1, count + 1):
        name = f'block{number}_layer{i}'
        y = NormConv(self.bottleneck * self.growth, 1, run, name=f'{name}_inner')(x, train)
        y = NormConv(self.growth, 3, run, name=name)(y, train)
        x = jnp.concatenate([x, y], axis=-1)
    x = nn.relu(norm.BatchNorm(axis_name=run.axis_name, name='bn')(x, train))
    x = layers.global_mean(x)
    self.sow('intermediates', 'features', x)
    return layers.dense(self.num_classes, 'head')(x)
