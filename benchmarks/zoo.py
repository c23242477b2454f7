"""Networks a minute: training a zoo, against PyTorch on the same cores.

  pip install -e '.[bench]' && python -m benchmarks.zoo

Ours is `members.train`, split over one host device per core. PyTorch trains one network after the
other with Adam (all cores, and one thread, which suits tiny networks better), and all side by side
with `torch.func.vmap` over stacked networks (one Adam for the stack). Equal architectures, images,
batch sizes and steps; as many networks at once as the row says. All take turns in one process.
Rates are for networks of 500 steps of 32 images; 'ratio' is our networks a minute over theirs, 'CPU
ratio' the same per CPU-second: a process per core would give the loop that rate at best. 'accuracy'
on the training images shows that all do the same work; where fewer steps are timed, it is low.
Target: five times the loop's networks a minute. What is done is written after every table, to
`benchmarks/results/zoo.json`, or `zoo_1_core.json` with --threads=1, which is best pinned to a core
(`taskset -c 1`). Cost: about an hour, most of it `convnet`; the rest 15 minutes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from dapt_jax import data
from dapt_jax.models import model as models
from dapt_jax.weights import members

CLASSES, PER_CLASS, BATCH, RATE, WHOLE = 5, 40, 32, 3e-3, 500
LOOPED, TARGET = 4, 5.0  # networks of the loop that are timed; networks a minute over theirs


class Case(NamedTuple):
  """A network and how it is timed.

  Attributes:
    name: of the model, as `models.create` has it.
    options: its fields.
    size: edge length of the images.
    source: data set.
    steps: of training that are timed; rates are given for `WHOLE` of them.
    counts: networks at once, ours and of the stack.
    group: of ours, networks side by side.
  """

  name: str
  options: dict[str, Any]
  size: int
  source: str
  steps: int
  counts: tuple[int, ...]
  group: int


CASES = {
  'mlp': Case('mlp', {'widths': (24,)}, 8, 'digits', 500, (32, 128, 256), 32),
  'strided': Case(
    'strided', {'stages': ((12, 4, 4), (16, 3, 2))}, 28, 'mnist', 200, (8, 32, 128), 1
  ),
  'small convnet': Case('convnet', {'stages': ((8,), (16,))}, 14, 'mnist', 50, (8, 32, 128), 1),
  'convnet': Case('convnet', {'stages': ((8,), (16,))}, 28, 'mnist', 50, (8, 32, 128), 1),
}


def tasks(case: Case, count: int) -> tuple[np.ndarray, np.ndarray]:
  """(images f32[n, H, W, 1] in [-1, 1], rows i32[count, classes, k]) of random classes."""
  found = data.load(case.source, 'all', image_size=case.size, source='embedded')
  rng = np.random.default_rng(0)
  rows = [
    [
      rng.choice(np.flatnonzero(found.labels == c), PER_CLASS, replace=False)
      for c in rng.permutation(found.num_classes)[:CLASSES]
    ]
    for _ in range(count)
  ]
  return 2 * found.images - 1, np.asarray(rows, np.int32)


def our_training(case: Case, count: int) -> tuple[Callable[[], Any], Callable[[], float], int]:
  """(trains, accuracy after that, weights of a network); split over the local devices."""
  model = models.create(
    case.name, input_shape=(case.size, case.size, 1), num_classes=CLASSES, in_loop=True,
    **case.options,
  )  # fmt: skip
  flat = members.flatten(model)
  recipe = members.Recipe(case.steps, BATCH, RATE, group=case.group)
  images, rows = tasks(case, count)
  first = flat.ravel(model.init(jax.random.key(0)))
  places = []
  for device, own in zip(jax.local_devices(), np.array_split(rows, jax.local_device_count())):
    start = jnp.broadcast_to(first, (len(own), flat.size))
    keys = jax.random.split(jax.random.key(1), len(own))
    places.append(jax.device_put((start, images, own, keys), device))
  train = lambda: [members.train(flat, recipe, *p).vector for p in places]
  judge = lambda vector, place: members.accuracy(flat, vector, place[1], place[2]).mean()
  accuracy = lambda: float(np.mean([judge(v, p) for v, p in zip(train(), places)]))
  return train, accuracy, int(flat.trained.sum())


def torch_training(case: Case, count: int, threads: int) -> dict[str, tuple[Any, Any, int, int]]:
  """{variant: (trains, accuracy after that, networks, threads)}; empty without PyTorch."""
  try:
    import torch

    from benchmarks import torch_zoo
  except ModuleNotFoundError:
    return {}
  image = (case.size, case.size, 1)
  kind = torch_zoo.KINDS[case.name]
  make = lambda: kind(image, *case.options.values(), CLASSES)
  arguments = (case.steps, BATCH, RATE)
  loop, stack = (torch_zoo.Tasks(*tasks(case, n)) for n in (LOOPED, count))

  def limited(used: int, function: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
      torch.set_num_threads(used)
      return function()

    return call

  run_loop = lambda: torch_zoo.train_loop(make, loop, *arguments)
  run_stack = lambda: torch_zoo.train_stacked(make, stack, *arguments)
  of_loop = lambda: torch_zoo.accuracy_of_loop(run_loop(), loop)
  of_stack = lambda: torch_zoo.accuracy_of_stack(make, run_stack(), stack)
  found = {}
  for used in sorted({1, threads}):
    found[f'PyTorch loop, {used} thread(s)'] = (run_loop, of_loop, LOOPED, used)
  found['torch.func.vmap'] = (run_stack, of_stack, count, threads)
  return {
    name: (limited(used, run), judge, networks, used)
    for name, (run, judge, networks, used) in found.items()
  }


def training(name: str, count: int, threads: int, repeats: int) -> list[dict[str, Any]]:
  """Rows of so many of one network: ours first."""
  case = CASES[name]
  train, accuracy, size = our_training(case, count)
  runs: dict[str, tuple[Any, Any, int, int]] = {'dapt_jax': (train, accuracy, count, threads)}
  runs |= torch_training(case, count, threads)
  times = timing.interleaved({n: r[0] for n, r in runs.items()}, repeats, warmup=1)
  rows = []
  for variant, (_, judge, networks, used) in runs.items():
    seen, scale = times[variant], WHOLE / case.steps / networks / 1e3
    rows.append(
      {
        'network': f'{name}, {size:,} weights',
        'variant': variant,
        'threads': used,
        'networks': networks,
        'a minute': 60 / (seen.median * scale),
        'quartiles': f'{60 / (seen.high * scale):.3g} .. {60 / (seen.low * scale):.3g}',
        'CPU s each': seen.cpu * scale,
        'accuracy': judge(),
      }
    )
  for row in rows[1:]:
    row['ratio'] = rows[0]['a minute'] / row['a minute']
    row['CPU ratio'] = row['CPU s each'] / rows[0]['CPU s each']
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--repeats', type=int, default=5, help='timed rounds (5)')
  parser.add_argument('--networks', nargs='+', default=list(CASES), choices=list(CASES))
  cores = len(os.sched_getaffinity(0))
  parser.add_argument('--threads', type=int, default=cores, help='cores to use (all)')
  args = parser.parse_args()
  jax.config.update('jax_num_cpu_devices', args.threads)
  rows: list[dict[str, Any]] = []
  facts = {'repeats': args.repeats, 'threads': args.threads, 'steps': WHOLE, 'batch': BATCH}
  facts |= {'target': TARGET}
  file = 'zoo_1_core' if args.threads == 1 else 'zoo'
  for name in args.networks:
    for count in CASES[name].counts:
      found = training(name, count, args.threads, args.repeats)
      print(timing.table(found), flush=True)
      rows += found
      packages = ('jax', 'jaxlib', 'numpy', *(('torch',) if 'ratio' in rows[-1] else ()))
      path = timing.save(file, rows, machine=timing.machine(packages), **facts)
  print(path)


if __name__ == '__main__':
  main()
