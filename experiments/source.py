"""The whole network trained on the source: for criteria, inherited and pretrained baselines."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dapt_jax import collectives, data
from dapt_jax.models import precision
from dapt_jax.training import accumulation, loop, runner, seeds
from dapt_jax.training import begin as begin_lib
from dapt_jax.training import workdir as workdir_lib
from dapt_jax.types import Gates, Params
from experiments import devices, outputs
from experiments import task as task_lib

_MOMENTUM = 0.95


class State(NamedTuple):
  """Weights with moving statistics, and the optimiser's state."""

  params: Params
  optimizer: Any


def train(
  config: Any, task: task_lib.Task, workdir: str, init: pathlib.Path | None = None
) -> Params:
  """Trains the whole network on the source's training split, once per work directory.

  Args:
    config: checked configuration.
    task: from `task.load`.
    workdir: of the whole run.
    init: an earlier such training, whose weights it starts with if it has no checkpoint.

  Returns:
    Parameters with moving averages of the normalisation statistics.
  """
  return _fit(
    config,
    task,
    pathlib.Path(workdir) / 'source',
    task.fast.init(seeds.key(config.seed, 'source')),
    num_steps=config.transfer.source_steps,
    seed=config.seed,
    gates={},
    init=init,
  )


def retrain(
  config: Any,
  task: task_lib.Task,
  path: pathlib.Path,
  params: Params,
  gates: Gates,
  seed: int,
) -> Params:
  """Trains the whole network further under fixed gates, for a share of `search.steps`.

  Args:
    config: checked configuration.
    task: from `task.load`.
    path: directory of this training; resumed if it holds it.
    params: where it starts.
    gates: `{group: f32[width]}` of 0 and 1.
    seed: of the batches.

  Returns:
    Parameters as from `train`; those behind closed gates are as they were.
  """
  steps = max(config.search.steps // (config.search.rounds - 1), 1)
  return _fit(config, task, path, params, num_steps=steps, seed=seed, gates=gates)


def _fit(
  config: Any,
  task: task_lib.Task,
  path: pathlib.Path,
  params: Params,
  *,
  num_steps: int,
  seed: int,
  gates: Gates,
  init: pathlib.Path | None = None,
) -> Params:
  """Trains with Adam and a cosine schedule on the source's training split."""
  recorded = {
    'steps': num_steps,
    'batch_size': config.search.batch_size,
    'rate': config.search.weight_rate,
    'precision': config.precision,
    'accumulate': config.search.accumulate,
    'seed': seed,
    'data': config.data.to_dict() | {'targets': None, 'test_limit': None},
    'model': config.model.to_dict(),
  }
  update, state = program(config, task, params, num_steps, gates)
  with (
    workdir_lib.open_workdir(path, recorded, kind='source') as opened,
    outputs.more_writers(config, path) as more,
  ):
    result = loop.run(
      update,
      state,
      batches(task, config.search.batch_size, seed, devices.shard()),
      num_steps=num_steps,
      workdir=opened,
      begin=begin_lib.Begin(init=init),
      checkpoint_every=200,
      writers=more,
      name='source network' if not gates else f'cut network, {path.name}',
      shown=('loss', 'accuracy'),
    )
  return jax.tree.map(jnp.asarray, result.state.params)


def program(
  config: Any, task: task_lib.Task, params: Params, num_steps: int, gates: Gates | None = None
) -> tuple[runner.Mapped, State]:
  """The compiled update of the whole network's weights, and its first state.

  Args:
    config: checked configuration.
    task: from `task.load`.
    params: where it starts.
    num_steps: of the schedule.
    gates: as of `retrain`; none are closed if None.
  """
  optimizer = optax.adam(optax.cosine_decay_schedule(config.search.weight_rate, num_steps))
  update = runner.make_update(
    _make_update(config, task, optimizer, gates or {}),
    kind=config.runner,
    batch_axes=0,
    devices=devices.choose(config.search.batch_size, 'search.batch_size'),
  )
  return update, State(params, optimizer.init(params))


def batches(
  task: task_lib.Task, batch_size: int, seed: int, shard: tuple[int, int] = (0, 1)
) -> Callable[[int], dict[str, Any]]:
  """`batches(step)`: standardised source data, of several processes each its rows (see `data`)."""
  batcher = data.make_batcher(task.source, batch_size, seed, shard=shard)

  def at(step: int) -> dict[str, Any]:
    batch = batcher(step)
    return {'image': task.standardizer(batch['image']), 'label': batch['label']}

  return at


def _make_update(
  config: Any, task: task_lib.Task, optimizer: optax.GradientTransformation, gates: Gates
):
  """The update of the weights, `(state, batch) -> (state, metrics)`."""

  def update(state: State, batch: Mapping[str, Any], axis_name: str | None = None):
    model = precision.compute_in(task.synchronised(axis_name), config.precision)

    def loss_fn(params, batch):
      gated = task.graph.apply_gates(params, gates)
      logits, stats = model.apply_train(gated, batch['image'])
      loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']).mean()
      return loss, (stats, (logits.argmax(-1) == batch['label']).mean())

    whole = accumulation.in_parts(loss_fn, config.search.accumulate)
    (loss, (stats, right)), gradient = jax.value_and_grad(whole, has_aux=True)(state.params, batch)
    gradient, loss, right = collectives.mean((gradient, loss, right), axis_name)
    moves, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, moves)
    for name, new in stats.items():
      average = lambda o, n: _MOMENTUM * o + (1 - _MOMENTUM) * n
      params = {**params, name: jax.tree.map(average, state.params[name], new)}
    return State(params, optimizer_state), {'loss': loss, 'accuracy': right}

  return update
