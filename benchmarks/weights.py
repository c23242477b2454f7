"""First weights: drawing a thousand networks, peak memory, growth with the size of zoo and network.

  python -m benchmarks.weights [--tables drawing memory zoo networks]

* 'drawing': 1,000 networks of 1,685 weights, from images to weights, by the generator of
  configs/generate.py. Target: at most 2 CPU-seconds.
* 'memory': peak of a process that does one stage at that size, MiB.
* 'zoo': zoos of 500 to 4,000 networks; seconds are CPU-seconds.
* 'networks': perceptrons of about 10,000, 100,000 and 1,000,000 weights on 28x28 images; seconds
  are CPU-seconds. The autoencoder is that of the configuration where training it fits into memory,
  and a narrower one where not; 'token step' is an update of a diffusion transformer (width 128, 4
  blocks) over layer-aware tokens of one network.

Weights of generators are random, since no time depends on them. Networks a minute beside PyTorch
are in `benchmarks.zoo`. Cost: about 10 minutes.
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
#: {name of the size: (hidden widths of the network, networks in the zoo, width of the autoencoder)}
SIZES = {
  '10k': ((13,), 64, 192),
  '100k': ((128,), 64, 192),
  '1M': ((784, 480), 16, 32),
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
  rows = []
  for stage in weights_parts.STAGES:
    command = [sys.executable, '-m', 'benchmarks.weights', f'--stage={stage}']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows.append({'stage': stage, 'MiB': json.loads(done.stdout.splitlines()[-1])})
  return rows


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
  """A row a size of the network."""
  rows = []
  for name, (widths, count, width) in SIZES.items():
    found = weights_parts.large(widths, count, width)
    size = found.task.flat.size
    calls = {
      'a network': weights_parts.zoo_trainer,
      'codec fit': weights_parts.codec_fit,
      'coder step': weights_parts.coder_step,
      'generator step': weights_parts.generator_step,
      'a draw': lambda s: weights_parts.drawer(s, 20, *DRAWS[0]),
      'token step': weights_parts.token_step,
    }
    seen = _seconds(found, calls, repeats)
    seen['a network'] *= 500 / weights_parts.STEPS / count
    seen['a draw'] /= 20
    rows.append(
      {
        'size': name,
        'weights': size,
        **seen,
        'coder width': width,
        'its parameters': weights_parts.coder_parameters(found, width),
        'MB to train one of 192': 16 * weights_parts.coder_parameters(found, 192) / 1e6,
        'tokens': 'x'.join(map(str, weights_parts.token_shape(found))),
      }
    )
    print(timing.table(rows[-1:]), flush=True)
  return rows


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
  print(timing.save('weights', rows, target=TARGET, repeats=repeats))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--repeats', type=int, default=5, help='timed rounds (5)')
  parser.add_argument('--tables', nargs='+', default=list(TABLES), choices=list(TABLES))
  parser.add_argument('--stage', choices=weights_parts.STAGES, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.stage is None:
    run(args.tables, args.repeats)
    return
  weights_parts.stage(args.stage)
  print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


if __name__ == '__main__':
  main()
