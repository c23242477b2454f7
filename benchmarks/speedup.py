"""How much faster the cut network really is, against its share of the MACs.

  python -m benchmarks.speedup

Inference at batch 64 of the whole network and of uniform architectures at 50, 25 and 10% of its
MACs, with any widths and with multiples of 8, which suit the processor's vectors. Convolutions are
lowered as `models.overrides.replay(in_loop=False)` decides. Cost: about two minutes.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import dapt_jax as dapt
from benchmarks import timing
from dapt_jax.models import model as model_lib
from dapt_jax.models import overrides
from dapt_jax.pruning import baselines

BUDGETS = (0.5, 0.25, 0.1)
NETWORKS: dict[str, dict[str, Any]] = {
  'resnet20': {'input_shape': (32, 32, 3)},
  'convnet': {'input_shape': (32, 32, 3), 'stages': ((32, 32), (64, 64), (128, 128))},
  'multibranch': {'input_shape': (28, 28, 1)},
}


def measure(name: str, batch: int, repeats: int, rounding: Sequence[int]) -> list[dict[str, Any]]:
  """Rows of one network: the whole of it first, then every rounding of widths and budget."""
  model = model_lib.create(name, num_classes=10, lowering='lax', **NETWORKS[name])
  params = model.init(jax.random.key(0))
  image = jax.ShapeDtypeStruct((1, *model.input_shape), np.float32)
  graph = dapt.trace(model.apply, params, image)
  found = {'whole': baselines.make('dense', graph, budget=1.0)}
  for round_to in rounding:
    for budget in BUDGETS:
      arch = baselines.make('uniform', graph, budget=budget, round_to=round_to)
      found[f'{budget:.0%}, multiples of {round_to}'] = arch
  images = np.random.default_rng(0).standard_normal((batch, *model.input_shape), np.float32)
  runs = {}
  for label, arch in found.items():
    small, kept = graph.shrink(arch, params, overrides=overrides.replay(in_loop=False))
    runs[label] = functools.partial(jax.jit(small), kept, images)
  times = timing.interleaved(runs, repeats=repeats)
  whole = times['whole']
  rows = []
  for label, arch in found.items():
    share, seen = arch.costs['macs']['share'], times[label]
    rows.append(
      {
        'network': name,
        'budget, widths': label,
        'MACs share': share,
        'ms': seen.median,
        'quartiles': f'{seen.low:.3g} .. {seen.high:.3g}',
        'time share': seen.median / whole.median,
        'speed-up': whole.median / seen.median,
        'of ideal': whole.median / seen.median * share,
        'CPU time share': seen.cpu / whole.cpu,
      }
    )
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--batch', type=int, default=64, help='images at a time (64)')
  parser.add_argument('--repeats', type=int, default=21, help='timed rounds (21)')
  parser.add_argument('--round_to', type=int, nargs='+', default=[1, 8], help='of widths (1 8)')
  parser.add_argument('--networks', nargs='+', choices=list(NETWORKS), default=list(NETWORKS))
  args = parser.parse_args()
  rows = []
  for name in args.networks:
    rows += measure(name, args.batch, args.repeats, args.round_to)
  print(timing.table(rows))
  print('of ideal: speed-up over 1 / MACs share; 1 means that time falls as the MACs do')
  settings = {'batch': args.batch, 'repeats': args.repeats, 'round_to': args.round_to}
  print(timing.save('speedup', rows, settings=settings))


if __name__ == '__main__':
  main()
