"""A transformer over tokens as denoising network; called like those of `denoisers`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from dapt_jax.diffusion import parts
from dapt_jax.models import attention, blocks, layers


class DiT(nn.Module):
  """Diffusion transformer over a set of tokens (Peebles and Xie, 2023), adaLN-Zero blocks.

  A condition of tokens f32[B, M, C] joins the sequence ('in-context' there) and its mean modulates
  the blocks together with the time; a vector f32[B, C] modulates only. Nothing tells the condition
  tokens apart but their values: write labels in (`labelled`).

  Attributes:
    width: of a token inside, even.
    depth: number of blocks, named `block1`, `block2`, ...
    heads: number of attention heads, a divisor of `width`.
    mlp_width: hidden width of the perceptrons.
  """

  width: int = 128
  depth: int = 4
  heads: int = 4
  mlp_width: int = 512

  @nn.compact
  def __call__(
    self,
    x_t: jax.Array,
    t: jax.Array,
    condition: jax.Array,
    drop: jax.Array,
    position: jax.Array | None = None,
    owners: jax.Array | None = None,
  ) -> jax.Array:
    """Maps states to predictions.

    Args:
      x_t: f32[B, N, D], states.
      t: f32[B], times in [0, 1].
      condition: f32[B, C], or tokens f32[B, M, C].
      drop: bool[B], rows whose condition is left out.
      position: f32[N, P], what each token is (its place, layer, type, ...), the same for all rows.
        None learns a table, which fixes N.
      owners: f32[N, M], one-hot, the condition token that a token belongs to and is told at once;
        zeros for none. None: tokens find what they need by attention.

    Returns:
      f32[B, N, D].

    Raises:
      ValueError: for fields or shapes that do not fit.
    """
    attention.check(self.width, self.heads, None)
    parts.check(self.width, {'x_t': (x_t, (3,)), 'condition': (condition, (2, 3))})
    length = x_t.shape[1]
    condition = parts.Null(name='null')(condition, drop)
    x = nn.Dense(self.width, name='input')(x_t) + self._position(position, length)
    if condition.ndim == 3:
      context = nn.Dense(self.width, name='context')(condition)
      if owners is not None:
        x = x + jnp.einsum('nm,bmw->bnw', owners, context)
      x = jnp.concatenate([x, context], axis=1)
      condition = jnp.mean(condition, axis=1)
    code = nn.silu(parts.Code(self.width, name='code')(t, condition))
    for i in range(1, self.depth + 1):
      x = _DiTBlock(self.heads, self.mlp_width, name=f'block{i}')(x, code)
    moved = parts.zero_dense(2 * self.width, name='modulation')(code)[:, None]
    shift, scale = jnp.split(moved, 2, -1)
    x = parts.plain_norm()(x[:, :length]) * (1 + scale) + shift
    return parts.zero_dense(x_t.shape[-1], name='output')(x)

  def _position(self, position: jax.Array | None, length: int) -> jax.Array:
    """What tells the tokens apart, f32[N, width]."""
    if position is None:
      return self.param('position', layers.table_normal, (length, self.width))
    if position.ndim != 2 or position.shape[0] != length:
      raise ValueError(
        f'position has shape {position.shape}: give [N, P] with a row for each of the {length} '
        'tokens, the same for the whole batch'
      )
    return nn.Dense(self.width, name='place')(position)


def labelled(condition: jax.Array) -> jax.Array:
  """A condition f32[B, M, C] with the number of every row behind it, one-hot, f32[B, M, C + M]."""
  rows = condition.shape[1]
  labels = jnp.broadcast_to(jnp.eye(rows), (len(condition), rows, rows))
  return jnp.concatenate([condition, labels], axis=-1)


class _DiTBlock(nn.Module):
  """Attention and perceptron, each shifted, scaled and gated by the code; gates start at zero."""

  heads: int
  mlp_width: int

  @nn.compact
  def __call__(self, x: jax.Array, code: jax.Array) -> jax.Array:
    moved = parts.zero_dense(6 * x.shape[-1], name='modulation')(code)[:, None]
    shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(moved, 6, axis=-1)
    attend = attention.Attention(self.heads, name='attention')
    x = x + gate1 * attend(parts.plain_norm()(x) * (1 + scale1) + shift1)
    feed = blocks.Feedforward(self.mlp_width, name='mlp')
    return x + gate2 * feed(parts.plain_norm()(x) * (1 + scale2) + shift2)
