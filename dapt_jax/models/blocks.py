"""What the models of tokens share: patches, the two-layer perceptron, the transformer block."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import linen as nn

from dapt_jax.models import attention, layers

#: Normalisations over the width of a token: LayerNorm (Ba et al., 2016), RMSNorm (Zhang and
#: Sennrich, 2019: no mean is taken off, no bias).
NORMS: dict[str, type[nn.Module]] = {'layer': nn.LayerNorm, 'rms': nn.RMSNorm}
#: The token id that pads short sequences.
PADDING = 0


class Patches(nn.Module):
  """Square patches of an image as tokens: a convolution with equal size and stride, and a bias.

  Attributes:
    width: width D of a token.
    patch: side of a patch; it must divide H and W.
    execution: how to run the convolution.
  """

  width: int
  patch: int
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `f32[B, H, W, C]` to `f32[B, H W / patch^2, D]`, row by row."""
    conv = layers.Conv(self.width, self.patch, self.patch, execution=self.execution, name='conv')
    x = conv(x) + self.param('bias', nn.initializers.zeros, (self.width,))
    return x.reshape(x.shape[0], -1, self.width)


class Feedforward(nn.Module):
  """Dense layer, GELU (Hendrycks and Gimpel, 2016), dense layer, over the last axis.

  Attributes:
    hidden: width between the two layers; what comes out is as wide as what came in.
  """

  hidden: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `f32[..., D]` to `f32[..., D]`."""
    width = x.shape[-1]
    return nn.Dense(width, name='down')(nn.gelu(nn.Dense(self.hidden, name='up')(x)))


class Block(nn.Module):
  """Attention and perceptron, each with a residual connection and a normalisation.

  Attributes:
    heads: number of query heads.
    mlp_width: hidden width of the perceptron.
    kv_heads: number of key and value heads; None means `heads`.
    norm: 'layer' or 'rms'.
    pre_norm: each part normalises what it reads (ViT); otherwise every sum is normalised (BERT).
  """

  heads: int
  mlp_width: int
  kv_heads: int | None = None
  norm: str = 'layer'
  pre_norm: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Maps `f32[B, T, D]` to `f32[B, T, D]`; `mask` `bool[B, T]` names what may be attended to."""
    attend = attention.Attention(self.heads, self.kv_heads, name='attention')
    feed = Feedforward(self.mlp_width, name='mlp')
    norm1, norm2 = (NORMS[self.norm](name=name) for name in ('norm1', 'norm2'))
    if self.pre_norm:
      x = x + attend(norm1(x), mask)
      return x + feed(norm2(x))
    x = norm1(x + attend(x, mask))
    return norm2(x + feed(x))


def check_choice(field: str, value: str, allowed: Sequence[str]) -> None:
  """Checks that a field holds one of its names.

  Raises:
    ValueError: naming the field, its value and what is allowed.
  """
  if value not in allowed:
    raise ValueError(f'{field}={value!r}: choose one of {tuple(allowed)}')


def check_patches(patch: int, input_shape: Sequence[int]) -> None:
  """Checks that patches cover an image `(H, W, C)` without a rest.

  Raises:
    ValueError: naming the patch, the shape and the rule.
  """
  if patch < 1 or input_shape[0] % patch or input_shape[1] % patch:
    raise ValueError(
      f'patch={patch} must divide height and width of input_shape={tuple(input_shape)}: '
      'choose another patch, or pad or resize the images'
    )
