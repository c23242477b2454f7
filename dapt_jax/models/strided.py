"""A small convolutional network without pooling or normalisation, cheap to train in thousands."""

from __future__ import annotations

import jax
from flax import linen as nn

from dapt_jax.models import conv, layers


class Layer(nn.Module):
  """Convolution with bias, SAME padding, then ReLU.

  Attributes:
    width: number of output channels.
    size: kernel size.
    stride: stride of both axes.
    execution: how to run it.
  """

  width: int
  size: int
  stride: int
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), width]`."""
    shape = (self.size, self.size, x.shape[-1], self.width)
    kernel = self.param('kernel', layers.he_normal, shape)
    bias = self.param('bias', nn.initializers.zeros, (self.width,))
    x = conv.conv2d(
      x,
      kernel,
      strides=(self.stride, self.stride),
      lowering=self.execution.lowering,
      in_loop=self.execution.in_loop,
    )
    return nn.relu(x + bias)


class Strided(nn.Module):
  """Convolutions with strides; a dense head on all positions.

  The first layer reads patches that do not overlap where its size is its stride. Max-pooling and
  BatchNorm would take longer than the convolutions of such a network.

  Attributes:
    num_classes: number of logits.
    stages: (width, kernel size, stride) of every convolution.
    execution: how to run it.
  """

  num_classes: int
  stages: tuple[tuple[int, int, int], ...] = ((12, 4, 4), (16, 3, 2))
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to logits `f32[N, num_classes]`; `train` changes nothing."""
    del train
    for number, (width, size, stride) in enumerate(self.stages, start=1):
      x = Layer(width, size, stride, self.execution, name=f'layer{number}')(x)
    x = x.reshape(x.shape[0], -1)
    self.sow('intermediates', 'features', x)
    return layers.dense(self.num_classes, 'head')(x)
