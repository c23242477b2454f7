"""How well the unit 'latency' predicts the measured time of cut networks.

  python -m benchmarks.latency

Random architectures of 12 to 90% of the MACs, every other one with multiples of 8, are cut,
compiled and timed in turn, before the network is calibrated and again after it. Given are the rank
correlation (Spearman) of predicted and measured time and the median relative error; beside them the
rank correlation of MACs and of bytes, and that of the two measurements, which shows what the
machine's noise allows. Cost: about ten minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from scipy import stats

import dapt_jax as dapt
from benchmarks import speedup, timing
from dapt_jax.models import model as model_lib
from dapt_jax.models import overrides
from dapt_jax.pruning import baselines


def random_architectures(graph: dapt.ChannelGraph, count: int) -> list[dapt.Architecture]:
  """Architectures of random budgets, the odd ones with multiples of 8."""
  out = []
  for number in range(count):
    random = np.random.default_rng(number)
    budget = float(np.exp(random.uniform(np.log(0.12), np.log(0.9))))
    key, round_to = jax.random.key(100 + number), 8 if number % 2 else 1
    out.append(baselines.make('random', graph, budget=budget, key=key, round_to=round_to))
  return out


def measure(name: str, batch: int, count: int, repeats: int) -> dict[str, Any]:
  """The row of one network at one batch size."""
  model = model_lib.create(name, num_classes=10, lowering='lax', **speedup.NETWORKS[name])
  params = model.init(jax.random.key(0))
  lowering = overrides.replay(in_loop=False)
  image = jax.ShapeDtypeStruct((1, *model.input_shape), np.float32)
  graph = dapt.trace(model.apply, params, image)
  archs = random_architectures(graph, count)
  images = np.random.default_rng(0).standard_normal((batch, *model.input_shape), np.float32)
  runs = {}
  for number, arch in enumerate(archs):
    small, kept = graph.shrink(arch, params, overrides=lowering)
    runs[str(number)] = functools.partial(jax.jit(small), kept, images)
  before = _seconds(runs, repeats)
  wall, cpu = time.perf_counter(), time.process_time()
  timed = graph.calibrate(batch=batch, overrides=lowering, cache=False)
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  after = _seconds(runs, repeats)
  predict = lambda unit: [timed.cost_model.absolute(a.masks(), unit, np) for a in archs]
  row = {'network': name, 'batch': batch, 'networks': count}
  return {
    **row,
    **_compare(np.array(predict('latency')), (before + after) / 2),
    'MACs Spearman': _rank(predict('macs'), before + after),
    'bytes Spearman': _rank(predict('bytes'), before + after),
    'two measurements': _rank(before, after),
    'calibrate s': wall,
    'calibrate CPU s': cpu,
  }


def _seconds(runs: Mapping[str, Callable[[], Any]], repeats: int) -> np.ndarray:
  times = timing.interleaved(runs, repeats=repeats)
  return np.array([times[name].median / 1e3 for name in runs])


def _rank(values: Any, measured: Any) -> float:
  return float(stats.spearmanr(values, measured).statistic)


def _compare(predicted: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
  """Correlation and errors; seconds."""
  scaled = predicted * np.median(measured / predicted)
  return {
    'ms': f'{1e3 * measured.min():.3g} .. {1e3 * measured.max():.3g}',
    'Spearman': _rank(predicted, measured),
    'median error': float(np.median(np.abs(predicted / measured - 1))),
    'error of ratios': float(np.median(np.abs(scaled / measured - 1))),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--batches', type=int, nargs='+', default=[1, 64], help='images (1 64)')
  parser.add_argument('--count', type=int, default=24, help='cut networks (24)')
  parser.add_argument('--repeats', type=int, default=15, help='timed rounds, twice (15)')
  names = list(speedup.NETWORKS)
  parser.add_argument('--networks', nargs='+', choices=names, default=names)
  args = parser.parse_args()
  rows = [
    # Small batches are quick, and their times scatter more.
    measure(name, batch, args.count, args.repeats * (1 if batch > 8 else 5))
    for name in args.networks
    for batch in args.batches
  ]
  print(timing.table(rows))
  print('error of ratios: the median error where one factor for all networks is taken out')
  settings = {'count': args.count, 'repeats': args.repeats}
  print(timing.save('latency', rows, settings=settings))


if __name__ == '__main__':
  main()
