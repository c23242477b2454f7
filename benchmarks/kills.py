"""Runs that are killed at random moments, saves included, end as if they never were.

  python -m benchmarks.kills --kills=20

Real processes (`kill -9`) of a small run that begins to save every 20th step: each is killed
after a random time (every second one in the middle of a save), the next goes on, and the last is
let through. Its end state and its metrics must be those of a run that was never killed, to the bit;
the exit code is 1 if they are not. Prints where every kill fell and writes
`benchmarks/results/kills.json`. Cost: some seconds per kill, most of it the start of a process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from dapt_jax.training import disk, loop, runner, workdir

STEPS, EVERY = 1000, 20
SHAPE = (256, 512)  # with Adam 1.6 MB of state, so that a save takes some steps
OPTIMIZER = optax.adam(1e-2)


def update(
  state: Mapping[str, Any], batch: jax.Array, axis_name: str | None = None
) -> tuple[dict[str, Any], dict[str, jax.Array]]:
  """A step of a noisy regression; batch f32[8, 256]."""
  del axis_name
  key, sub = jax.random.split(state['key'])

  def loss_fn(params):
    noisy = batch + 0.1 * jax.random.normal(sub, batch.shape)
    return jnp.mean(jnp.square(jnp.tanh(noisy @ params) - batch[:, :1]))

  loss, gradient = jax.value_and_grad(loss_fn)(state['params'])
  moves, opt = OPTIMIZER.update(gradient, state['opt'], state['params'])
  return {'params': optax.apply_updates(state['params'], moves), 'opt': opt, 'key': key}, {
    'loss': loss
  }


def train(directory: str) -> None:
  """The run that is killed; says on standard output when it steps, writes and has written."""
  write = disk.Disk.write

  def told(self: disk.Disk, step: int, *rest: Any) -> None:
    _say(f'writing {step}')
    write(self, step, *rest)
    _say(f'written {step}')

  def batches(step: int) -> np.ndarray:
    _say(f'step {step}')
    time.sleep(0.01)
    return np.random.default_rng(step).normal(size=(8, SHAPE[0])).astype(np.float32)

  disk.Disk.write = told  # type: ignore[assignment,method-assign]
  params = jnp.zeros(SHAPE)
  state = {'params': params, 'opt': OPTIMIZER.init(params), 'key': jax.random.key(1)}
  with workdir.open_workdir(directory, {}, kind='kills') as opened:
    result = loop.run(
      runner.make_update(update, kind='jit'),
      state,
      batches,
      num_steps=STEPS,
      workdir=opened,
      checkpoint_every=EVERY,
      log_every=10,
      progress=False,
    )
  digest = hashlib.sha256((pathlib.Path(directory) / 'metrics.jsonl').read_bytes())
  for leaf in jax.tree.leaves({**result.state, 'key': jax.random.key_data(result.state['key'])}):
    digest.update(np.asarray(leaf).tobytes())
  _say(f'end {result.resumed_from} {digest.hexdigest()}')


def killed(directory: str, chance: random.Random, *, saving: bool) -> dict[str, Any]:
  """Starts the run, kills it at a random moment, and says where that was.

  Args:
    directory: the work directory.
    chance: draws the moment.
    saving: whether to wait for the next save that is under way by then.

  Returns:
    `{'first step', 'last step', 'saved', 'during a save', 'code'}` of this process; 'saved' is the
    last checkpoint that it had committed.
  """
  wait, delay = chance.randrange(0, 50), chance.uniform(0, 0.03)
  first = last = saved = writing = None
  with _process(directory) as process:
    for word, number in _said(process):
      first = number if first is None and word == 'step' else first
      last = number if word == 'step' else last
      writing = number if word == 'writing' else None if word == 'written' else writing
      saved = number if word == 'written' else saved
      moment = first is not None and last is not None and last >= first + wait
      if moment and (writing is not None or not saving):
        break
    time.sleep(delay)
    process.kill()
    for word, number in _said(process):  # what it did until the signal arrived
      last = number if word == 'step' else last
      writing = number if word == 'writing' else None if word == 'written' else writing
      saved = number if word == 'written' else saved
  return {
    'first step': first,
    'last step': last,
    'saved': saved,
    'during a save': writing is not None,
    'code': process.returncode,
  }


def finished(directory: str) -> tuple[int, str]:
  """Lets the run end: the step it went on from, and the digest of its end."""
  with _process(directory) as process:
    assert process.stdout is not None
    line = process.stdout.read().splitlines()[-1].split()
  if process.returncode or line[0] != 'end':
    raise RuntimeError(f'the run ended with code {process.returncode}: {line}')
  return int(line[1]), line[2]


def _process(directory: str) -> subprocess.Popen[str]:
  command = [sys.executable, '-m', 'benchmarks.kills', f'--run={directory}']
  return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _said(process: subprocess.Popen[str]) -> Iterator[tuple[str, int]]:
  """Whole lines of a process as (word, number)."""
  assert process.stdout is not None
  for line in process.stdout:
    parts = line.split()
    if line.endswith('\n') and len(parts) == 2:
      yield parts[0], int(parts[1])


def _say(line: str) -> None:
  os.write(1, f'{line}\n'.encode())  # in one piece: two threads talk


def main() -> None:
  """Kills, prints the table, writes the JSON."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--run', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.run:
    train(options.run)
    return
  chance, rows = random.Random(options.seed), []
  with tempfile.TemporaryDirectory() as root:
    _, expected = finished(f'{root}/whole')
    for number in range(options.kills):
      rows.append({'kill': number + 1, **killed(f'{root}/killed', chance, saving=number % 2 == 1)})
      print(json.dumps(rows[-1]), flush=True)
    start, digest = finished(f'{root}/killed')
  print(timing.table(rows))
  same = digest == expected
  print(f'the last process went on from step {start}; equal to the bit: {same}')
  print(timing.save('kills', rows, last_start=start, same=same, seed=options.seed))
  sys.exit(0 if same else 1)


if __name__ == '__main__':
  main()
