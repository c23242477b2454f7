"""Transformer encoder of token ids with a classification head (Devlin et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dapt_jax.models import attention, blocks, layers

POOLS = ('first', 'mean')


class Encoder(nn.Module):
  """Token and position embeddings, post-norm blocks, a dense head. Token id 0 is padding.

  Attributes:
    num_classes: number of logits.
    vocabulary: number of token ids, padding included.
    width: width D of a token.
    depth: number of blocks.
    heads: number of query heads, a divisor of `width`.
    mlp_width: hidden width of the perceptrons.
    kv_heads: number of key and value heads, a divisor of `heads`; None means `heads`.
    norm: 'layer' (LayerNorm) or 'rms' (RMSNorm).
    pool: what the head reads: the 'first' token, or the 'mean' over tokens that are not padding.
    scan_layers: the blocks are one `nn.scan`, their parameters are stacked under `layers` with a
      leading axis `depth`; otherwise they are called `layer1`, `layer2`, ... Same function.
  """

  num_classes: int
  vocabulary: int = 1000
  width: int = 128
  depth: int = 4
  heads: int = 4
  mlp_width: int = 512
  kv_heads: int | None = None
  norm: str = 'layer'
  pool: str = 'first'
  scan_layers: bool = False
  init_gain = 1.0
  reads_tokens = True

  def check(self, input_shape: Sequence[int]) -> None:
    """Raises ValueError where the fields do not fit each other."""
    attention.check(self.width, self.heads, self.kv_heads)
    blocks.check_choice('norm', self.norm, tuple(blocks.NORMS))
    blocks.check_choice('pool', self.pool, POOLS)

  @nn.compact
  def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
    """Maps `i32[N, T]` to logits `f32[N, num_classes]`."""
    mask = tokens != blocks.PADDING
    x = nn.Embed(self.vocabulary, self.width, name='token')(tokens)
    x = x + self.param('position', layers.table_normal, x.shape[1:])
    x = self._blocks(blocks.NORMS[self.norm](name='norm')(x), mask)
    if self.pool == 'first':
      x = lax.index_in_dim(x, 0, 1, False)
    else:
      count = jnp.sum(mask, axis=1, keepdims=True)
      x = jnp.sum(jnp.where(mask[:, :, None], x, 0.0), axis=1) / jnp.maximum(count, 1)
    self.sow('intermediates', 'features', x)
    return nn.Dense(self.num_classes, name='head')(x)

  def _blocks(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    """All blocks, one after the other or as the body of a scan."""
    make = lambda name: blocks.Block(
      self.heads, self.mlp_width, self.kv_heads, self.norm, pre_norm=False, name=name
    )
    if not self.scan_layers:
      for i in range(1, self.depth + 1):
        x = make(f'layer{i}')(x, mask)
      return x
    scan = nn.scan(
      lambda block, x, mask: (block(x, mask), None),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=self.depth,
    )
    return scan(make('layers'), x, mask)[0]
