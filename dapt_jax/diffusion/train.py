"""Training of a denoiser: a pure (init, update) pair over one state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dapt_jax.diffusion import objective as objective_lib
from dapt_jax.types import ArrayTree, Params, PRNGKey

#: `predict_fn(params, x_t, t, condition, drop) -> prediction`; the condition is as the batch has
#: it, so an encoder that is trained along is called in here.
PredictFn = Callable[[Params, jax.Array, jax.Array, ArrayTree, jax.Array], jax.Array]

# What a key is folded with, so that no two uses share their random numbers.
_NOISE, _DROP, _BATCH = 0, 1, 2


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
    update: `update(state, batch, axis_name=None) -> (state, {'loss': f32[]})`, with `batch` being
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
    return jnp.mean(jnp.square(prediction - target))

  def update(state: TrainState, batch: tuple[jax.Array, ArrayTree], axis_name: str | None = None):
    size = _check(batch)
    key = jax.random.fold_in(state.key, state.step)
    first = 0 if axis_name is None else lax.axis_index(axis_name) * size
    loss, gradient = jax.value_and_grad(loss_fn)(state.params, batch, key, first)
    if axis_name is not None:
      loss, gradient = lax.pmean((loss, gradient), axis_name)
    moves, moved = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, moves)
    step = state.step + 1
    ema = optax.incremental_update(params, state.ema, _share_of_newest(ema_decay, step))
    return TrainState(params, ema, moved, step, state.key), {'loss': loss}

  return Training(init, update)


def repeated(
  update: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
  draw: Callable[[Any, PRNGKey], tuple[jax.Array, ArrayTree]],
  num_steps: int,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
  """Several updates in one compiled call, on batches drawn on the device. For one device.

  Small networks take less time for an update than Python for a call. With `training.loop.run` one
  of its steps is then `num_steps` updates, and `batches` returns the same data at every step.

  Args:
    update: of a `Training`.
    draw: `draw(data, key) -> (x0, condition)`, a batch; every update has a key of its own.
    num_steps: updates a call, at least 1.

  Returns:
    `run(state, data) -> (state, metrics)`, metrics being means over the updates.

  Raises:
    ValueError: for fewer than one update.
  """
  if num_steps < 1:
    raise ValueError(f'num_steps={num_steps}: a call needs at least 1 update')

  def run(state: TrainState, data: Any) -> tuple[TrainState, dict[str, jax.Array]]:
    def one(state: TrainState, _: None):
      key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), _BATCH)
      return update(state, draw(data, key))

    state, metrics = lax.scan(one, state, length=num_steps)
    return state, jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)

  return run


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
