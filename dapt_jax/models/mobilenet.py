"""Networks of inverted residuals: MobileNetV2 (Sandler et al., 2018) and EfficientNet-Lite0.

EfficientNet-Lite is EfficientNet (Tan and Le, 2019) without squeeze-and-excitation and with ReLU6
for swish, so that it runs in small integers; what remains is MobileNetV2 with other numbers.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from dapt_jax.models import layers

#: `(expansion, kernel size, width, blocks, stride of the first block)` of every stage.
Stages = tuple[tuple[int, int, int, int, int], ...]
MOBILENETV2_STAGES: Stages = (
  (1, 3, 16, 1, 1),
  (6, 3, 24, 2, 2),
  (6, 3, 32, 3, 2),
  (6, 3, 64, 4, 2),
  (6, 3, 96, 3, 1),
  (6, 3, 160, 3, 2),
  (6, 3, 320, 1, 1),
)
EFFICIENTNET_LITE0_STAGES: Stages = (
  (1, 3, 16, 1, 1),
  (6, 3, 24, 2, 2),
  (6, 5, 40, 2, 2),
  (6, 3, 80, 3, 2),
  (6, 5, 112, 3, 1),
  (6, 5, 192, 4, 2),
  (6, 3, 320, 1, 1),
)


def scaled(width: int, multiplier: float) -> int:
  """`multiplier * width` as a multiple of eight, at least eight and not below 90% of it."""
  wanted = multiplier * width
  rounded = max(8, int(wanted + 4) // 8 * 8)
  return rounded if rounded >= 0.9 * wanted else rounded + 8


class InvertedResidual(nn.Module):
  """1x1 expansion, depthwise convolution, 1x1 projection without ReLU; added to an input like it.

  Attributes:
    width: number of output channels.
    expansion: width of the depthwise convolution, in units of the input's; 1 has no expansion.
    size: kernel size of the depthwise convolution.
    stride: its stride.
    epsilon: of the normalisations.
    execution: how to run it.
  """

  width: int
  expansion: int = 6
  size: int = 3
  stride: int = 1
  epsilon: float = 1e-5
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to `f32[N, ceil(H / stride), ceil(W / stride), width]`."""
    shared: dict[str, Any] = {'epsilon': self.epsilon, 'execution': self.execution}
    wide, y = self.expansion * x.shape[-1], x
    if self.expansion != 1:
      y = layers.ConvBN(wide, 1, activation=nn.relu6, **shared, name='expand')(y, train)
    depthwise = layers.ConvBN(
      wide, self.size, self.stride, True, nn.relu6, **shared, name='depthwise'
    )
    project = layers.ConvBN(self.width, 1, activation=None, **shared, name='project')
    y = project(depthwise(y, train), train)
    return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
  """A 3x3 stem with stride 2, stages of inverted residuals, a 1x1 convolution, a dense head.

  The original's dropout before the head is left to the training loop.

  Attributes:
    num_classes: number of logits.
    stages: `(expansion, kernel size, width, blocks, stride of the first block)` of every stage.
    multiplier: scales all widths, rounded to multiples of eight; the last convolution only grows.
    stem_width: channels of the stem.
    top_width: channels of the last convolution.
    epsilon: of the normalisations.
    execution: how to run it.
  """

  num_classes: int
  stages: Stages = MOBILENETV2_STAGES
  multiplier: float = 1.0
  stem_width: int = 32
  top_width: int = 1280
  epsilon: float = 1e-5
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to logits `f32[N, num_classes]`."""
    shared: dict[str, Any] = {'epsilon': self.epsilon, 'execution': self.execution}
    outer: dict[str, Any] = {'activation': nn.relu6, **shared}
    stem_width = scaled(self.stem_width, self.multiplier)
    x = layers.ConvBN(stem_width, 3, 2, **outer, name='stem')(x, train)
    for number, (expansion, size, width, blocks, first_stride) in enumerate(self.stages, start=1):
      for i in range(blocks):
        stride = 1 if i else first_stride
        block = InvertedResidual(
          scaled(width, self.multiplier),
          expansion,
          size,
          stride,
          **shared,
          name=f'stage{number}_block{i + 1}',
        )
        x = block(x, train)
    top_width = scaled(self.top_width, max(1.0, self.multiplier))
    x = layers.ConvBN(top_width, 1, **outer, name='top')(x, train)
    x = layers.global_mean(x)
    self.sow('intermediates', 'features', x)
    return layers.dense(self.num_classes, 'head')(x)


class EfficientNetLite(MobileNetV2):
  """A `MobileNetV2` with the defaults of EfficientNet-Lite0."""

  stages: Stages = EFFICIENTNET_LITE0_STAGES
  epsilon: float = 1e-3
