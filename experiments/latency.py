"""Measured time of the network before and after the cut, side by side in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dapt_jax.transfer import protocol, structures
from experiments import task as task_lib


def measure(
  config: Any, task: task_lib.Task, candidates: Sequence[protocol.Candidate]
) -> list[dict[str, Any]]:
  """Inference time of the whole network and of one structure per method and budget.

  Repeats are interleaved, so that a busy moment of the machine hits all networks alike. All of
  them, the whole one too, run with the lowering that is fast here.

  Args:
    config: checked configuration; `latency.methods` are timed at every size of a batch.
    task: from `task.load`.
    candidates: from `candidates.make`.

  Returns:
    Rows {'name', 'batch', 'macs_share', 'milliseconds' (median), 'spread' (quartile range)}.
  """
  shown = {'whole network': (structures.of_model(task.alone), 1.0)}
  for one in candidates:
    if one.method in config.latency.methods:
      known = 'found' if one.method == 'learned' else one.method
      name, share = f'{known} at {one.budget:.0%}', one.costs['macs']['share']
      if name not in shown:
        shown[name] = one.build(), share
  runs = {n: (jax.jit(s.apply), s.init(jax.random.key(0))) for n, (s, _) in shown.items()}
  shares = {name: share for name, (_, share) in shown.items()}
  rows = []
  for size in config.latency.batch_sizes:
    images = np.zeros((size, *task.alone.input_shape), np.float32)
    rows += _time(runs, shares, images, config.latency.repeats)
  return rows


def _time(
  runs: Mapping[str, tuple[Callable[..., Any], Any]],
  shares: Mapping[str, float],
  images: np.ndarray,
  repeats: int,
) -> list[dict[str, Any]]:
  for fn, params in runs.values():
    jax.block_until_ready(fn(params, images))
  times: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(repeats):
    for name, (fn, small) in runs.items():
      start = time.perf_counter()
      jax.block_until_ready(fn(small, images))
      times[name].append(1e3 * (time.perf_counter() - start))
  rows = []
  for name, seen in times.items():
    low, middle, high = statistics.quantiles(seen, n=4)
    rows.append(
      {
        'name': name,
        'batch': len(images),
        'macs_share': shares[name],
        'milliseconds': middle,
        'spread': high - low,
      }
    )
  return rows
