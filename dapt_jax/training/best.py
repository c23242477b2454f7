"""Which checkpoints are the best, by a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np


class Best(NamedTuple):
  """Which checkpoints to keep besides the newest.

  Attributes:
    metric: the name of a scalar among the metrics.
    mode: whether the smallest or the largest values are the best.
    keep: how many to keep.
  """

  metric: str
  mode: Literal['min', 'max'] = 'min'
  keep: int = 1

  def check(self) -> None:
    """Raises ValueError for an unknown mode or none to keep."""
    if self.mode not in ('min', 'max'):
      raise ValueError(f"mode of the best checkpoints must be 'min' or 'max', got {self.mode!r}")
    if self.keep < 1:
      raise ValueError(f'at least 1 best checkpoint must be kept, got {self.keep}')

  def check_metrics(self, metrics: Mapping[str, Any]) -> None:
    """Raises ValueError where the metric is missing or no scalar."""
    said = f'the best checkpoints are to be those by {self.metric!r}'
    if self.metric not in metrics:
      raise ValueError(
        f'{said}, which is not among the metrics {sorted(metrics)}: name one of them, or let '
        'on_metrics return it'
      )
    if np.size(metrics[self.metric]) != 1:
      shape = np.shape(metrics[self.metric])
      raise ValueError(f'{said}, an array of shape {shape}: name a scalar')

  def rank(self, metrics: Mapping[int, Mapping[str, float]]) -> list[int]:
    """Steps that have the metric, best first; of equal ones the earliest.

    Args:
      metrics: {step: its metrics, as `scalars` gives them}.
    """
    sign = 1 if self.mode == 'min' else -1
    rated = {step: sign * m[self.metric] for step, m in metrics.items() if self.metric in m}
    return sorted(rated, key=lambda step: (rated[step], step))


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
  """The metrics that are one finite number: what a checkpoint says of itself."""
  numbers = {n: np.asarray(v) for n, v in metrics.items() if np.size(v) == 1}
  numbers = {n: v for n, v in numbers.items() if v.dtype.kind not in 'OSUc'}
  return {n: float(v.item()) for n, v in numbers.items() if math.isfinite(float(v.item()))}
