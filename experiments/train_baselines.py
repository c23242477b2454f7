"""Trains first weights that are the same for all tasks: meta-learned ones, and a joint body.

  python -m experiments.train_baselines --config=configs/generate.py --workdir=runs/generate

Meta-learning sees the tasks that hypernetworks see, those of the zoo and fresh ones, distorted
likewise; the joint body sees the images of the zoo's tasks, distorted one by one. Every baseline
has a directory WORKDIR/baseline-NAME, is resumed, and not repeated once it is done;
`experiments.compare_starts` calls it for what is missing.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.models import recalibration
from dapt_jax.training import seeds
from dapt_jax.types import Params
from dapt_jax.weights import joint, meta
from dapt_jax.weights import zoo as zoo_lib
from experiments import build_zoo, fitting, flags, generation, zoo_task

_STATISTICS = 2000  # images that statistics of BatchNorm are taken from


def learn(config: Any, task: zoo_task.ZooTask, method: str, rows: np.ndarray, path: Any) -> Params:
  """Meta-learned first weights f32[size]."""
  c = config[method]
  recipe = zoo_task.recipe(config)
  inner = dataclasses.replace(recipe, steps=c.inner_steps, group=config.training.batch_size)
  settings = meta.Settings(method, inner, c.learning_rate, c.steps)
  made = meta.make(settings, task.flat, meta.head(task.model))
  key = seeds.key(config.seed, method)
  return fitting.fit(
    *(config, path, method, made.update),
    made.init(zoo_task.first_weights(config, task), key),
    meta.episodes(inner.group, config.sample.support),
    (jnp.asarray(rows), task.images),
    c.steps,
  ).params


def body(config: Any, task: zoo_task.ZooTask, data: joint.Labelled, path: Any) -> Params:
  """First weights f32[size] with a jointly trained body and a head of zeros."""
  c, split = config.joint, task.bank.split
  settings = joint.Settings(len(split.views), split.source_classes, c.learning_rate, c.steps)
  wide = zoo_task.with_outputs(config, task, settings.views * settings.classes)
  made, drawn = joint.make(settings, wide), joint.draw(c.batch_size, config.fresh.warped)
  start = made.init(seeds.key(config.seed, 'joint'))
  variables = fitting.fit(config, path, 'joint', made.update, start, drawn, data, c.steps).params
  some = data.images[data.rows[:: max(len(data.rows) // _STATISTICS, 1)]]
  variables = recalibration.recalibrate(wide.apply_train, variables, some)
  found = joint.with_zeros(variables, config.data.num_classes)
  return task.flat.ravel(task.widths.embed(found))


def class_means(
  config: Any, task: zoo_task.ZooTask, found: jax.Array, support: np.ndarray
) -> jax.Array:
  """f32[T, 1, size], the body f32[size] with heads of class means of i32[T, classes, k]."""
  variables = task.widths.cut(config.sample.width, task.flat.unravel(found))
  reader = zoo_task.with_outputs(config, task, joint.width(variables))

  @jax.jit
  def one(rows: jax.Array) -> jax.Array:
    made = joint.with_means(reader, variables, task.images, rows)
    return task.flat.ravel(task.widths.embed(made))

  return jnp.stack([one(rows) for rows in jnp.asarray(support)])[:, None]


def joint_body(
  config: Any, task: zoo_task.ZooTask, found: zoo_lib.Zoo, rows: np.ndarray, workdir: str
) -> jax.Array:
  """The joint body f32[size] of width `sample.width`, trained if it is not yet.

  Args:
    config: of the apps.
    task: images and models.
    found: the zoo.
    rows: i32[N, classes, K], training images of its tasks.
    workdir: of the apps.
  """
  data = joint.labelled(found.tasks, rows, task.images)
  return body(config, task, data, _path(config, 'joint', workdir))


def run(
  config: Any, task: zoo_task.ZooTask, found: zoo_lib.Zoo, workdir: str
) -> dict[str, jax.Array]:
  """Trains what is not trained yet; {method: first weights f32[size]}."""
  rows = zoo_task.training_rows(config, task, found)
  out = {}
  for method in config.compare.baselines:
    if method == 'joint':
      out[method] = joint_body(config, task, found, rows, workdir)
    else:
      out[method] = learn(config, task, method, rows, _path(config, method, workdir))
  return out


def _path(config: Any, method: str, workdir: str) -> pathlib.Path:
  width = f'-{config.sample.width}' if config.sample.width else ''
  return pathlib.Path(workdir) / f'baseline-{method}{width}'


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Trains the baselines and says what they cost."""
  if overwrite:
    flags.clear(pathlib.Path(workdir).glob('baseline-*'))
  task = zoo_task.load(config)
  found = build_zoo.run(config, task, workdir)
  start = time.process_time()
  trained = run(config, task, found, workdir)
  print(f'{", ".join(trained)}: {time.process_time() - start:.0f} CPU-seconds')


if __name__ == '__main__':
  flags.run(main, generation)
