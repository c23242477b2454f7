"""Denoising networks: perceptrons over vectors or slots (over tokens: `dit`).

All are called `denoiser(x_t, t, condition, drop)` and say what the objective asks for. Rows with
`drop` see a learned null condition in place of theirs, as classifier-free guidance needs it (Ho and
Salimans, 2022). They start from a prediction of zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dapt_jax.diffusion import parts
from dapt_jax.models import slots
from dapt_jax.types import Params, PRNGKey


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
    parts.check(self.width, {'x_t': (x_t, (2,)), 'condition': (condition, (2,))})
    condition = parts.Null(name='null')(condition, drop)
    code = nn.silu(parts.Code(self.width, name='code')(t, condition))
    h = nn.Dense(self.width, name='input')(x_t)
    for i in range(1, self.blocks + 1):
      h = _FilmBlock(name=f'block{i}')(h, code)
    return parts.zero_dense(x_t.shape[-1], name='output')(nn.LayerNorm(name='norm')(h))


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
    parts.check(self.width, {'x_t': (x_t, (2,)), 'condition': (condition, (3,))})
    rows, own = condition.shape[1], x_t.shape[1] - self.shared
    if own < 0 or own % rows:
      raise ValueError(
        f'x_t has {x_t.shape[1]} entries, {self.shared} of them shared; the others do not make '
        f'{rows} equal slots, one for every row of the condition'
      )
    condition = parts.Null(name='null')(condition, drop)
    code = nn.silu(parts.Code(self.width, name='code')(t, condition.mean(1)))
    states = x_t[:, self.shared :].reshape(-1, rows, own // rows)
    net = slots.Slots(self.width, self.blocks, self.shared, own // rows, zero=True, name='slots')
    told = jnp.concatenate([states, condition], -1)
    whole, each = net(x_t[:, : self.shared], told, code)
    return jnp.concatenate([whole, each.reshape(len(each), -1)], -1)


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


class _FilmBlock(nn.Module):
  """h + dense(silu(dense(scaled and shifted LayerNorm(h)))), all of one width."""

  @nn.compact
  def __call__(self, h: jax.Array, code: jax.Array) -> jax.Array:
    width = h.shape[-1]
    scale, shift = jnp.split(parts.zero_dense(2 * width, name='film')(code), 2, axis=-1)
    inner = nn.silu(nn.Dense(width, name='up')(parts.plain_norm()(h) * (1 + scale) + shift))
    return h + nn.Dense(width, name='down')(inner)
