"""Retrains what `prune` found, and every baseline, on few-shot targets.

  python -m experiments.transfer --config=configs/demo.py --workdir=runs/demo

Writes WORKDIR/transfer/results.csv (one row per candidate, number of shots and draw), summary.csv
(mean and 95% interval) and comparison.csv (paired differences). A stopped run goes on with the
candidates that are missing.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import tqdm

import dapt_jax as dapt
from dapt_jax.training import seeds, stopping, writers
from dapt_jax.training import workdir as workdir_lib
from dapt_jax.transfer import draws, protocol, results, retrain, statistics
from dapt_jax.transfer import ledger as ledger_lib
from experiments import candidates as candidates_lib
from experiments import devices, flags, prune
from experiments import task as task_lib


class _StoppedError(Exception):
  """Leaves the comparison after the candidates in progress."""


def run(
  config: Any,
  task: task_lib.Task,
  workdir: str,
  learned: Mapping[str, dapt.Architecture],
) -> list[dict[str, Any]]:
  """The whole comparison.

  Args:
    config: checked configuration.
    task: from `task.load`.
    workdir: of the whole run.
    learned: of `prune.run_all`.

  Returns:
    The rows of results.csv.

  Raises:
    stopping.Interrupted: the process was asked to stop; finished candidates are kept.
  """
  everything = candidates_lib.make(config, task, workdir, learned)
  path, recorded = _place(config, workdir)
  with workdir_lib.open_workdir(path, recorded, kind='transfer', free_fields=prune.FREE):
    rows = _compare(config, task, everything, path)
    writers.write_csv(path / 'results.csv', rows)
    writers.write_csv(path / 'summary.csv', statistics.summarise(rows))
    writers.write_csv(path / 'comparison.csv', differences(rows))
  return rows


def check(config: Any, task: task_lib.Task, workdir: str) -> None:
  """Refuses, before any search, what the comparison would refuse after it.

  Raises:
    ValueError: a class of a target has fewer examples than `transfer.shots` asks for, or the unit
      of the budget has no column in results.csv.
    workdir.WorkdirError: the work directory holds the comparison of another configuration.
  """
  if config.search.unit not in results.UNITS:
    raise ValueError(
      f'search.unit is {config.search.unit!r}; results of the transfer are kept for '
      f'{list(results.UNITS)} only: search alone with experiments.prune, or take one of these'
    )
  for target in task.targets:
    draws.supports(target.train.labels, config.transfer.shots, 1, config.seed)
  path, recorded = _place(config, workdir)
  if path.exists():
    with workdir_lib.open_workdir(path, recorded, kind='transfer', free_fields=prune.FREE):
      pass


def _place(config: Any, workdir: str) -> tuple[pathlib.Path, dict[str, Any]]:
  """Where the comparison is kept, and the configuration it belongs to."""
  other = (
    'title',
    'devices',
    'runner',
    'profile',
    'workers',
    'latency',
    'tensorboard',
    'first_weights',
  )
  recorded = {k: v for k, v in config.to_dict().items() if k not in other}
  return pathlib.Path(workdir) / 'transfer', recorded


def _compare(config, task, everything, path):
  c = config.transfer
  fields = ('steps', 'batch_size', 'learning_rate', 'weight_decay', 'chunk', 'stop_loss')
  recipe = retrain.Recipe(**{f: c[f] for f in fields})
  ledger = ledger_lib.Ledger(path / 'finished.jsonl')
  rows = []
  with stopping.catch() as stop:
    for target in task.targets:
      with tqdm.tqdm(total=len(everything), desc=f'retrain on {target.name}', unit='net') as bar:
        done = _watch(stop, bar)
        try:
          rows += protocol.compare(
            everything,
            target,
            shots=c.shots,
            num_draws=c.draws,
            recipe=recipe,
            key=seeds.key(config.seed, 'retrain'),
            draw_seed=config.seed,
            **_place_runs(config),
            ledger=ledger,
            on_done=done,
          )
        except _StoppedError:
          total = len(everything) * len(task.targets)
          raise stop.interrupted('retraining', len(ledger.rows), total, path) from None
  return rows


def _place_runs(config: Any) -> dict[str, Any]:
  """On CPU candidates run side by side; on accelerators the draws of one are spread over them."""
  if jax.default_backend() == 'cpu' or config.workers:
    return {'workers': config.workers or os.cpu_count() or 1}
  runs = len(config.transfer.shots) * config.transfer.draws
  return {'devices': devices.choose(runs, 'the product of transfer.shots and transfer.draws')}


def _watch(stop: stopping.Stop, bar: tqdm.tqdm) -> Callable[[protocol.Candidate], None]:
  def done(candidate: protocol.Candidate) -> None:
    bar.set_postfix_str(f'{candidate.method} {candidate.architecture}')
    bar.update()
    if stop.requested:
      raise _StoppedError

  return done


def differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Paired differences of the learned architectures to every other method."""
  others = sorted({r['method'] for r in rows} - {'learned'})
  return [row for other in others for row in statistics.compare(rows, 'learned', other)]


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Runs the comparison and prints its summary."""
  task = task_lib.load(config)
  print('\n'.join(task.data_sources))
  if overwrite:
    root = pathlib.Path(workdir)
    variants = [p for p in (root / 'search').glob('*') if not p.name.startswith('learned-')]
    flags.clear([*variants, root / 'source', root / 'transfer'])
  check(config, task, workdir)
  rows = run(config, task, workdir, prune.run_all(config, task, workdir))
  for row in statistics.summarise(rows):
    where = f'{row["target"]:14s} {row["budget"]:<5g} {row["method"]:20s} {row["shots"]:3d} shots'
    print(f'{where}  {row["mean"]:.4f} +- {row["half_width"]:.4f}')


if __name__ == '__main__':
  flags.run(main)
