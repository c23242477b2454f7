"""Training of a denoiser: a pure (init, update) pair over one state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dapt_jax import collectives
from dapt_jax.diffusion import objective as objective_lib
from dapt_jax.types import ArrayTree, Params, PRNGKey

#: `predict_fn(params, x_t, t, condition, drop) -> prediction`; the condition is as the batch has
#: it, so an encoder that is trained along is called in here.
PredictFn = Callable[[Params, jax.Array, jax.Array, ArrayTree, jax.Array], jax.Array]
#: `penalty(params, x_0 f32[B, ...], condition, drop bool[B]) -> f32[B]`, see `make_training`.
Penalty = Callable[[Params, jax.Array, ArrayTree, jax.Array], jax.Array]

# What a key is folded with, so that no two uses share their random numbers.
_NOISE, _DROP = 0, 1


class TrainState(NamedTuple):
  """State of a training run; all of it is replicated over devices.

  Attributes:
    params: what is trained.
    ema: exponential moving average of `params`; sample with these.
    optimizer: state of the optimiser.
    step: i32[], updates done.
    key: the run's random key.
  """

  params: Params
  ema: Params
  optimizer: Any
  step: jax.Array
  key: PRNGKey


class Training(NamedTuple):
  """Pure functions, as in optax.

  Attributes:
    init: `init(key) -> TrainState`.
    update: `update(state, batch, axis_name=None) -> (state, {'loss': f32[], ...})`, `batch` being
      `(x0 f32[B, ...], condition)`, the condition a pytree of arrays [B, ...]. For
      `training.runner.make_update` shard the batch (`batch_axes=0`) and nothing of the state.
  """

  init: Callable[[PRNGKey], TrainState]
  update: Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def make_training(
  init_fn: Callable[[PRNGKey], Params],
  predict_fn: PredictFn,
  objective: objective_lib.Objective,
  optimizer: optax.GradientTransformation,
  *,
  ema_decay: float = 0.999,
  drop_rate: float = 0.1,
  penalty: Penalty | None = None,
) -> Training:
  """Makes the training of a denoiser.

  The loss is the mean squared error of the prediction, every time weighted alike (Ho et al., 2020,
  equation 14, where the prediction is the noise).

  Args:
    init_fn: `init_fn(key) -> params`, any pytree of float arrays; see `denoisers.functions`.
    predict_fn: see `PredictFn`.
    objective: what is predicted, and how noise is added.
    optimizer: any optax optimiser.
    ema_decay: decay of the average, in [0, 1).
    drop_rate: share of the examples trained without their condition, in [0, 1]; 0 leaves nothing
      for guidance to use, 1 trains an unconditional model.
    penalty: a further loss on the data that the network predicts at time t, averaged over the batch
      and added (ours): what the data are for, where their squared error does not say it.

  Returns:
    The pair of functions.

  Raises:
    ValueError: for a rate out of range; from `update` where shapes do not fit.
  """
  if not 0 <= ema_decay < 1:
    raise ValueError(f'ema_decay={ema_decay} must be in [0, 1); 0 keeps no average')
  if not 0 <= drop_rate <= 1:
    raise ValueError(f'drop_rate={drop_rate} must be in [0, 1]; 0.1 is usual')

  def init(key: PRNGKey) -> TrainState:
    of_params, of_run = jax.random.split(key)
    params = init_fn(of_params)
    # A copy of its own: a jitted update may reuse the buffers of the state it is given.
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(params, ema, optimizer.init(params), jnp.int32(0), of_run)

  def loss_fn(params: Params, batch: tuple[jax.Array, ArrayTree], key: PRNGKey, first: Any):
    x0, condition = batch
    x_t, t, target = objective.noise(x0, jax.random.fold_in(key, _NOISE), first)
    keys = objective_lib.example_keys(jax.random.fold_in(key, _DROP), x0.shape[0], first)
    drop = jax.vmap(lambda own: jax.random.bernoulli(own, drop_rate))(keys)
    prediction = predict_fn(params, x_t, t, condition, drop)
    if prediction.shape != target.shape:
      raise ValueError(
        f'predict_fn returned shape {prediction.shape} for data of shape {target.shape}: a '
        'prediction has the shape of the data'
      )
    error = jnp.mean(jnp.square(prediction - target))
    if penalty is None:
      return error, {'loss': error}
    further = jnp.mean(penalty(params, objective.recover(x_t, t, prediction)[0], condition, drop))
    return error + further, {'loss': error + further, 'error': error, 'penalty': further}

  def update(state: TrainState, batch: tuple[jax.Array, ArrayTree], axis_name: str | None = None):
    size = _check(batch)
    key = jax.random.fold_in(state.key, state.step)
    first = 0 if axis_name is None else lax.axis_index(axis_name) * size
    gradient, metrics = jax.grad(loss_fn, has_aux=True)(state.params, batch, key, first)
    gradient, metrics = collectives.mean((gradient, metrics), axis_name)
    moves, moved = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, moves)
    step = state.step + 1
    ema = optax.incremental_update(params, state.ema, _share_of_newest(ema_decay, step))
    return TrainState(params, ema, moved, step, state.key), metrics

  return Training(init, update)


def _share_of_newest(decay: float, step: jax.Array) -> jax.Array:
  """Weight f32[] of the newest parameters in their average after `step` >= 1 updates.

  (1 - decay) / (1 - decay^step) makes the recursion the bias-corrected average (Kingma and Ba,
  2015, section 3): it begins as the plain mean of all parameters since the first update, and the
  random ones of the start do not count.
  """
  if decay == 0:
    return jnp.float32(1.0)
  return (1.0 - decay) / -jnp.expm1(step * jnp.log(decay))


def _check(batch: tuple[jax.Array, ArrayTree]) -> int:
  """Checks a batch; its size B."""
  if not isinstance(batch, tuple | list) or len(batch) != 2:
    raise ValueError(f'a batch is a pair (x0, condition), got {type(batch).__name__}')
  x0, condition = batch
  wrong = [jnp.shape(c) for c in jax.tree.leaves(condition) if jnp.shape(c)[:1] != x0.shape[:1]]
  if wrong:
    raise ValueError(
      f'x0 has shape {x0.shape}, but arrays of the condition have {wrong[:8]}: give a row of the '
      'condition for every example'
    )
  return x0.shape[0]
