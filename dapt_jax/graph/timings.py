"""Measured times, kept on disk by device: one small JSON file for every timed layer."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from dapt_jax.graph import stopwatch

#: Changed where files of an earlier version would say something else.
_VERSION = 1


def folder() -> pathlib.Path:
  """Where times are kept: $DAPT_JAX_CACHE, or ~/.cache/dapt_jax, and 'latency' in it."""
  root = os.environ.get('DAPT_JAX_CACHE') or '~/.cache/dapt_jax'
  return pathlib.Path(root).expanduser() / 'latency'


def signature(job: stopwatch.Job, extra: Any) -> str:
  """Twelve hex digits of the program that a job lowers to, and of anything else that matters."""
  text = jax.jit(job.function).lower(*job.shapes).as_text()
  return _digest([text, extra])


def _digest(content: Any) -> str:
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


class Timings:
  """Seconds of jobs by name: from the cache where they are there, from the timer else."""

  def __init__(self, timer: stopwatch.Timer, cache: bool) -> None:
    self.timer = timer
    self.machine = stopwatch.machine()
    self.folder = folder() / _digest([_VERSION, self.machine]) if cache else None

  def __call__(self, tables: Mapping[str, Sequence[stopwatch.Job]]) -> dict[str, list[float]]:
    """Seconds of the jobs of every table; those that are not known are timed together.

    Args:
      tables: jobs by a name that is equal for equal jobs, and safe as the name of a file.
    """
    known = {name: self._known(name, jobs) for name, jobs in tables.items()}
    missing = [name for name, seconds in known.items() if seconds is None]
    jobs = [job for name in missing for job in tables[name]]
    found = iter(self.timer(jobs) if jobs else [])
    out = {name: seconds for name, seconds in known.items() if seconds is not None}
    for name in missing:
      out[name] = list(itertools.islice(found, len(tables[name])))
      if self.folder is not None:
        content = {'name': name, 'machine': self.machine, 'shapes': _shapes(tables[name])}
        _write(self._path(name, tables[name]), {**content, 'seconds': out[name]})
    return out

  def _known(self, name: str, jobs: Sequence[stopwatch.Job]) -> list[float] | None:
    if self.folder is None or not self._path(name, jobs).exists():
      return None
    return _read(self._path(name, jobs), len(jobs))

  def _path(self, name: str, jobs: Sequence[stopwatch.Job]) -> pathlib.Path:
    assert self.folder is not None
    return self.folder / f'{name}-{_digest(_shapes(jobs))}.json'


def _shapes(jobs: Sequence[stopwatch.Job]) -> list[list[list[int]]]:
  return [[list(s.shape) for s in jax.tree.leaves(job.shapes)] for job in jobs]


def _read(path: pathlib.Path, number: int) -> list[float] | None:
  """The seconds of a file; None, with a warning, where it is damaged."""
  try:
    seconds = json.loads(path.read_text(encoding='utf-8'))['seconds']
    good = len(seconds) == number and all(math.isfinite(s) and s > 0 for s in seconds)
  except (OSError, ValueError, KeyError, TypeError):
    good = False
  if good:
    return [float(s) for s in seconds]
  warnings.warn(f'{path} is damaged; its layer is timed again', stacklevel=2)
  return None


def _write(path: pathlib.Path, content: Any) -> None:
  """Writes beside the place first, then renames: another process sees all of it or nothing."""
  path.parent.mkdir(parents=True, exist_ok=True)
  draft = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  draft.write_text(json.dumps(content), encoding='utf-8')
  os.replace(draft, path)
