"""The main job: prune on a source, transfer to few-shot targets, report.

  python -m experiments.pipeline --config=configs/demo.py --workdir=runs/demo

Stages that are finished are not repeated; Ctrl-C or SIGTERM saves, and the same command goes on.
"""

from __future__ import annotations

import pathlib
import time
from typing import Any

from dapt_jax.training import writers
from experiments import flags, prune, report, transfer
from experiments import task as task_lib


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Runs all stages and prints where the report lies."""
  clock = _Clock(pathlib.Path(workdir) / 'stages.json')
  with clock.stage('data and graph'):
    task = task_lib.load(config)
  print('data:\n  ' + '\n  '.join(task.data_sources))
  print(task.graph.explain())
  with clock.stage('search'):
    learned = prune.run_all(config, task, workdir, overwrite=overwrite)
  for name, arch in learned.items():
    shares = ', '.join(f'{c["share"]:.2%} of the {u}' for u, c in arch.costs.items())
    print(f'{name}: {shares}')
  with clock.stage('baselines and retraining'):
    rows = transfer.run(config, task, workdir, overwrite=overwrite)
  path = report.make(config, task, workdir, rows, learned, clock.stages)
  print(f'report: {path.resolve()}')


class _Clock:
  """Seconds of every stage; a stage that is resumed adds up."""

  def __init__(self, path: pathlib.Path) -> None:
    self.path = path
    self.stages: list[dict[str, Any]] = []

  def stage(self, name: str) -> _Stage:
    return _Stage(self, name)


class _Stage:
  def __init__(self, clock: _Clock, name: str) -> None:
    self.clock, self.name = clock, name

  def __enter__(self) -> None:
    self.start = time.perf_counter()

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    seconds = round(time.perf_counter() - self.start, 2)
    self.clock.stages.append({'name': self.name, 'seconds': seconds})
    if kind is None:
      writers.write_json(self.clock.path, self.clock.stages)


if __name__ == '__main__':
  flags.run(main)
