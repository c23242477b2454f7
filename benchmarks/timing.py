"""What the benchmarks share: interleaved timing, machine facts, tables, JSON."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np

from dapt_jax.graph.costs import stopwatch

RESULTS = pathlib.Path(__file__).parent / 'results'


class Times(NamedTuple):
  """Milliseconds of one function over the rounds.

  Attributes:
    median: median wall time.
    low: lower quartile of the wall time.
    high: upper quartile of the wall time.
    cpu: median CPU time, summed over the threads of the process; less than cores times wall where
      the function, or a busy machine, leaves cores unused.
  """

  median: float
  low: float
  high: float
  cpu: float


def interleaved(
  functions: Mapping[str, Callable[[], Any]], repeats: int = 15, warmup: int = 2
) -> dict[str, Times]:
  """Median times of functions that are called in turn; see `stopwatch.interleaved`.

  Args:
    functions: functions without arguments; JAX arrays that they return are waited for.
    repeats: measured rounds.
    warmup: rounds that are not measured (compilation, caches).

  Returns:
    The times of every function.
  """
  rounds = list(stopwatch.interleaved(list(functions.values()), warmup + repeats))[warmup:]
  return {name: _summary(seen) for name, seen in zip(functions, zip(*rounds))}


class Stopwatch:
  """Wall times of the phases of one job.

  Attributes:
    laps: milliseconds of every phase so far.
  """

  def __init__(self) -> None:
    self.laps: dict[str, float] = {}
    self._last = time.perf_counter()

  def lap(self, phase: str) -> None:
    """Ends a phase; the next begins."""
    now = time.perf_counter()
    self.laps[phase] = 1e3 * (now - self._last)
    self._last = now


def phases(
  jobs: Mapping[str, Callable[[], Mapping[str, float]]], repeats: int
) -> dict[str, dict[str, float]]:
  """Times jobs in phases in turn, round after round.

  Args:
    jobs: functions that do a job once and return the laps of its `Stopwatch`.
    repeats: rounds, all of them measured.

  Returns:
    For every job the milliseconds: the median of the 'total', its quartiles 'low' and 'high', the
    median of every phase.
  """
  seen: dict[str, list[Mapping[str, float]]] = {name: [] for name in jobs}
  for _ in range(repeats):
    for name, job in jobs.items():
      seen[name].append(job())
  out = {}
  for name, rounds in seen.items():
    low, total, high = np.percentile([sum(laps.values()) for laps in rounds], (25, 50, 75))
    out[name] = {
      'total': float(total),
      'low': float(low),
      'high': float(high),
      **{phase: float(np.median([laps[phase] for laps in rounds])) for phase in rounds[0]},
    }
  return out


def _summary(seen: Sequence[stopwatch.Seconds]) -> Times:
  """Median and quartiles of one function."""
  low, median, high = (1e3 * float(q) for q in np.percentile([t.wall for t in seen], (25, 50, 75)))
  return Times(median, low, high, 1e3 * float(np.median([t.cpu for t in seen])))


def machine(packages: Sequence[str] = ('jax', 'jaxlib', 'numpy')) -> dict[str, Any]:
  """Facts that a timing needs to be read: processor, cores, load, devices, versions."""
  processor = platform.processor() or platform.machine()
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  if cpuinfo.exists():
    names = [line for line in cpuinfo.read_text().splitlines() if line.startswith('model name')]
    processor = names[0].split(':', 1)[1].strip() if names else processor
  return {
    'processor': processor,
    'cores': os.cpu_count(),
    'load': [round(value, 2) for value in os.getloadavg()],
    'devices': [str(device) for device in jax.devices()],
    'python': platform.python_version(),
    **{name: metadata.version(name) for name in packages},
  }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """A text table of rows; columns in the order in which the rows first name them."""
  columns = list(dict.fromkeys(key for row in rows for key in row))
  cells = [columns, *([_cell(row.get(key, '')) for key in columns] for row in rows)]
  widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
  return '\n'.join('  '.join(c.rjust(w) for c, w in zip(line, widths)) for line in cells)


def _cell(value: Any) -> str:
  """Floats with four digits, everything else as it prints."""
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def save(name: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> pathlib.Path:
  """Writes the rows, the machine and further facts to `benchmarks/results/<name>.json`.

  Args:
    name: name of the benchmark.
    rows: the rows of its table.
    **facts: anything else that JSON can hold; a `machine` given here replaces our own.

  Returns:
    The path written.
  """
  RESULTS.mkdir(exist_ok=True)
  path = RESULTS / f'{name}.json'
  content = {'benchmark': name, 'machine': machine(), **facts, 'rows': list(rows)}
  path.write_text(json.dumps(content, indent=1) + '\n')
  return path
