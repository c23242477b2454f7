"""What the training loop adds to a bare jitted step, and how the kinds of runner compare.

  python -m benchmarks.runner

The step is the search of configs/demo.py. 'bare' calls the compiled function again and again on a
batch that lies on the device, as a script of one page would. 'runner' is `runner.make_update` on
the same batch, 'loop' is `loop.run` with batches from memory, progress bar and metrics, 'loop and
work directory' writes metrics and one checkpoint at the end of the `--steps` as well. On one
device, and for every kind of runner on all (there 'bare' is the compiled function of that kind).
All take turns; 'over bare' is a median of ratios within rounds. Target: the loop adds at most 3%.
Cost: about ten minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any, get_args

import jax
import numpy as np

from benchmarks import timing
from configs import demo
from dapt_jax import pruning
from dapt_jax.training import loop, runner, workdir
from experiments import gate_search
from experiments import task as task_lib

TARGET = 0.03
Run = Callable[[int], None]


def variants(kind: runner.Kind, devices: int, root: pathlib.Path) -> dict[str, Run]:
  """{variant: runs so many steps}, all of them compiled."""
  config = demo.get_config('search')
  task = task_lib.load(config)
  search = gate_search.make_search(
    config, task, workdir='', budget=config.search.budgets[0], variant='learned'
  )
  update = runner.make_update(
    search.update,
    kind=kind,
    state_axes=pruning.STATE_AXES,
    batch_axes={'weights': 0, 'gates': None},
    devices=jax.devices()[:devices],
  )
  batches = gate_search.batches(task, config.search, seed=0)
  first, fixed = search.init(jax.random.key(0)), update.put_batch(batches(0))
  newest = [update.place(first)]
  numbers = iter(range(1_000_000))

  def bare(steps: int) -> None:
    for _ in range(steps):
      newest[0], metrics = update._step(newest[0], fixed.batch)
      if devices > 1:  # as on CPUs it must be, see `runner`
        jax.block_until_ready(metrics)
    jax.block_until_ready(newest[0])

  def mapped(steps: int) -> None:
    for _ in range(steps):
      newest[0], _ = update(newest[0], fixed)
    jax.block_until_ready(newest[0])

  def looped(steps: int, opened: workdir.Workdir | None = None) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
      loop.run(update, first, batches, num_steps=steps, workdir=opened, log_every=10)

  def recorded(steps: int) -> None:
    with workdir.open_workdir(root / f'{kind}-{next(numbers)}', {}, kind='runner') as opened:
      looped(steps, opened)

  made = {'bare': bare, 'runner': mapped, 'loop': looped, 'loop and work directory': recorded}
  for run in made.values():
    run(1)
  return made


def measure(kind: runner.Kind, devices: int, steps: int, repeats: int) -> list[dict[str, Any]]:
  """Rows of one kind; its variants take turns, forwards and backwards."""
  with tempfile.TemporaryDirectory() as root:
    runs = variants(kind, devices, pathlib.Path(root))
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats):
      for name in list(runs)[:: -1 if number % 2 else 1]:
        start = time.perf_counter()
        runs[name](steps)
        seen[name].append(1e3 * (time.perf_counter() - start) / steps)
  bare, rows = np.array(seen['bare']), []
  for name, times in seen.items():
    low, ratio, high = np.percentile(np.array(times) / bare, (25, 50, 75))
    row = {'runner': kind, 'devices': devices, 'variant': name, 'ms': float(np.median(times))}
    rows.append({**row, 'over bare': float(ratio), 'quartiles': f'{low:.3f} .. {high:.3f}'})
  return rows


def main() -> None:
  """Prints the table, writes the JSON."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--steps', type=int, default=60, help='steps a round (60)')
  parser.add_argument('--repeats', type=int, default=5, help='rounds (5)')
  cores = os.cpu_count() or 1
  parser.add_argument('--devices', type=int, default=cores, help='host devices (one per core)')
  args = parser.parse_args()
  runner.host_devices(args.devices)
  cases: list[tuple[runner.Kind, int]] = [('jit', 1)]
  if args.devices > 1:
    cases += [(kind, args.devices) for kind in get_args(runner.Kind) if kind != 'auto']
  rows: list[dict[str, Any]] = []
  for kind, devices in cases:
    rows += measure(kind, devices, args.steps, args.repeats)
    print(timing.table(rows[-4:]), flush=True)
  worst = max(row['over bare'] - 1 for row in rows if row['variant'] == 'loop')
  print(f'the loop adds {worst:.1%} at most, target {TARGET:.0%}')
  facts = {'target': TARGET, 'steps': args.steps, 'repeats': args.repeats}
  print(timing.save('runner', rows, **facts))


if __name__ == '__main__':
  main()
