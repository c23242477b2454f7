"""An hour of search with a checkpoint every half minute or so: does memory grow, do handles leak?

  python -m benchmarks.soak [--minutes=60]

Starts `experiments.prune` as a user does (the search of configs/demo.py, with so many steps that it
cannot end), looks at its process from outside every ten seconds, sends SIGTERM when the time is
over, and starts it once more for a moment to see that it goes on. A run is flat if the median of
the resident memory over its last sixth lies at most `GROWTH` MB above that over the second sixth
(the first compiles and fills caches), and neither files nor threads are more at the end. Prints a
table, writes `benchmarks/results/soak.json`; the exit code is 1 if something grew. Other jobs may
run beside it: it times nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import timing
from dapt_jax.training import stopping

GROWTH = 20.0  # MB
SEARCH = 'learned-macs0.2-seed0'
Sample = dict[str, float]


def command(workdir: str, every: int) -> list[str]:
  """The search as a user starts it, with a checkpoint every so many steps."""
  settings = {'search.steps': 10_000_000, 'search.checkpoint_every': every, 'devices': 1}
  flags = [f'--config.{name}={value}' for name, value in settings.items()]
  app = [sys.executable, '-m', 'experiments.prune', '--config=configs/demo.py:search']
  return [*app, f'--workdir={workdir}', *flags]


def look(pid: int, workdir: pathlib.Path, begun: float) -> Sample:
  """What a process holds now, and how far its search has come."""
  root = pathlib.Path(f'/proc/{pid}')
  pages = int((root / 'statm').read_text().split()[1])
  steps = saved_steps(workdir)
  return {
    'minute': (time.monotonic() - begun) / 60,
    'resident MB': pages * os.sysconf('SC_PAGE_SIZE') / 1e6,
    'files': len(list((root / 'fd').iterdir())),
    'threads': len(list((root / 'task').iterdir())),
    'step': last_step(workdir),
    'checkpoints': len(steps),
    'newest': max(steps, default=0),
  }


def saved_steps(workdir: pathlib.Path) -> list[int]:
  """Steps of the checkpoints that are there."""
  path = workdir / 'search' / SEARCH / 'checkpoints'
  return [int(p.name) for p in path.iterdir() if p.name.isdigit()] if path.is_dir() else []


def last_step(workdir: pathlib.Path) -> int:
  """The last step with metrics."""
  path = workdir / 'search' / SEARCH / 'metrics.jsonl'
  if not path.is_file():
    return 0
  with path.open('rb') as file:
    file.seek(-min(path.stat().st_size, 20_000), os.SEEK_END)
    whole = [line for line in file.read().split(b'\n')[:-1] if line.startswith(b'{"step"')]
  return json.loads(whole[-1])['step'] if whole else 0


def step_seconds(workdir: str) -> float:
  """Seconds of a step on this machine as it is now, from a run of some steps."""
  process = subprocess.Popen(command(workdir, 1_000_000))
  path = pathlib.Path(workdir) / 'search' / SEARCH / 'speed.jsonl'
  try:
    while not path.is_file() or path.read_bytes().count(b'\n') < 3:
      if process.poll() is not None:
        raise RuntimeError(f'the search has ended with code {process.returncode}')
      time.sleep(1)
  finally:
    process.kill()
    process.wait()
  return 1 / json.loads(path.read_text().splitlines()[-1])['steps_per_second']


def watch(workdir: str, every: int, minutes: float) -> tuple[list[Sample], set[int]]:
  """Runs the search for so long: what was seen, and the steps of all checkpoints."""
  samples: list[Sample] = []
  saved: set[int] = set()
  process, begun = subprocess.Popen(command(workdir, every)), time.monotonic()
  try:
    while time.monotonic() - begun < 60 * minutes:
      time.sleep(min(10, 6 * minutes))
      if process.poll() is not None:
        raise RuntimeError(f'the search has ended with code {process.returncode}')
      samples.append(look(process.pid, pathlib.Path(workdir), begun))
      saved |= set(saved_steps(pathlib.Path(workdir)))
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=120)
  finally:
    process.kill()
  if code != stopping.EXIT_RESUMABLE:
    raise RuntimeError(f'after SIGTERM the search has ended with code {code}')
  return samples, saved


def goes_on(workdir: str, every: int) -> bool:
  """Whether another start goes on after the last checkpoint."""
  path = pathlib.Path(workdir)
  before, process = max(saved_steps(path)), subprocess.Popen(command(workdir, every))
  try:
    for _ in range(120):
      time.sleep(1)
      if last_step(path) > before:
        return True
    return False
  finally:
    process.kill()
    process.wait()


def verdict(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
  """{what: {'start', 'end', 'most'}}: medians over the second and the last sixth of the run."""
  sixth = max(len(samples) // 6, 1)
  found = {}
  for name in ('resident MB', 'files', 'threads'):
    seen = np.array([s[name] for s in samples])
    start, end = np.median(seen[sixth : 2 * sixth]), np.median(seen[-sixth:])
    found[name] = {'start': float(start), 'end': float(end), 'most': float(seen.max())}
  return found


def main() -> None:
  """Runs, prints, writes."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--minutes', type=float, default=60)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as root:
    # Twice as often as a minute asks for, since other jobs may come to the machine.
    every = max(round(30 / step_seconds(f'{root}/first') / 20), 1) * 20
    samples, saved = watch(f'{root}/run', every, options.minutes)
    resumed = goes_on(f'{root}/run', every)
  found = verdict(samples)
  rows: list[dict[str, Any]] = [{'what': name, **values} for name, values in found.items()]
  print(timing.table(rows))
  grown = {name: values['end'] - values['start'] for name, values in found.items()}
  flat = grown['resident MB'] <= GROWTH and grown['files'] <= 0 and grown['threads'] <= 0
  print(
    f'{samples[-1]["step"]:.0f} steps, {len(saved)} checkpoints in {options.minutes:g} minutes; '
    f'{"flat" if flat else "grown"}; {"went on" if resumed else "did not go on"} after SIGTERM'
  )
  facts = {'minutes': options.minutes, 'checkpoint_every': every, 'checkpoints': len(saved)}
  facts |= {'flat': flat, 'went on': resumed, 'samples': samples[:: max(len(samples) // 60, 1)]}
  print(timing.save('soak', rows, **facts))
  sys.exit(0 if flat and resumed else 1)


if __name__ == '__main__':
  main()
