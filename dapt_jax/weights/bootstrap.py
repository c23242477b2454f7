"""Bootstrap intervals of accuracies over tasks, and tables that compare generators.

All methods are measured on the same tasks, so a resample takes the same tasks for all of them: the
comparison is paired. Where zoos are repeated too, accuracies are a table `[seeds, tasks]`, and a
resample takes seeds and, independently, tasks. Tasks that all seeds share then stay shared; had
every seed tasks of its own, the intervals would only be wider than needed. Intervals are
percentiles, 95%, per comparison: nothing is corrected for the number of comparisons.

What a percentile bootstrap cannot do: from few seeds it says little of what seeds change. Where
seeds dominate, three of them give an interval that is their range, which covers the truth in 75% of
the cases (1 - 2 / 2^3).

References: B. Efron, "Bootstrap methods: another look at the jackknife", 1979; A. B. Owen, "The
pigeonhole bootstrap", 2007, for two crossed factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

CONFIDENCE = 0.95
DRAWS = 10_000


class Interval(NamedTuple):
  """A mean and the ends of its 95% interval."""

  mean: float
  low: float
  high: float


def interval(values: np.ndarray, *, seed: int = 0, draws: int = DRAWS) -> Interval:
  """Mean of a measure over tasks; for a paired difference pass the differences.

  Args:
    values: f[tasks], or f[seeds, tasks].
    seed: of the resamples.
    draws: number of resamples.

  Raises:
    ValueError: for another shape, fewer than two tasks, or values that are not finite.
  """
  table = _table('values', values)
  return _interval(table, _resamples(table.shape, seed, draws))


def compare(
  accuracies: Mapping[str, np.ndarray], reference: str, *, seed: int = 0, draws: int = DRAWS
) -> list[dict[str, Any]]:
  """Means of several methods, and their differences to one of them.

  Args:
    accuracies: {method: f[tasks] or f[seeds, tasks]}, the same tasks in the same order.
    reference: the method that others are measured against.
    seed: of the resamples.
    draws: number of resamples.

  Returns:
    A row a method, in the order given: `method`, `mean`, `low`, `high`; `difference` (method -
    reference), `difference_low`, `difference_high`; `verdict`, see `verdict`, and 'reference' for
    the reference itself.

  Raises:
    ValueError: for an unknown reference, shapes that differ, or what `interval` refuses.
  """
  if reference not in accuracies:
    raise ValueError(f'reference {reference!r} is not among the methods {[*accuracies]}')
  tables = {name: _table(name, values) for name, values in accuracies.items()}
  shapes = {name: table.shape for name, table in tables.items()}
  if len(set(shapes.values())) > 1:
    raise ValueError(
      f'(seeds, tasks) differ: {shapes}; measure all methods on the same tasks and seeds'
    )
  resamples = _resamples(shapes[reference], seed, draws)
  rows = []
  for name, table in tables.items():
    apart = _interval(table - tables[reference], resamples)
    rows.append(
      {
        'method': name,
        **_interval(table, resamples)._asdict(),
        'difference': apart.mean,
        'difference_low': apart.low,
        'difference_high': apart.high,
        'verdict': 'reference' if name == reference else verdict(apart),
      }
    )
  return rows


def verdict(difference: Interval) -> str:
  """'win' or 'loss' if the interval leaves zero out, else 'tie'."""
  if difference.low > 0:
    return 'win'
  return 'loss' if difference.high < 0 else 'tie'


def _table(name: str, values: np.ndarray) -> np.ndarray:
  """f64[seeds, tasks]."""
  table = np.asarray(values, np.float64)
  if table.ndim not in (1, 2) or not len(table) or table.shape[-1] < 2:
    raise ValueError(
      f'{name!r} has shape {table.shape}; pass [tasks] or [seeds, tasks] with two tasks or more'
    )
  if not np.isfinite(table).all():
    raise ValueError(
      f'{name!r} has {int((~np.isfinite(table)).sum())} values that are not finite; leave these '
      'tasks out for all methods'
    )
  return np.atleast_2d(table)


def _resamples(shape: tuple[int, ...], seed: int, draws: int) -> list[np.ndarray]:
  """How often every seed and every task is drawn, as shares: f64[draws, seeds], [draws, tasks]."""
  rng = np.random.default_rng(seed)
  return [rng.multinomial(n, np.full(n, 1 / n), size=draws) / n for n in shape]


def _interval(table: np.ndarray, resamples: list[np.ndarray]) -> Interval:
  seeds, tasks = resamples
  means = (seeds * (tasks @ table.T)).sum(1)
  low, high = np.quantile(means, (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2))
  return Interval(float(table.mean()), float(low), float(high))
