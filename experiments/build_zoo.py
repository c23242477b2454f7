"""Trains a zoo: thousands of small networks, each on a task of its own.

  python -m experiments.build_zoo --config=configs/generate.py --workdir=runs/generate

Writes WORKDIR/zoo: `zoo.json` and shards of weights with a record a network. Stopped, the same
command goes on at the first shard that is missing.
"""

from __future__ import annotations

import time
import zlib
from typing import Any

import numpy as np
import tqdm

from dapt_jax.training import hosts
from dapt_jax.weights import zoo
from experiments import flags, generation, zoo_modes, zoo_task


def run(config: Any, task: zoo_task.ZooTask, workdir: str) -> zoo.Zoo:
  """Builds what is missing of the zoo, and reads it, its networks in one order (`zoo.align`)."""
  plan = zoo_task.plan(config)
  shards = -(-plan.size // plan.shard)
  with tqdm.tqdm(total=shards, desc='zoo', unit='shard', disable=not hosts.is_first()) as bar:

    def report(done: int, _: int, accuracy: float) -> None:
      bar.update(done - bar.n)
      bar.set_postfix_str(f'accuracy {accuracy:.3f}')

    found = zoo.build(
      zoo_task.zoo_path(workdir),
      task.model,
      task.bank,
      plan,
      zoo_task.recipe(config),
      narrower=task.widths.models[1:],
      head=zoo_task.head(config, task),
      on_shard=report,
    )
    bar.update(shards - bar.n)
  return zoo_modes.aligned(config, task, found)


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Builds the zoo and says what it is."""
  if overwrite:
    raise ValueError(
      '--overwrite is not for a zoo, which took long to train: remove its directory by hand'
    )
  start = time.process_time()
  task = zoo_task.load(config)
  hosts.agree({'images': zlib.crc32(np.asarray(task.bank.images).tobytes())}, 'data')
  found = run(config, task, workdir)
  low = sorted(found.accuracy.tolist())[len(found.accuracy) // 20]
  print(
    f'{len(found.tasks)} networks of {task.flat.size} weights in {zoo_task.zoo_path(workdir)}: '
    f'mean accuracy {found.accuracy.mean():.3f}, of the worst twentieth at most {low:.3f}; '
    f'{time.process_time() - start:.0f} CPU-seconds'
  )


if __name__ == '__main__':
  flags.run(main, generation, several=True)
