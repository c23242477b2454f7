"""Runs that are killed at random moments, saves included, end as if they never were.

  python -m benchmarks.kills --kills=20
  python -m benchmarks.kills --kills=20 --processes=2

Real processes (`kill -9`) of a small run that begins to save every 20th step: each is killed
after a random time (every second one in the middle of a save) and started again. End state and
metrics must be those of a run that was never killed, to the bit; the exit code is 1 if they are
not. Of several processes one is killed, and the others must find
out and end by themselves. Prints where every kill fell and writes `benchmarks/results/kills.json`.
Cost: some seconds per kill, most of it the start of a process.
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
from benchmarks.processes import environments
from dapt_jax.training import disk, hosts, layout, loop, runner, workdir

STEPS, EVERY = 400, 20
SHAPE = (256, 512)  # with Adam 1.6 MB of state, so that a save takes some steps
OPTIMIZER = optax.adam(1e-2)


def update(
  state: Mapping[str, Any], batch: jax.Array, axis_name: str | None = None
) -> tuple[dict[str, Any], dict[str, jax.Array]]:
  """A step of a noisy regression; batch f32[8, 256]."""
  key, sub = jax.random.split(state['key'])

  def loss_fn(params):
    noisy = batch + 0.1 * jax.random.normal(sub, batch.shape)
    return jnp.mean(jnp.square(jnp.tanh(noisy @ params) - batch[:, :1]))

  loss, gradient = jax.value_and_grad(loss_fn)(state['params'])
  if axis_name is not None:
    loss, gradient = jax.lax.pmean((loss, gradient), axis_name)
  moves, opt = OPTIMIZER.update(gradient, state['opt'], state['params'])
  return {'params': optax.apply_updates(state['params'], moves), 'opt': opt, 'key': key}, {
    'loss': loss
  }


def train(directory: str) -> None:
  """The run that is killed; says on standard output when it steps, writes and has written."""
  address = hosts.Address().filled()
  if address.count is not None:
    hosts.initialize(address, heartbeat=10)
  write = disk.Disk.write

  def told(self: disk.Disk, step: int, *rest: Any) -> None:
    _say('writing', step)
    write(self, step, *rest)
    _say('written', step)

  def batches(step: int) -> np.ndarray:
    _say('step', step)
    time.sleep(0.01)
    whole = np.random.default_rng(step).normal(size=(8, SHAPE[0])).astype(np.float32)
    return layout.rows(whole, 0, hosts.index(), hosts.count())

  disk.Disk.write = told  # type: ignore[assignment,method-assign]
  params = jnp.zeros(SHAPE)
  state = {'params': params, 'opt': OPTIMIZER.init(params), 'key': jax.random.key(1)}
  with workdir.open_workdir(directory, {}, kind='kills') as opened:
    result = loop.run(
      runner.make_update(update, batch_axes=0),
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
  _say(f'end {digest.hexdigest()}', result.resumed_from)


def killed(
  directory: str, chance: random.Random, processes: int, *, saving: bool
) -> dict[str, Any]:
  """Starts the run, kills a process at a random moment, and says where that was.

  Args:
    directory: the work directory.
    chance: draws moment and process.
    processes: of the run.
    saving: whether to wait for the next save that is under way by then.

  Returns:
    `{'killed', 'first step', 'last step', 'saved', 'during a save', 'others ended after s'}`;
    'saved' is the last checkpoint that was committed.
  """
  wait, delay = chance.randrange(0, STEPS - 50), chance.uniform(0, 0.03)
  victim = chance.randrange(processes)
  first = last = saved = writing = None
  with _Job(directory, processes) as job:
    begun = None
    for word, number in job.said():
      first = number if first is None and word == 'step' else first
      last = number if word == 'step' else last
      writing = number if word == 'writing' else None if word == 'written' else writing
      saved = number if word == 'written' else saved
      moment = first is not None and last is not None and last >= first + wait
      if begun is None and moment and (writing is not None or not saving):
        time.sleep(delay)
        job.processes[victim].kill()
        during, begun = writing is not None, time.monotonic()
    codes = [process.wait(timeout=120) for process in job.processes]
    assert begun is not None, f'the run ended before its time, with codes {codes}'
  return {
    'killed': victim,
    'first step': first,
    'last step': last,
    'saved': saved,
    'during a save': during,
    'others ended after s': round(time.monotonic() - begun, 1),
  }


def finished(directory: str, processes: int) -> tuple[int, str]:
  """Lets the run end: the step it went on from, and the digest of its end."""
  with _Job(directory, processes) as job:
    ends = [(number, word) for word, number in job.said() if word.startswith('end ')]
    codes = [process.wait(timeout=120) for process in job.processes]
  if any(codes) or len(set(ends)) != 1:
    raise RuntimeError(f'the run ended with codes {codes}: {ends}')
  return ends[0][0], ends[0][1].split()[1]


class _Job:
  """The processes of one run; what they say comes through one pipe."""

  def __init__(self, directory: str, processes: int):
    command = [sys.executable, '-m', 'benchmarks.kills', f'--run={directory}']
    read, write = os.pipe()
    self.processes = [
      subprocess.Popen(
        command,
        stdout=write,
        stderr=subprocess.DEVNULL if processes > 1 else None,  # the others die noisily
        env=env,
      )
      for env in environments(processes)
    ]
    os.close(write)
    self._output = os.fdopen(read)

  def said(self) -> Iterator[tuple[str, int]]:
    """Whole lines of all processes as (what, number), until the last one ends."""
    for line in self._output:
      what, _, number = line.rpartition(' ')
      if line.endswith('\n') and what:
        yield what, int(number)

  def __enter__(self) -> _Job:
    return self

  def __exit__(self, *_: object) -> None:
    for process in self.processes:
      process.kill()
      process.wait()
    self._output.close()


def _say(what: str, number: int) -> None:
  os.write(1, f'{what} {number}\n'.encode())  # in one piece: two threads talk


def main() -> None:
  """Kills, prints the table, writes the JSON."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--processes', type=int, default=1)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--run', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.run:
    train(options.run)
    return
  chance, rows, count = random.Random(options.seed), [], options.processes
  with tempfile.TemporaryDirectory() as root:
    _, expected = finished(f'{root}/whole', count)
    for number in range(options.kills):
      directory = f'{root}/{number}'
      row = killed(directory, chance, count, saving=number % 2 == 1)
      start, digest = finished(directory, count)
      rows.append({'kill': number + 1, **row, 'resumed at': start, 'equal': digest == expected})
      print(json.dumps(rows[-1]), flush=True)
  print(timing.table(rows))
  same = all(row['equal'] for row in rows)
  print(f'{sum(row["equal"] for row in rows)} of {len(rows)} ended equal to the bit')
  name = 'kills' if count == 1 else f'kills_{count}_processes'
  print(timing.save(name, rows, same=same, seed=options.seed))
  sys.exit(0 if same else 1)


if __name__ == '__main__':
  main()
