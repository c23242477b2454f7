"""Multi-head attention whose heads stay an axis of every kernel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn


class Attention(nn.Module):
  """Self-attention (Vaswani et al., 2017), grouped-query where `kv_heads < heads`.

  Nothing is reshaped: a head is one position of the same axis in all four kernels, `query`, `key`,
  `value` `f32[D, H, head]` (biases `f32[H, head]`) and `output` `f32[H, head, D]` (bias `f32[D]`).
  With grouped queries (Ainslie et al., 2023) H is two axes, `[KV, G]`, in `query` and `output`, and
  `[KV]` in `key` and `value`: G = heads / kv_heads queries share a key and a value.

  Attributes:
    heads: number of query heads.
    kv_heads: number of key and value heads, a divisor of `heads`; None means `heads`.
    head_width: width of a head; None means D / heads.
    scale: factor of the scores; None means head_width**-0.5. A module made with narrower heads
      after a cut keeps the factor of the original width here.
  """

  heads: int
  kv_heads: int | None = None
  head_width: int | None = None
  scale: float | None = None

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Maps `f32[B, T, D]` to `f32[B, T, D]`.

    Args:
      x: `f32[B, T, D]`.
      mask: `bool[B, T]`, the positions that may be attended to; None means all.
    """
    width = x.shape[-1]
    head_width = self.head_width or width // self.heads
    kv_heads = self.kv_heads or self.heads
    grouped = kv_heads != self.heads
    shared = (kv_heads,)
    own = (kv_heads, self.heads // kv_heads) if grouped else shared
    project = lambda heads, name: nn.DenseGeneral((*heads, head_width), name=name)(x)
    query, key, value = project(own, 'query'), project(shared, 'key'), project(shared, 'value')
    query = query * (head_width**-0.5 if self.scale is None else self.scale)
    # k is a head that is shared, g a query of its group; c runs inside a head.
    h = 'kg' if grouped else 'k'
    scores = jnp.einsum(f'bt{h}c,bskc->b{h}ts', query, key)
    if mask is not None:
      allowed = jnp.expand_dims(mask, tuple(range(1, scores.ndim - 1)))
      scores = jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)
    mixed = jnp.einsum(f'b{h}ts,bskc->bt{h}c', jax.nn.softmax(scores, axis=-1), value)
    return nn.DenseGeneral(width, axis=tuple(range(2, mixed.ndim)), name='output')(mixed)


def heads(width: int) -> int:
  """Heads of 32 entries; one head where these do not fill the width."""
  return 1 if width % 32 else width // 32


def check(width: int, heads: int, kv_heads: int | None) -> None:
  """Checks that the heads divide what they share.

  Args:
    width: width D of the tokens.
    heads: number of query heads.
    kv_heads: number of key and value heads, or None.

  Raises:
    ValueError: naming the fields, their values and the rule.
  """
  if heads < 1 or width % heads:
    raise ValueError(f'heads={heads} must divide width={width}: change one of them')
  if kv_heads is not None and (kv_heads < 1 or heads % kv_heads):
    raise ValueError(f'kv_heads={kv_heads} must divide heads={heads}, or be None for equal numbers')
