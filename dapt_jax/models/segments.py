"""A transformer over tokens in segments, as layers of a network have them.

Tokens of one segment are read and written by one dense layer, whatever their number: parameters
grow with tokens and with their length, not with the product of both. What a token is, its place,
is learned: a vector that is added, and factors of what it reads and writes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from dapt_jax.models import attention, blocks, layers


class Segments(nn.Module):
  """Blocks of attention and perceptron between layers that read and write every segment.

  Attributes:
    sizes: tokens of every segment, one after the other; N together.
    width: W, of a token inside, see `attention.heads`.
    blocks: number of blocks, named `block1`, `block2`, ...
    out: entries of every token that come out.
    owners: the row that a token belongs to and is told at once, -1 for none; N of them.
  """

  sizes: tuple[int, ...]
  width: int
  blocks: int
  out: int
  owners: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, tokens: jax.Array | None, rows: jax.Array | None = None) -> jax.Array:
    """Maps tokens f32[B, N, I], or rows f32[B, M, C] that all tokens look at, to f32[B, N, out]."""
    count = sum(self.sizes)
    x = self.param('places', layers.table_normal, (1, count, self.width))
    if tokens is not None:
      x = x + self._each('read', self.width, tokens) * self._factors('read')
    if rows is not None:
      seen = nn.Dense(self.width, name='rows')(rows)
      seen = seen + self.param('classes', layers.table_normal, seen.shape[1:])
      owners = jax.nn.one_hot(jnp.asarray(self.owners), rows.shape[1])
      x = x + jnp.einsum('nm,bmw->bnw', owners, seen)
      x = jnp.concatenate([x, seen], axis=1)
    for i in range(1, self.blocks + 1):
      block = blocks.Block(attention.heads(self.width), 2 * self.width, name=f'block{i}')
      x = block(x)
    x = nn.LayerNorm(name='norm')(x[:, :count]) * self._factors('write')
    return self._each('write', self.out, x)

  def _each(self, name: str, width: int, x: jax.Array) -> jax.Array:
    """A dense layer for every segment."""
    ends = [sum(self.sizes[:i]) for i in range(1, len(self.sizes))]
    parts = jnp.split(x, ends, axis=1)
    return jnp.concatenate(
      [nn.Dense(width, name=f'{name}{i}')(part) for i, part in enumerate(parts, 1)], axis=1
    )

  def _factors(self, name: str) -> jax.Array:
    """One factor for every token and entry, f32[N, W], 1 at first."""
    return self.param(f'factors_{name}', nn.initializers.ones, (sum(self.sizes), self.width))
