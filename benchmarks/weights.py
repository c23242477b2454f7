"""First weights: drawing a thousand networks, peak memory, growth with the size of zoo and network.

  python -m benchmarks.weights [--tables drawing memory zoo networks]

* 'drawing': 1,000 networks of 1,685 weights, from images to weights, by the generator of
  configs/generate.py. Target: at most 2 CPU-seconds.
* 'memory': peak of a process that does one stage at that size, MiB.
* 'zoo': zoos of 500 to 4,000 networks; seconds are CPU-seconds.
* 'networks': perceptrons of about 10,000, 100,000 and 1,000,000 weights on 28x28 images; seconds
  are CPU-seconds. Autoencoder and generator read weights whole ('slots') or in tokens; slots are
  those of the configuration where training them fits into memory, and narrower ones where not.
  'peak MiB' is that of a process that does one update of the autoencoder.

Weights of generators are random, since no time depends on them. Networks a minute beside PyTorch
are in `benchmarks.zoo`. Cost: about 10 minutes, and half an hour for 'networks'.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from benchmarks import timing, weights_parts

DRAWN, TARGET = 1000, 2.0  # networks, CPU-seconds
#: (method, moves, weight of the guidance or None); the first is the configuration's.
DRAWS = (
  ('dpm_solver', 10, 2.0),
  ('dpm_solver', 10, None),
  ('dpm_solver', 20, 2.0),
  ('dpm_solver', 5, 2.0),
  ('dpm_solver', 3, 2.0),
  ('ddim', 10, 2.0),
)
ZOOS = (500, 1000, 2000, 4000)
#: {name of the size: (hidden widths of the network, networks in the zoo)}
SIZES = {'10k': ((13,), 64), '100k': ((128,), 64), '1M': ((784, 480), 16)}
#: {(size, how weights are read): (width of the autoencoder, weights a token)}
CODERS = {
  ('10k', 'slots'): (192, 0),
  ('10k', 'tokens'): (128, 1024),
  ('100k', 'slots'): (192, 0),
  ('100k', 'tokens'): (128, 2048),
  ('1M', 'slots'): (32, 0),
  ('1M', 'tokens'): (128, 4096),
}
Row = dict[str, Any]


def drawing(repeats: int) -> list[Row]:
  """A row a setting of the sampler."""
  found = weights_parts.pilot(500)
  calls = {str(d): weights_parts.drawer(found, DRAWN, *d) for d in DRAWS}
  times = timing.interleaved(calls, repeats, warmup=1)
  return [
    {
      'method': d[0],
      'steps': d[1],
      'guidance': 'none' if d[2] is None else d[2],
      'seconds': times[str(d)].median / 1e3,
      'CPU seconds': times[str(d)].cpu / 1e3,
    }
    for d in DRAWS
  ]


def memory(_: int) -> list[Row]:
  """A row a stage, each in a process of its own."""
  return [{'stage': stage, 'MiB': _peak(stage)} for stage in weights_parts.STAGES]


def _peak(stage: str) -> float:
  """MiB that a process of its own holds at most."""
  command = [sys.executable, '-m', 'benchmarks.weights', f'--stage={stage}']
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def zoo(repeats: int) -> list[Row]:
  """A row a size of the zoo."""
  rows = []
  for count in ZOOS:
    found = weights_parts.pilot(count)
    calls = {
      f'zoo ({weights_parts.STEPS} steps)': weights_parts.zoo_trainer,
      'codec fit': weights_parts.codec_fit,
      'coder step': weights_parts.coder_step,
      'generator step': weights_parts.generator_step,
      'nearest, 100 tasks': functools.partial(weights_parts.nearest, count=100),
      'best of the zoo, 1 task': weights_parts.best_of_zoo,
    }
    rows.append({'networks': count, **_seconds(found, calls, repeats)})
    rows[-1]['MB of weights'] = found.vectors.nbytes / 1e6
    print(timing.table(rows[-1:]), flush=True)
  return rows


def networks(repeats: int) -> list[Row]:
  """Two rows a size of the network, one for each way to read its weights."""
  rows: list[Row] = []
  for size, path in CODERS:
    found = _large(size, path)
    calls: dict[str, Callable[[weights_parts.Setting], Callable[[], Any]]] = {
      'coder step': weights_parts.coder_step,
      'generator step': weights_parts.generator_step,
      'a draw': lambda s: weights_parts.drawer(s, 20, *DRAWS[0]),
    }
    if path == 'slots':  # the same for both
      calls |= {'a network': weights_parts.zoo_trainer, 'codec fit': weights_parts.codec_fit}
    seen = _seconds(found, calls, repeats)
    seen['a draw'] /= 20
    if 'a network' in seen:
      seen['a network'] *= 500 / weights_parts.STEPS / len(found.vectors)
    width, chunk = CODERS[size, path]
    row = {'size': size, 'weights': found.task.flat.size, 'read as': path, 'width': width}
    row |= {'chunk': chunk or '', 'coder parameters': weights_parts.coder_parameters(found)}
    rows.append(row | seen | {'peak MiB': _peak(f'{size}/{path}')})
    print(timing.table(rows[-1:]), flush=True)
  return rows


def _large(size: str, path: str) -> weights_parts.Setting:
  return weights_parts.large(*SIZES[size], path, *CODERS[size, path])


def _seconds(
  setting: weights_parts.Setting,
  makers: dict[str, Callable[[weights_parts.Setting], Callable[[], Any]]],
  repeats: int,
) -> dict[str, float]:
  """Median CPU-seconds of every call; made one after the other, since they take much memory."""
  found = {}
  for name, make in makers.items():
    found[name] = timing.interleaved({name: make(setting)}, repeats, warmup=1)[name].cpu / 1e3
  return found


TABLES: dict[str, Callable[[int], list[Row]]] = {
  'drawing': drawing,
  'memory': memory,
  'zoo': zoo,
  'networks': networks,
}


def run(tables: Sequence[str], repeats: int) -> None:
  """Prints the tables and writes them."""
  rows: list[Row] = []
  for name in tables:
    found = TABLES[name](repeats)
    print(f'{name}\n{timing.table(found)}', flush=True)
    if name == 'drawing':
      print(f'{found[0]["CPU seconds"]:.2f} CPU-seconds as configured, target at most {TARGET}')
    rows += [{'table': name, **row} for row in found]
  file = '_'.join(['weights', *(tables if len(tables) < len(TABLES) else ())])
  print(timing.save(file, rows, target=TARGET, repeats=repeats))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--repeats', type=int, default=5, help='timed rounds (5)')
  parser.add_argument('--tables', nargs='+', default=list(TABLES), choices=list(TABLES))
  parser.add_argument('--stage', help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.stage is None:
    run(args.tables, args.repeats)
    return
  if '/' in args.stage:
    jax.block_until_ready(weights_parts.coder_step(_large(*args.stage.split('/')))())
  else:
    weights_parts.stage(args.stage)
  print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


if __name__ == '__main__':
  main()
