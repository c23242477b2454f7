"""Structures from the weights of the network trained on the source, by a classical criterion."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from dapt_jax import data, pruning
from dapt_jax.pruning import schedule
from dapt_jax.training import seeds
from dapt_jax.types import Gates, Params
from experiments import source
from experiments import task as task_lib

#: Batches of the source data that the loss is looked at on.
BATCHES = 16


def find(
  config: Any,
  task: task_lib.Task,
  workdir: str,
  path: pathlib.Path,
  criterion: str,
  budget: float,
  seed: int,
) -> schedule.Pruned:
  """Trains the whole network, scores and decides, in `search.rounds` rounds.

  The loss is that of the trained network with its stored statistics.

  Args:
    config: checked configuration.
    task: from `task.load`.
    workdir: of the whole run; the network trained on the source is kept there.
    path: where the training between rounds is kept, one directory a round.
    criterion: one of `pruning.criteria.NAMES`.
    budget: share of the whole network.
    seed: of chance in the criterion, and of the batches.

  Returns:
    The structures of all rounds.
  """
  c = config.search
  batcher = data.make_batcher(task.source, c.batch_size, seed)
  batches = []
  for step in range(BATCHES):
    batch = batcher(step)
    batches.append({'image': task.standardizer(batch['image']), 'label': batch['label']})

  def retrain(params: Params, gates: Gates, number: int) -> Params:
    return source.retrain(config, task, path / f'round{number}', params, gates, seed)

  return schedule.prune(
    task.graph,
    source.train(config, task, workdir),
    criterion,
    budget,
    steps=c.rounds,
    retrain=retrain,
    key=seeds.key(seed, 'criterion'),
    loss_fn=pruning.losses.cross_entropy(_with_stored_statistics(task)),
    batches=jax.tree.map(jnp.asarray, batches),
    unit=c.unit,
    round_to=c.round_to,
  )


def _with_stored_statistics(task: task_lib.Task):
  return lambda params, image: (task.fast.apply(params, image), {})
