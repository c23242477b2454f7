"""Training of one set of parameters by gradients: the state, and the update of a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dapt_jax import collectives
from dapt_jax.types import Params, PRNGKey

Metrics = dict[str, jax.Array]
#: `loss(params, batch, key, axis_name) -> (f32[], metrics)`; every device has a key of its own.
Loss = Callable[[Params, Any, PRNGKey, str | None], tuple[jax.Array, Metrics]]


class State(NamedTuple):
  """State of a training.

  Attributes:
    params: what is trained.
    optimizer: of optax.
    step: i32[], updates done.
    key: of the run; every update folds in its number.
  """

  params: Params
  optimizer: optax.OptState
  step: jax.Array
  key: PRNGKey


def adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
  """Adam on gradients of norm 1 at most; the rate falls along a cosine to a fiftieth."""
  rate = optax.cosine_decay_schedule(learning_rate, steps, alpha=0.02)
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def begin(params: Params, optimizer: optax.GradientTransformation, key: PRNGKey) -> State:
  """The state before the first update."""
  return State(params, optimizer.init(params), jnp.int32(0), key)


def make_update(
  loss: Loss, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[State, Metrics]]:
  """Makes `update(state, batch, axis_name=None) -> (state, metrics)`.

  Gradients and metrics are averaged over devices, after `jax.grad`.
  """

  def update(state: State, batch: Any, axis_name: str | None = None) -> tuple[State, Metrics]:
    own = jax.random.fold_in(state.key, state.step)
    if axis_name is not None:
      own = jax.random.fold_in(own, lax.axis_index(axis_name))
    gradient, metrics = jax.grad(loss, has_aux=True)(state.params, batch, own, axis_name)
    gradient, metrics = collectives.mean((gradient, metrics), axis_name)
    moves, inner = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, moves)
    return State(params, inner, state.step + 1, state.key), metrics

  return update
