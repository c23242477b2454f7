"""Weak scaling from one local process to several: the same work for each.

  python -m benchmarks.scaling [--processes 1 2]

Each process has one device, and a core of its own ('cores': 'own') or any ('shared'). 'search':
configs/demo.py with `--networks` networks a process; 'source network': its whole network with
BatchNorm, `--batch` images a process, gradients and statistics averaged in every step. 'efficiency'
is the time of a step in one process over that in several: 1 if they cost each other nothing. With
one core a process exchanges slowly: the thread that waits and the one that sends take turns on it,
some milliseconds each. Processes that are compared take turns, round after round. Prints a table,
writes `benchmarks/results/scaling.json`. Cost: about ten minutes, most of it starting and
compiling.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from benchmarks.processes import environments
from configs import demo
from dapt_jax.training import hosts, runner
from experiments import devices, gate_search, source
from experiments import task as task_lib

WARMUP, CORES = 3, ('own', 'shared')


def work(networks: int, batch: int, steps: int) -> None:
  """What one process does; prints {job: [milliseconds of every step]} as its last line."""
  address = hosts.Address().filled()
  runner.host_devices(1)
  if address.count is not None:
    hosts.initialize(address)
  config = demo.get_config('search')
  config.search.population = networks * hosts.count()
  config.search.batch_size = batch * hosts.count()
  task = task_lib.load(config)
  found = {'source network': _times(_source(config, task), steps)}
  config.search.batch_size = demo.get_config('search').search.batch_size
  found['search'] = _times(_search(config, task), steps)
  print(json.dumps(found))


def _search(config: Any, task: task_lib.Task) -> Callable[[int], Any]:
  """A step of the search, by its number."""
  searcher, update = gate_search.make_program(config, task, '', config.search.budgets[0], 'learned')
  batches = gate_search.batches(task, config.search, 0, devices.shard())
  return _stepper(update, searcher.init(jax.random.key(0)), batches)


def _source(config: Any, task: task_lib.Task) -> Callable[[int], Any]:
  """A step of the training of the whole network, by its number."""
  update, state = source.program(config, task, task.fast.init(jax.random.key(0)), 1000)
  batches = source.batches(task, config.search.batch_size, 0, devices.shard())
  return _stepper(update, state, batches)


def _stepper(update: runner.Mapped, state: Any, batches: Callable[[int], Any]):
  newest = [update.place(state)]

  def step(number: int) -> None:
    newest[0], metrics = update(newest[0], batches(number))
    jax.block_until_ready(metrics)

  return step


def _times(step: Callable[[int], Any], steps: int) -> list[float]:
  """Milliseconds of every step after the first ones."""
  seen = []
  for number in range(WARMUP + steps):
    start = time.perf_counter()
    step(number)
    seen.append(1e3 * (time.perf_counter() - start))
  return seen[WARMUP:]


def job(processes: int, own: bool, given: list[str]) -> dict[str, list[float]]:
  """Starts the processes, each on a core of its own or on any; what the first has measured."""
  cores = sorted(os.sched_getaffinity(0))
  started = []
  for index, env in enumerate(environments(processes)):
    mine = {cores[index % len(cores)]} if own else set(cores)
    started.append(
      subprocess.Popen(
        [sys.executable, '-m', 'benchmarks.scaling', '--work', *given],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda mine=mine: os.sched_setaffinity(0, mine),
      )
    )
  said = [process.communicate(timeout=900)[0] for process in started]
  if any(process.returncode for process in started):
    raise RuntimeError(f'a process has failed; the first has said: {said[0][-2000:]}')
  return json.loads(said[0].splitlines()[-1])


def main() -> None:
  """Prints the table, writes the JSON."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--processes', type=int, nargs='+', default=[1, 2])
  parser.add_argument('--networks', type=int, default=2, help='of a search, a process (2)')
  parser.add_argument('--batch', type=int, default=64, help='of the source network (64)')
  parser.add_argument('--steps', type=int, default=40, help='timed steps a round (40)')
  parser.add_argument('--repeats', type=int, default=3, help='rounds (3)')
  parser.add_argument('--work', action='store_true', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.work:
    work(args.networks, args.batch, args.steps)
    return
  given = [f'--{name}={getattr(args, name)}' for name in ('networks', 'batch', 'steps')]
  seen: dict[tuple[str, str, int], list[float]] = {}
  for _, cores, processes in itertools.product(range(args.repeats), CORES, args.processes):
    for name, times in job(processes, cores == 'own', given).items():
      seen.setdefault((name, cores, processes), []).append(float(np.median(times)))
  rows = []
  for (name, cores, processes), times in sorted(seen.items()):
    alone = np.array(seen[name, cores, args.processes[0]])
    row = {
      'job': name,
      'cores': cores,
      'processes': processes,
      'ms a step': float(np.median(times)),
    }
    row |= {'efficiency': float(np.median(alone / np.array(times)))}
    rows.append({**row, 'of rounds': ' '.join(f'{t:.3g}' for t in times)})
  print(timing.table(rows))
  facts = {name: getattr(args, name) for name in ('networks', 'batch', 'steps', 'repeats')}
  print(timing.save('scaling', rows, **facts))


if __name__ == '__main__':
  main()
