"""Measured times of functions, and the machine that they belong to."""

from __future__ import annotations

import functools
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import tqdm

#: Rounds that are timed, and seconds that each function is called for in a round at least.
_ROUNDS, _LEAST = 11, 0.001
#: Bytes of arguments that are held at a time.
_MEMORY = 2**31


class Job(NamedTuple):
  """A function to be timed.

  Attributes:
    function: `function(*arguments)`, compiled before it is timed.
    shapes: its arguments as trees of `jax.ShapeDtypeStruct`.
  """

  function: Callable[..., Any]
  shapes: tuple[Any, ...]


#: Seconds of every job, in order.
Timer = Callable[[Sequence[Job]], list[float]]


class Seconds(NamedTuple):
  """Times of one call.

  Attributes:
    wall: wall time.
    cpu: CPU time, summed over the threads of the process.
  """

  wall: float
  cpu: float


def interleaved(calls: Sequence[Callable[[], Any]], rounds: int) -> Iterator[list[Seconds]]:
  """Times functions in turn, round after round, so that a busy moment hits all of them alike.

  Args:
    calls: functions without arguments; JAX arrays that they return are waited for.
    rounds: how often each is called. Nothing is called before: the first rounds may compile.

  Yields:
    The times of every function in one round.
  """
  for _ in range(rounds):
    yield [_timed(call) for call in calls]


def _timed(call: Callable[[], Any]) -> Seconds:
  cpu, wall = time.process_time(), time.perf_counter()
  jax.block_until_ready(call())
  wall = time.perf_counter() - wall
  return Seconds(wall, time.process_time() - cpu)


def measure(jobs: Sequence[Job]) -> list[float]:
  """Compiles functions and times them in turn.

  Args:
    jobs: what to time; arguments are random numbers, shared where their shapes are equal.

  Returns:
    Median seconds of a call of each, over all rounds.
  """
  out: list[float] = []
  with tqdm.tqdm(total=2 * len(jobs), desc='calibrate', unit='program') as bar:
    for part in _parts(jobs):
      calls = _compiled(part, bar)
      repeats = [max(1, math.ceil(_LEAST / _timed(call).wall)) for call in calls]
      owner = np.repeat(np.arange(len(calls)), repeats)
      seen = []
      for turn, times in enumerate(interleaved([calls[i] for i in owner], _ROUNDS)):
        seen.append([t.wall for t in times])
        bar.update((turn + 1) * len(part) // _ROUNDS - turn * len(part) // _ROUNDS)
      wall = np.array(seen)
      out += [float(np.median(wall[:, owner == i])) for i in range(len(calls))]
  return out


def _parts(jobs: Sequence[Job]) -> Iterator[list[Job]]:
  """Jobs in order, in parts whose arguments fit into `_MEMORY` together."""
  part: list[Job] = []
  held: set[Any] = set()
  for job in jobs:
    held |= {(s.shape, s.dtype) for s in jax.tree.leaves(job.shapes)}
    if part and sum(math.prod(shape) * dtype.itemsize for shape, dtype in held) > _MEMORY:
      yield part
      part, held = [], {(s.shape, s.dtype) for s in jax.tree.leaves(job.shapes)}
    part.append(job)
  yield part


def _compiled(jobs: Sequence[Job], bar: Any) -> list[Callable[[], Any]]:
  """Functions without arguments, called once already."""
  arrays: dict[Any, jax.Array] = {}

  def array(shape: jax.ShapeDtypeStruct) -> jax.Array:
    key = (shape.shape, shape.dtype)
    if key not in arrays:  # of ordinary size: denormal numbers would be slow
      numbers = np.random.default_rng(0).uniform(0.5, 1.5, shape.shape)
      arrays[key] = jnp.asarray(numbers.astype(shape.dtype))
    return arrays[key]

  def compiled(job: Job) -> Callable[..., Any]:
    run = jax.jit(job.function).lower(*job.shapes).compile()
    bar.update()
    return run

  with futures.ThreadPoolExecutor(_cores()) as pool:
    runs = list(pool.map(compiled, jobs))
  calls: list[Callable[[], Any]] = []
  for run, job in zip(runs, jobs):
    calls.append(functools.partial(run, *jax.tree.map(array, job.shapes)))
  for call in calls:
    jax.block_until_ready(call())
  return calls


def machine() -> dict[str, Any]:
  """What a measured time depends on, beside the function."""
  return {
    'backend': jax.default_backend(),
    'device': jax.devices()[0].device_kind,
    'devices': jax.local_device_count(),
    'processor': _processor(),
    'cores': _cores(),
    'jaxlib': jaxlib.__version__,
  }


def _cores() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _processor() -> str:
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  if cpuinfo.exists():
    for line in cpuinfo.read_text(encoding='utf-8', errors='replace').splitlines():
      if line.startswith('model name'):
        return line.split(':', 1)[1].strip()
  return platform.processor() or platform.machine()
