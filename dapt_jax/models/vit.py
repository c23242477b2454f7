"""Vision transformer (Dosovitskiy et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dapt_jax.models import attention, blocks, layers

POOLS = ('token', 'mean')
#: ViT-B/16 and ViT-S/16 (the latter as in Touvron et al., 2021).
B16 = {'patch': 16, 'width': 768, 'depth': 12, 'heads': 12, 'mlp_width': 3072}
S16 = {'patch': 16, 'width': 384, 'depth': 12, 'heads': 6, 'mlp_width': 1536}


class ViT(nn.Module):
  """Patches, learned positions, pre-norm blocks, a last LayerNorm, a dense head.

  Attributes:
    num_classes: number of logits.
    patch: side of a patch; it must divide H and W.
    width: width D of a token.
    depth: number of blocks, named `layer1`, `layer2`, ...
    heads: number of attention heads, a divisor of `width`.
    mlp_width: hidden width of the perceptrons.
    pool: what the head reads: 'token' (a learned class token in front) or 'mean' over all tokens.
    execution: how to run the patch convolution.
  """

  num_classes: int
  patch: int = 4
  width: int = 192
  depth: int = 12
  heads: int = 3
  mlp_width: int = 768
  pool: str = 'token'
  execution: layers.Execution = layers.Execution()
  init_gain = 1.0

  def check(self, input_shape: Sequence[int]) -> None:
    """Raises ValueError where the fields do not fit each other or the input."""
    attention.check(self.width, self.heads, None)
    blocks.check_choice('pool', self.pool, POOLS)
    blocks.check_patches(self.patch, input_shape)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to logits `f32[N, num_classes]`."""
    x = blocks.Patches(self.width, self.patch, self.execution, name='patches')(x)
    if self.pool == 'token':
      token = self.param('class_token', nn.initializers.zeros, (self.width,))
      x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], axis=1)
    x = x + self.param('position', layers.table_normal, x.shape[1:])
    for i in range(1, self.depth + 1):
      x = blocks.Block(self.heads, self.mlp_width, name=f'layer{i}')(x)
    x = nn.LayerNorm(name='norm')(x)
    x = lax.index_in_dim(x, 0, 1, False) if self.pool == 'token' else jnp.mean(x, axis=1)
    self.sow('intermediates', 'features', x)
    return nn.Dense(self.num_classes, name='head')(x)
