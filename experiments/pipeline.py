"""The main job: prune on a source, transfer to few-shot targets, report.

With a section `first_weights` in the configuration a generator of first weights is trained as well.

  python -m experiments.pipeline --config=configs/demo.py --workdir=runs/demo

Stages that are finished are not repeated; Ctrl-C or SIGTERM saves, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from dapt_jax.training import writers
from experiments import first_weights, flags, prune, report, transfer
from experiments import task as task_lib


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Runs all stages and prints where the report lies."""
  root = pathlib.Path(workdir)
  if overwrite:
    flags.clear([*(root / 'search').glob('*'), root / 'source', root / 'transfer'])
    first_weights.clear(workdir)
    (root / 'stages.json').unlink(missing_ok=True)
  clock = _Clock(root / 'stages.json')
  with clock.stage('data and graph'):
    task = task_lib.load(config)
    transfer.check(config, task, workdir)
  print('data:\n  ' + '\n  '.join(task.data_sources))
  print(task.graph.explain())
  with clock.stage('search'):
    learned = prune.run_all(config, task, workdir)
  for name, arch in learned.items():
    shares = ', '.join(f'{c["share"]:.2%} of the {u}' for u, c in arch.costs.items())
    print(f'{name}: {shares}')
  with clock.stage('baselines and retraining'):
    rows = transfer.run(config, task, workdir, learned)
  if 'first_weights' in config:
    with clock.stage('first weights'):
      first_weights.run(config.first_weights, workdir)
  path = report.make(config, task, workdir, rows, learned, clock.stages)
  print(f'report: {path.resolve()}')


class _Clock:
  """Seconds of every stage; those of a stage that was stopped and goes on add up."""

  def __init__(self, path: pathlib.Path) -> None:
    self.path = path
    self.seconds: dict[str, float] = {}
    if path.is_file():
      self.seconds = {s['name']: s['seconds'] for s in json.loads(path.read_text('utf-8'))}

  @property
  def stages(self) -> list[dict[str, Any]]:
    """`{'name', 'seconds'}` of every stage so far."""
    return [{'name': n, 'seconds': s} for n, s in self.seconds.items()]

  @contextlib.contextmanager
  def stage(self, name: str) -> Iterator[None]:
    """Times a block, also one that is left by an exception."""
    start = time.perf_counter()
    try:
      yield
    finally:
      spent = self.seconds.get(name, 0.0) + time.perf_counter() - start
      self.seconds[name] = round(spent, 2)
      if self.path.parent.is_dir():  # not where loading the data already failed
        writers.write_json(self.path, self.stages)


if __name__ == '__main__':
  flags.run(main)
