"""How long a step waits for its data: in memory and from disk, with and without prefetch.

  python -m benchmarks.input

The search of `configs/demo.py` (its network, its batches of 14x14 pictures out of 4,000), from
memory and from PNGs in array_record files; and a ConvNet that is small for its pictures, 8 of
224x224x3 a step, from PNGs. Every step is awaited, so all the time a batch takes shows: 'waited' is
the share of the time in which the loop waits for a batch. 'constant' is a step on one batch that
lies on the devices. Target: at most 5% with prefetch for the demo. On CPU decoding takes
its time from the same cores as the step: 'ms' and 'cpu ms' show that, 'waited' does not.
Cost: 3 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from sklearn import datasets

from benchmarks import timing, training_step
from configs import demo
from dapt_jax import data
from dapt_jax.models import model as models
from dapt_jax.training import prefetch, runner
from experiments import gate_search
from experiments import task as task_lib

TARGET = 0.05
DEPTHS = (0, 2)
BIG, BIG_BATCH, BIG_COUNT = 224, 8, 256

Batches = Callable[[int], Any]


@dataclasses.dataclass
class Case:
  """A compiled step and where its batches may come from.

  Attributes:
    update: the step.
    state: its newest state, placed.
    sources: `batches(i)` by name.
  """

  update: runner.Mapped
  state: Any
  sources: dict[str, Batches]

  def run(self, batches: Batches, steps: int) -> tuple[float, float]:
    """Does awaited steps; returns the milliseconds of a step, on the clock and of CPU time."""
    start, cpu = time.perf_counter(), time.process_time()
    for step in range(steps):
      self.state, metrics = self.update(self.state, batches(step))
      jax.block_until_ready(metrics)
    spent = time.perf_counter() - start, time.process_time() - cpu
    return 1e3 * spent[0] / steps, 1e3 * spent[1] / steps

  def fed(self, name: str, depth: int, steps: int) -> tuple[float, float, float]:
    """What `run` returns, and the share that was waited for batches; the first are left out."""
    put = self.update.put_batch
    with prefetch.prefetch(self.sources[name], depth, put=put) as batches:
      self.run(batches, 2)
      before = batches.waited
      ms, cpu = self.run(lambda step: batches(step + 2), steps)
      return ms, cpu, 1e3 * (batches.waited - before) / (ms * steps)


def png_records(root: str, name: str, pictures: np.ndarray, labels: Sequence[int]) -> None:
  """Writes pictures u8[n, h, w, c] as PNGs into array_record files that `data.load` finds."""

  def examples(self: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, (picture, label) in enumerate(zip(pictures, labels)):
      png = io.BytesIO()
      Image.fromarray(picture.squeeze()).save(png, 'png')
      png.seek(0)
      yield i, {'image': png, 'label': int(label)}

  def info(self: Any) -> tfds.core.DatasetInfo:
    features = {
      'image': tfds.features.Image(shape=pictures.shape[1:]),
      'label': tfds.features.ClassLabel(num_classes=int(max(labels)) + 1),
    }
    features = tfds.features.FeaturesDict(features)
    return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=tuple(features))

  members = {
    'VERSION': tfds.core.Version('1.0.0'),
    '_info': info,
    '_split_generators': lambda self, manager: {'train': self._generate_examples()},
    '_generate_examples': examples,
  }
  made = type(name, (tfds.core.GeneratorBasedBuilder,), members)
  made(data_dir=root, file_format='array_record').download_and_prepare()


def demo_case(root: str) -> Case:
  """The search of the demo."""
  config = demo.get_config('search')
  size = config.data.image_size
  task = task_lib.load(config)
  whole = data.load(config.data.source, source=config.data.origin)
  png_records(root, 'DemoPng', np.rint(255 * whole.images).astype(np.uint8), whole.labels)
  disk = data.load('demo_png', 'all', data_dir=root, image_size=size, in_memory=False)
  sources = {
    'memory': gate_search.batches(task, config.search, seed=0),
    'PNG': gate_search.batches(dataclasses.replace(task, source=disk), config.search, seed=0),
  }
  budget = config.search.budgets[0]
  searcher, update = gate_search.make_program(config, task, '', budget, 'learned')
  return Case(update, update.place(searcher.init(jax.random.key(0))), sources)


def big_case(root: str) -> Case:
  """A plain training step on pieces of photographs."""
  rng = np.random.default_rng(0)
  photos = datasets.load_sample_images().images
  corners = rng.integers(0, np.array(photos[0].shape[:2]) - BIG, (BIG_COUNT, 2))
  pieces = [photos[i % 2][y : y + BIG, x : x + BIG] for i, (y, x) in enumerate(corners)]
  png_records(root, 'BigPng', np.stack(pieces), np.arange(BIG_COUNT) % 10)
  disk = data.load('big_png', 'all', data_dir=root, in_memory=False)
  network: dict[str, Any] = {'input_shape': (BIG, BIG, 3), 'stages': training_step.STAGES}
  model = models.create('convnet', num_classes=10, **network)
  variables = jax.jit(model.init)(jax.random.key(0))
  params = variables['params']
  state = (params, jax.tree.map(jnp.zeros_like, params), variables['batch_stats'])

  def step(state: Any, batch: Any, axis_name: str | None = None) -> Any:
    state, loss = training_step.update(model, state, batch['image'], batch['label'])
    return state, {'loss': loss}

  update = runner.make_update(step, kind='jit')
  return Case(update, update.place(state), {'PNG': data.make_batcher(disk, BIG_BATCH, seed=0)})


def measure(label: str, case: Case, steps: int, repeats: int) -> list[dict[str, Any]]:
  """Rows of a case; all its variants take turns."""
  fixed = case.update.put_batch(next(iter(case.sources.values()))(0))
  case.run(lambda _: fixed, 3)  # compiles
  variants = [(name, depth) for name in case.sources for depth in DEPTHS]
  seen: dict[tuple[str, int], list[tuple[float, float, float]]] = {v: [] for v in variants}
  constant = []
  for _ in range(repeats):
    constant.append(case.run(lambda _: fixed, steps))
    for name, depth in variants:
      seen[name, depth].append(case.fed(name, depth, steps))
  rows = []
  for (name, depth), times in seen.items():
    ms, cpu, shares = zip(*times)
    low, share, high = np.percentile(shares, (25, 50, 75))
    row = {'case': label, 'source': name, 'prefetch': depth, 'ms': float(np.median(ms))}
    row |= {'cpu ms': float(np.median(cpu)), 'waited': float(share)}
    rows.append({**row, 'quartiles': f'{low:.3f} .. {high:.3f}'})
  ms, cpu = (float(m) for m in np.median(constant, axis=0))
  return [{'case': label, 'source': 'constant', 'ms': ms, 'cpu ms': cpu}, *rows]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--steps', type=int, default=20, help='timed steps a round (20)')
  parser.add_argument('--repeats', type=int, default=9, help='rounds (9)')
  cores = os.cpu_count() or 1
  parser.add_argument('--devices', type=int, default=cores, help='host devices (one per core)')
  args = parser.parse_args()
  runner.host_devices(args.devices)
  tfds.disable_progress_bar()
  rows: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as root:
    for label, make in (('demo search', demo_case), ('224x224x3', big_case)):
      folder = str(pathlib.Path(root) / label)
      rows += measure(label, make(folder), args.steps, args.repeats)
      print(timing.table([row for row in rows if row['case'] == label]), flush=True)
  ahead = [row['waited'] for row in rows if row['case'] == 'demo search' and row.get('prefetch')]
  print(f'demo with prefetch: waited {max(ahead):.1%} at most, target {TARGET:.0%}')
  facts = {'target': TARGET, 'steps': args.steps, 'repeats': args.repeats, 'devices': args.devices}
  print(timing.save('input', rows, **facts))


if __name__ == '__main__':
  main()
