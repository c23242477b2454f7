"""The whole network trained on the source: for magnitude, inherited and pretrained baselines."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dapt_jax import data
from dapt_jax.training import loop, runner, seeds
from dapt_jax.training import workdir as workdir_lib
from dapt_jax.types import Params
from experiments import outputs
from experiments import task as task_lib

_MOMENTUM = 0.95


class State(NamedTuple):
  """Weights with moving statistics, and the optimiser's state."""

  params: Params
  optimizer: Any


def train(config: Any, task: task_lib.Task, workdir: str) -> Params:
  """Trains the whole network on the source's training split, once per work directory.

  Returns:
    Parameters with moving averages of the normalisation statistics.
  """
  recorded = {
    'steps': config.transfer.source_steps,
    'batch_size': config.search.batch_size,
    'rate': config.search.weight_rate,
    'seed': config.seed,
    'data': config.data.to_dict() | {'targets': None, 'test_limit': None},
    'model': config.model.to_dict(),
  }
  optimizer = optax.adam(
    optax.cosine_decay_schedule(config.search.weight_rate, config.transfer.source_steps)
  )
  model = task.fast

  def update(state: State, batch: Any, axis_name: str | None = None):
    del axis_name

    def loss_fn(params):
      logits, stats = model.apply_train(params, batch['image'])
      loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']).mean()
      return loss, (stats, (logits.argmax(-1) == batch['label']).mean())

    (loss, (stats, right)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    moves, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, moves)
    for name, new in stats.items():
      average = lambda o, n: _MOMENTUM * o + (1 - _MOMENTUM) * n
      params = {**params, name: jax.tree.map(average, state.params[name], new)}
    return State(params, optimizer_state), {'loss': loss, 'accuracy': right}

  params = model.init(seeds.key(config.seed, 'source'))
  batcher = data.make_batcher(task.source, config.search.batch_size, config.seed)

  def batches(step: int):
    batch = batcher(step)
    return {'image': task.standardizer(batch['image']), 'label': batch['label']}

  path = pathlib.Path(workdir) / 'source'
  with (
    workdir_lib.open_workdir(path, recorded, kind='source') as opened,
    outputs.more_writers(config, path) as more,
  ):
    result = loop.run(
      runner.make_update(update, kind='jit'),
      State(params, optimizer.init(params)),
      batches,
      num_steps=config.transfer.source_steps,
      workdir=opened,
      checkpoint_every=200,
      writers=more,
      name='source network',
      shown=('loss', 'accuracy'),
    )
  return jax.tree.map(jnp.asarray, result.state.params)
