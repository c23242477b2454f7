"""Measured time of the network before and after the cut, side by side in one run."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dapt_jax.graph.costs import stopwatch
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
  calls = [functools.partial(fn, params, images) for fn, params in runs.values()]
  _, *rounds = stopwatch.interleaved(calls, 1 + repeats)  # the first one compiles
  rows = []
  for name, seen in zip(runs, zip(*rounds)):
    low, middle, high = statistics.quantiles([1e3 * t.wall for t in seen], n=4)
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
