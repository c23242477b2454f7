"""Measured time of the network before and after the cut, side by side in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import dapt_jax as dapt
from dapt_jax.models import overrides
from experiments import task as task_lib


def measure(
  config: Any, task: task_lib.Task, learned: Mapping[str, dapt.Architecture]
) -> list[dict[str, Any]]:
  """Inference time of the whole network and of one found architecture per budget.

  Repeats are interleaved, so that a busy moment of the machine hits all networks alike.

  Returns:
    Rows {'name', 'batch', 'macs_share', 'milliseconds' (median), 'spread' (quartile range)}.
  """
  model = task.traced
  params = model.init(jax.random.key(0))
  size = config.latency.batch_size
  images = np.zeros((size, *model.input_shape), np.float32)
  whole = task.graph.decide(task.graph.init_gates(mean=1.0))
  shown = {'whole network': whole}
  for arch in learned.values():
    shown.setdefault(f'found at {arch.provenance["decision"]["budget"]:.0%}', arch)
  runs = {}
  for name, arch in shown.items():
    cut, small = task.graph.shrink(arch, params, overrides=overrides.replay(in_loop=False))
    runs[name] = (jax.jit(cut), small)
    jax.block_until_ready(runs[name][0](small, images))
  times: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(config.latency.repeats):
    for name, (fn, small) in runs.items():
      start = time.perf_counter()
      jax.block_until_ready(fn(small, images))
      times[name].append(1e3 * (time.perf_counter() - start))
  rows = []
  for name, seen in times.items():
    low, middle, high = statistics.quantiles(seen, n=4)
    share = shown[name].costs['macs']['share']
    rows.append(
      {
        'name': name,
        'batch': size,
        'macs_share': share,
        'milliseconds': middle,
        'spread': high - low,
      }
    )
  return rows
