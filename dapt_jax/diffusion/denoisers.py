"""Denoising networks: perceptrons over vectors or slots, a transformer over tokens.

All are called `denoiser(x_t, t, condition, drop)` and say what the objective asks for. Rows with
`drop` see a learned null condition in place of theirs, as classifier-free guidance needs it (Ho and
Salimans, 2022). They start from a prediction of zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dapt_jax.models import attention, blocks, layers, slots
from dapt_jax.types import Params, PRNGKey

_zero_dense = functools.partial(nn.Dense, kernel_init=nn.initializers.zeros)
_norm = functools.partial(nn.LayerNorm, use_bias=False, use_scale=False)


def time_features(t: jax.Array, width: int) -> jax.Array:
  """Cosines and sines of t at rates from 1000 down to 0.1 (Vaswani et al., 2017, section 3.5).

  Args:
    t: f32[B], times in [0, 1].
    width: number of features, even.

  Returns:
    f32[B, width].
  """
  rates = 1e3 * jnp.exp(-jnp.log(1e4) * jnp.arange(width // 2) / (width // 2))
  angles = t[:, None] * rates
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class ResidualMLP(nn.Module):
  """Residual blocks of dense layers, modulated by time and condition (FiLM, Perez et al., 2018).

  Attributes:
    width: of the residual stream and of all hidden layers, even.
    blocks: number of blocks, named `block1`, `block2`, ...
  """

  width: int = 256
  blocks: int = 3

  @nn.compact
  def __call__(
    self, x_t: jax.Array, t: jax.Array, condition: jax.Array, drop: jax.Array
  ) -> jax.Array:
    """Maps states to predictions.

    Args:
      x_t: f32[B, L], states.
      t: f32[B], times in [0, 1].
      condition: f32[B, C].
      drop: bool[B], rows whose condition is left out.

    Returns:
      f32[B, L].

    Raises:
      ValueError: for fields or shapes that do not fit.
    """
    _check(self.width, {'x_t': (x_t, (2,)), 'condition': (condition, (2,))})
    condition = _Null(name='null')(condition, drop)
    code = nn.silu(_Code(self.width, name='code')(t, condition))
    h = nn.Dense(self.width, name='input')(x_t)
    for i in range(1, self.blocks + 1):
      h = _FilmBlock(name=f'block{i}')(h, code)
    return _zero_dense(x_t.shape[-1], name='output')(nn.LayerNorm(name='norm')(h))


class SlotMLP(nn.Module):
  """A shared vector and slots that exchange what they know (`models.slots`), FiLM by time.

  States are vectors: first the shared entries, then slot after slot. The condition has a row for
  every slot, and what is learned for one slot holds for all.

  Attributes:
    shared: number of shared entries of a state.
    width: of shared vector and slots inside, even.
    blocks: number of blocks.
  """

  shared: int
  width: int = 256
  blocks: int = 3

  @nn.compact
  def __call__(
    self, x_t: jax.Array, t: jax.Array, condition: jax.Array, drop: jax.Array
  ) -> jax.Array:
    """Maps states to predictions.

    Args:
      x_t: f32[B, L], states; L - shared is a multiple of S.
      t: f32[B], times in [0, 1].
      condition: f32[B, S, C].
      drop: bool[B], rows whose condition is left out.

    Returns:
      f32[B, L].

    Raises:
      ValueError: for fields or shapes that do not fit.
    """
    _check(self.width, {'x_t': (x_t, (2,)), 'condition': (condition, (3,))})
    rows, own = condition.shape[1], x_t.shape[1] - self.shared
    if own < 0 or own % rows:
      raise ValueError(
        f'x_t has {x_t.shape[1]} entries, {self.shared} of them shared; the others do not make '
        f'{rows} equal slots, one for every row of the condition'
      )
    condition = _Null(name='null')(condition, drop)
    code = nn.silu(_Code(self.width, name='code')(t, condition.mean(1)))
    states = x_t[:, self.shared :].reshape(-1, rows, own // rows)
    net = slots.Slots(self.width, self.blocks, self.shared, own // rows, zero=True, name='slots')
    told = jnp.concatenate([states, condition], -1)
    whole, each = net(x_t[:, : self.shared], told, code)
    return jnp.concatenate([whole, each.reshape(len(each), -1)], -1)


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
    _check(self.width, {'x_t': (x_t, (3,)), 'condition': (condition, (2, 3))})
    length = x_t.shape[1]
    condition = _Null(name='null')(condition, drop)
    x = nn.Dense(self.width, name='input')(x_t) + self._position(position, length)
    if condition.ndim == 3:
      context = nn.Dense(self.width, name='context')(condition)
      if owners is not None:
        x = x + jnp.einsum('nm,bmw->bnw', owners, context)
      x = jnp.concatenate([x, context], axis=1)
      condition = jnp.mean(condition, axis=1)
    code = nn.silu(_Code(self.width, name='code')(t, condition))
    for i in range(1, self.depth + 1):
      x = _DiTBlock(self.heads, self.mlp_width, name=f'block{i}')(x, code)
    shift, scale = jnp.split(_zero_dense(2 * self.width, name='modulation')(code)[:, None], 2, -1)
    x = _norm()(x[:, :length]) * (1 + scale) + shift
    return _zero_dense(x_t.shape[-1], name='output')(x)

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


def functions(
  module: nn.Module, x: jax.Array, condition: jax.Array, **inputs: Any
) -> tuple[Callable[[PRNGKey], Params], Callable[..., jax.Array]]:
  """The pair of functions that `train.make_training` takes, of a Linen module.

  Args:
    module: `ResidualMLP`, `DiT` or another module with their signature.
    x: an example batch of data, f32[B, ...]; only its shape counts.
    condition: the condition that goes with it.
    **inputs: further arguments of the module, as `position` and `owners` of `DiT`.

  Returns:
    (`init_fn(key) -> params`, `predict_fn(params, x_t, t, condition, drop) -> prediction`).
  """
  row, times, drop = jax.tree.map(lambda a: a[:1], (x, condition)), jnp.zeros(1), jnp.zeros(1, bool)

  def init_fn(key: PRNGKey) -> Params:
    return jax.jit(module.init)(key, row[0], times, row[1], drop, **inputs)

  def predict_fn(params, x_t, t, condition, drop):
    return module.apply(params, x_t, t, condition, drop, **inputs)

  return init_fn, predict_fn


class _Null(nn.Module):
  """Replaces the condition of dropped rows, f32[B, C] or f32[B, M, C], by a learned f32[C]."""

  @nn.compact
  def __call__(self, condition: jax.Array, drop: jax.Array) -> jax.Array:
    null = self.param('value', nn.initializers.zeros, condition.shape[-1:])
    return jnp.where(drop.reshape(drop.shape + (1,) * (condition.ndim - 1)), null, condition)


class _Code(nn.Module):
  """Time f32[B] and condition f32[B, C] as one vector f32[B, width]."""

  width: int

  @nn.compact
  def __call__(self, t: jax.Array, condition: jax.Array) -> jax.Array:
    time = nn.Dense(self.width, name='time')(time_features(t, self.width))
    mixed = nn.silu(time + nn.Dense(self.width, use_bias=False, name='condition')(condition))
    return nn.Dense(self.width, name='mixed')(mixed)


class _FilmBlock(nn.Module):
  """h + dense(silu(dense(scaled and shifted LayerNorm(h)))), all of one width."""

  @nn.compact
  def __call__(self, h: jax.Array, code: jax.Array) -> jax.Array:
    width = h.shape[-1]
    scale, shift = jnp.split(_zero_dense(2 * width, name='film')(code), 2, axis=-1)
    inner = nn.silu(nn.Dense(width, name='up')(_norm()(h) * (1 + scale) + shift))
    return h + nn.Dense(width, name='down')(inner)


class _DiTBlock(nn.Module):
  """Attention and perceptron, each shifted, scaled and gated by the code; gates start at zero."""

  heads: int
  mlp_width: int

  @nn.compact
  def __call__(self, x: jax.Array, code: jax.Array) -> jax.Array:
    parts = _zero_dense(6 * x.shape[-1], name='modulation')(code)[:, None]
    shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(parts, 6, axis=-1)
    attend = attention.Attention(self.heads, name='attention')
    x = x + gate1 * attend(_norm()(x) * (1 + scale1) + shift1)
    feed = blocks.Feedforward(self.mlp_width, name='mlp')
    return x + gate2 * feed(_norm()(x) * (1 + scale2) + shift2)


def _check(width: int, arrays: dict[str, tuple[jax.Array, tuple[int, ...]]]) -> None:
  """Checks the width, and the number of axes of every array."""
  if width < 2 or width % 2:
    raise ValueError(f'width={width} must be even, for as many sines as cosines of the time')
  for name, (array, allowed) in arrays.items():
    if array.ndim not in allowed:
      raise ValueError(
        f'{name} has shape {array.shape}: it must have {" or ".join(map(str, allowed))} axes, '
        'batch first'
      )
