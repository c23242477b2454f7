"""How long a checkpoint keeps the training loop waiting.

  python -m benchmarks.checkpoint

Saves a state of 50 MB (and a small one) several times: `blocked` is the time until `save` returns
and the next step may begin, `committed` the time until the checkpoint is on disk, `restored` the
time to read it back, checksums included. `waiting` is a loop that has to wait for the commit, as it
had to if nothing ran in the background. Writes `benchmarks/results/checkpoint.json`. Cost: a
minute.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from dapt_jax.training import checkpoint

LEAVES = 50


def make_state(megabytes: float) -> list[jax.Array]:
  """`LEAVES` arrays f32[n] of random numbers, which do not compress."""
  size = int(megabytes * 1e6 / 4 / LEAVES)
  return list(jax.random.normal(jax.random.key(0), (LEAVES, size), jnp.float32))


def measure(state: Any, repeats: int, *, background: bool) -> dict[str, float]:
  """Milliseconds of a save and a restore: medians, and the longest time that a save blocked."""
  rounds: list[dict[str, float]] = []
  with (
    tempfile.TemporaryDirectory() as directory,
    contextlib.closing(checkpoint.Checkpoints(pathlib.Path(directory), keep=2)) as store,
  ):
    for step in range(1, repeats + 2):
      watch = timing.Stopwatch()
      store.save(step, state)
      if not background:
        store.wait()
      watch.lap('blocked')
      store.wait()
      watch.lap('committed')
      watch.laps['committed'] += watch.laps['blocked']
      rounds.append(watch.laps)
    watch = timing.Stopwatch()
    store.restore(state)
    watch.lap('restored')
  rounds = rounds[1:]  # the first one makes threads and buffers
  out = {name: float(np.median([laps[name] for laps in rounds])) for name in rounds[0]}
  return {**out, 'longest': max(laps['blocked'] for laps in rounds), **watch.laps}


def main() -> None:
  """Prints the table and writes the JSON."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--megabytes', type=float, nargs='*', default=[1.0, 50.0])
  parser.add_argument('--repeats', type=int, default=10)
  options = parser.parse_args()
  rows = []
  for megabytes in options.megabytes:
    state = make_state(megabytes)
    for name, background in (('waiting', False), ('background', True)):
      times = measure(state, options.repeats, background=background)
      rows.append({'MB': megabytes, 'save': name} | {f'{n} ms': t for n, t in times.items()})
  print(timing.table(rows))
  print(timing.save('checkpoint', rows, repeats=options.repeats))


if __name__ == '__main__':
  main()
