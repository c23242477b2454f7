"""Multi-layer perceptron."""

from __future__ import annotations

import jax
from flax import linen as nn

from dapt_jax.models import layers, norm


class MLP(nn.Module):
  """Dense layers with ReLU between them; the input is flattened.

  Attributes:
    num_classes: number of logits.
    widths: hidden widths.
    batch_norm: whether a BatchNorm stands before every ReLU.
    execution: how to run it.
  """

  num_classes: int
  widths: tuple[int, ...] = (256, 128)
  batch_norm: bool = False
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, ...]` to logits `f32[N, num_classes]`."""
    x = x.reshape(x.shape[0], -1)
    for i, width in enumerate(self.widths, start=1):
      x = layers.dense(width, f'dense{i}')(x)
      if self.batch_norm:
        x = norm.BatchNorm(axis_name=self.execution.axis_name, name=f'bn{i}')(x, train)
      x = nn.relu(x)
    self.sow('intermediates', 'features', x)
    return layers.dense(self.num_classes, 'head')(x)
