"""MLP-Mixer (Tolstikhin et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from dapt_jax.models import blocks, layers


class MixerBlock(nn.Module):
  """A perceptron across the tokens, then one across the channels, each pre-norm and residual.

  Attributes:
    token_mlp_width: hidden width of the perceptron across tokens.
    channel_mlp_width: hidden width of the perceptron across channels.
  """

  token_mlp_width: int
  channel_mlp_width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `f32[B, T, D]` to `f32[B, T, D]`."""
    y = nn.LayerNorm(name='norm1')(x).swapaxes(1, 2)
    x = x + blocks.Feedforward(self.token_mlp_width, name='token_mlp')(y).swapaxes(1, 2)
    y = nn.LayerNorm(name='norm2')(x)
    return x + blocks.Feedforward(self.channel_mlp_width, name='channel_mlp')(y)


class Mixer(nn.Module):
  """Patches, mixer blocks, a last LayerNorm, the mean over tokens, a dense head.

  Attributes:
    num_classes: number of logits.
    patch: side of a patch; it must divide H and W.
    width: width D of a token.
    depth: number of blocks, named `layer1`, `layer2`, ...
    token_mlp_width: hidden width of the perceptrons across tokens.
    channel_mlp_width: hidden width of the perceptrons across channels.
    execution: how to run the patch convolution.
  """

  num_classes: int
  patch: int = 4
  width: int = 128
  depth: int = 8
  token_mlp_width: int = 64
  channel_mlp_width: int = 512
  execution: layers.Execution = layers.Execution()
  init_gain = 1.0

  def check(self, input_shape: Sequence[int]) -> None:
    """Raises ValueError where the fields do not fit the input."""
    blocks.check_patches(self.patch, input_shape)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to logits `f32[N, num_classes]`."""
    x = blocks.Patches(self.width, self.patch, self.execution, name='patches')(x)
    for i in range(1, self.depth + 1):
      x = MixerBlock(self.token_mlp_width, self.channel_mlp_width, name=f'layer{i}')(x)
    x = jnp.mean(nn.LayerNorm(name='norm')(x), axis=1)
    self.sow('intermediates', 'features', x)
    return nn.Dense(self.num_classes, name='head')(x)
