"""The stage of the pipeline that writes first weights: zoo, generator, comparison, in one go.

Its configuration is a section `first_weights` of the pipeline's, with the fields of
`experiments.generation`. Everything lies in WORKDIR/first_weights: what `build_zoo`,
`train_generator` and `compare_starts` leave there, and `summary.json`, which the report reads. A
finished stage is not repeated; a stopped one goes on.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import numpy as np

from dapt_jax.training import writers
from dapt_jax.weights import bootstrap
from experiments import (
  build_zoo,
  compare_starts,
  flags,
  starts_table,
  train_generator,
  zoo_task,
)


def run(config: Any, workdir: str) -> dict[str, Any]:
  """Runs what is missing.

  Args:
    config: checked section `first_weights`.
    workdir: of the whole pipeline.

  Returns:
    What the report shows, see `describe`.

  Raises:
    ValueError: the gate of the autoencoder, or a zoo of other settings in the directory.
  """
  root = _root(workdir)
  found = read(config, workdir)
  if not found:
    root.mkdir(parents=True, exist_ok=True)
    task = zoo_task.load(config)
    zoo = build_zoo.run(config, task, str(root))
    train_generator.run(config, task, zoo, str(root))
    results = compare_starts.run(config, task, zoo, str(root))
    compare_starts.save(results, config, str(root))
    found = describe(config, task, root)
    writers.write_json(root / 'summary.json', found)
  return found


def read(config: Any, workdir: str) -> dict[str, Any]:
  """What an earlier call of `run` with this configuration found; empty if there was none."""
  path = _root(workdir) / 'summary.json'
  if config is None or not path.is_file():
    return {}
  found = json.loads(path.read_text(encoding='utf-8'))
  return found if found['config'] == _plain(config) else {}


def clear(workdir: str) -> None:
  """Removes an earlier run of the stage, its zoo included.

  Raises:
    WorkdirError: a job is using it.
  """
  root = _root(workdir)
  flags.clear(root / name for name in ('autoencoder', 'alignment', 'diffusion'))
  flags.clear(root.glob('hypernetwork-*'))
  shutil.rmtree(root, ignore_errors=True)


def describe(config: Any, task: zoo_task.ZooTask, root: pathlib.Path) -> dict[str, Any]:
  """A finished comparison as the report wants it.

  Returns:
    {'config', 'steps', 'candidates', 'chance', 'text', 'parts'}; of every part {'part', 'tasks',
    'shown': task and images [rows][columns] in [0, 1] that its condition was made of, 'rows': of
    every method {'method', 'one', 'best', 'ensemble': {'mean', 'low', 'high'} over the tasks,
    'curve': means along the steps}}.
  """
  parts = []
  for part, methods in starts_table.load([root]).items():
    held = zoo_task.held(config, task, part)
    rows = [_row(name, seen) for name, seen in methods.items()]
    shown = {'task': held.tasks[0].name, 'images': _mosaic(task, held.support[0])}
    parts.append({'part': part, 'tasks': len(held.tasks), 'shown': shown, 'rows': rows})
  return {
    'config': _plain(config),
    'steps': list(config.compare.steps),
    'candidates': config.sample.candidates,
    'chance': 1.0 / config.data.num_classes,
    'text': _text(config, task),
    'parts': parts,
  }


def _row(method: str, seen: dict[str, np.ndarray]) -> dict[str, Any]:
  zero = {k: bootstrap.interval(seen[k])._asdict() for k in ('one', 'best', 'ensemble')}
  return {'method': method, **zero, 'curve': seen['best curve'].mean((0, 2)).tolist()}


def _mosaic(task: zoo_task.ZooTask, support: np.ndarray) -> list[list[float]]:
  """Images i32[classes, k] as one picture, a line of k a class, channels averaged."""
  pictures = task.bank.images[support].mean(-1) * 0.5 + 0.5
  classes, k, height, width = pictures.shape
  picture = pictures.transpose(0, 2, 1, 3).reshape(classes * height, k * width)
  return picture.round(3).tolist()


def _text(config: Any, task: zoo_task.ZooTask) -> str:
  held = ', '.join(config.data.held_views)
  return (
    f'{config.zoo.size:,} networks of {task.flat.size:,} weights, each trained on '
    f'{config.data.num_classes} classes in an order of its own; {config.data.held_sets} sets of '
    f'classes{f" and the views {held}" if held else ""} were kept from them. The generator sees '
    f'{config.sample.support} images of every class.'
  )


def _root(workdir: str) -> pathlib.Path:
  return pathlib.Path(workdir) / 'first_weights'


def _plain(config: Any) -> dict[str, Any]:
  """The configuration as JSON gives it back."""
  return json.loads(json.dumps(writers.jsonable(config)))
