"""Networks a minute: training a zoo, against PyTorch on the same cores.

  pip install -e '.[bench]' && python -m benchmarks.zoo

Ours is `members.train`, split over one host device per core. PyTorch trains one network after the
other with Adam (all cores, and one thread, which suits tiny networks better), and all side by side
with `torch.func.vmap` over stacked networks (one Adam for the stack). Equal architectures, images,
batch sizes and steps; how many networks at once is what suits each. All take turns in one process.
Rates are for networks of 500 steps of 32 images; 'ratio' is our networks a minute over theirs, 'CPU
ratio' the same per CPU-second: a process per core would give the loop that rate at best. 'accuracy'
on the training images shows that all do the same work; where fewer steps are timed, it is low.
Cost: about 3 minutes.
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


class Case(NamedTuple):
  """A network and how it is timed.

  Attributes:
    name: of the model, as `models.create` has it.
    options: its fields.
    size: edge length of the images.
    source: data set.
    steps: of training that are timed; rates are given for `WHOLE` of them.
    counts: networks at once: ours, of the loop, of the stack.
    group: of ours, networks side by side.
  """

  name: str
  options: dict[str, Any]
  size: int
  source: str
  steps: int
  counts: tuple[int, int, int]
  group: int


CASES = {
  'mlp': Case('mlp', {'widths': (24,)}, 8, 'digits', 500, (256, 4, 128), 32),
  'convnet': Case('convnet', {'stages': ((8,), (16,))}, 28, 'mnist', 50, (16, 4, 16), 1),
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


def our_training(case: Case) -> tuple[Callable[[], Any], Callable[[], float], int]:
  """(trains, accuracy after that, weights of a network); split over the local devices."""
  model = models.create(
    case.name, input_shape=(case.size, case.size, 1), num_classes=CLASSES, in_loop=True,
    **case.options,
  )  # fmt: skip
  flat = members.flatten(model)
  recipe = members.Recipe(case.steps, BATCH, RATE, group=case.group)
  images, rows = tasks(case, case.counts[0])
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


def torch_training(case: Case, threads: int) -> dict[str, tuple[Any, Any, int, int]]:
  """{variant: (trains, accuracy after that, networks, threads)}; empty without PyTorch."""
  try:
    import torch

    from benchmarks import torch_zoo
  except ModuleNotFoundError:
    return {}
  image = (case.size, case.size, 1)
  widths = case.options.get('widths') or [w for (w,) in case.options['stages']]
  kind = torch_zoo.perceptron if case.name == 'mlp' else torch_zoo.conv_net
  make = lambda: kind(image, widths, CLASSES)
  arguments = (case.steps, BATCH, RATE)
  loop, stack = (torch_zoo.Tasks(*tasks(case, n)) for n in case.counts[1:])

  def limited(count: int, function: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
      torch.set_num_threads(count)
      return function()

    return call

  run_loop = lambda: torch_zoo.train_loop(make, loop, *arguments)
  run_stack = lambda: torch_zoo.train_stacked(make, stack, *arguments)
  of_loop = lambda: torch_zoo.accuracy_of_loop(run_loop(), loop)
  of_stack = lambda: torch_zoo.accuracy_of_stack(make, run_stack(), stack)
  found = {}
  for count in sorted({1, threads}):
    found[f'PyTorch loop, {count} thread(s)'] = (run_loop, of_loop, case.counts[1], count)
  found['torch.func.vmap'] = (run_stack, of_stack, case.counts[2], threads)
  return {
    name: (limited(count, run), judge, networks, count)
    for name, (run, judge, networks, count) in found.items()
  }


def training(name: str, threads: int, repeats: int) -> list[dict[str, Any]]:
  """Rows of one network: ours first."""
  case = CASES[name]
  train, accuracy, size = our_training(case)
  runs: dict[str, tuple[Any, Any, int, int]] = {
    'dapt_jax': (train, accuracy, case.counts[0], threads)
  }
  runs |= torch_training(case, threads)
  times = timing.interleaved({n: r[0] for n, r in runs.items()}, repeats, warmup=1)
  rows = []
  for variant, (_, judge, networks, count) in runs.items():
    seen, scale = times[variant], WHOLE / case.steps / networks / 1e3
    rows.append(
      {
        'network': f'{name}, {size:,} weights',
        'variant': variant,
        'threads': count,
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
  parser.add_argument('--repeats', type=int, default=7, help='timed rounds (7)')
  parser.add_argument('--networks', nargs='+', default=list(CASES), choices=list(CASES))
  cores = len(os.sched_getaffinity(0))
  parser.add_argument('--threads', type=int, default=cores, help='cores to use (all)')
  args = parser.parse_args()
  jax.config.update('jax_num_cpu_devices', args.threads)
  rows: list[dict[str, Any]] = []
  for name in args.networks:
    rows += training(name, args.threads, args.repeats)
    print(timing.table([r for r in rows if r['network'].startswith(name)]), flush=True)
  packages = ('jax', 'jaxlib', 'numpy', *(('torch',) if 'ratio' in rows[-1] else ()))
  facts = {'repeats': args.repeats, 'threads': args.threads, 'steps': WHOLE, 'batch': BATCH}
  print(timing.save('zoo', rows, machine=timing.machine(packages), **facts))


if __name__ == '__main__':
  main()
