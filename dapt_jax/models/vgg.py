"""Plain convolutional networks: ConvNet and VGG (Simonyan and Zisserman, 2015) with BatchNorm."""

from __future__ import annotations

import jax
from flax import linen as nn

from dapt_jax.models import layers, pooling

#: VGG-16 for 32x32 inputs: thirteen convolutions, the dense layers reduced to the head.
VGG16_STAGES = (
  (64, 64),
  (128, 128),
  (256, 256, 256),
  (512, 512, 512),
  (512, 512, 512),
)
#: VGG-19, likewise: sixteen convolutions.
VGG19_STAGES = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)


class VGG(nn.Module):
  """Stages of 3x3 convolution + BatchNorm + ReLU, each closed by 2x2 max-pooling; a dense head.

  Attributes:
    num_classes: number of logits.
    stages: widths of the convolutions of every stage.
    flatten: the head reads all positions; otherwise their mean. The same thing where one is left.
    execution: how to run it.
  """

  num_classes: int
  stages: tuple[tuple[int, ...], ...] = ((16,), (32,))
  flatten: bool = False
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to logits `f32[N, num_classes]`."""
    for i, widths in enumerate(self.stages, start=1):
      for j, width in enumerate(widths, start=1):
        block = layers.ConvBN(width, execution=self.execution, name=f'stage{i}_block{j}')
        x = block(x, train)
      x = pooling.max_pool(x, lowering=self.execution.lowering)
    x = x.reshape(x.shape[0], -1) if self.flatten else layers.global_mean(x)
    self.sow('intermediates', 'features', x)
    return layers.dense(self.num_classes, 'head')(x)
