"""What `novelty.report` has measured: as rows, as a verdict, as a figure."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import figure as figure_lib

from dapt_jax.weights import bootstrap

_DRAWS = 2000  # resamples; rows are many
_STYLE: Any = {
  'font.size': 9.5,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': '#e4e4e4',
  'grid.linewidth': 0.7,
}


class Sweep(NamedTuple):
  """Stored networks with noise, S levels on T tasks.

  Attributes:
    sigma: f[S], increasing.
    distance: f32[S, T], to the nearest network of the zoo, raw.
    accuracy: f32[S, T], on the task.
  """

  sigma: np.ndarray
  distance: np.ndarray
  accuracy: np.ndarray

  def at(self, distance: np.ndarray) -> np.ndarray:
    """Accuracy f64[T] at distances f[T], between the levels; beyond the last, that of the last."""
    columns = zip(distance, self.distance.T, self.accuracy.T)
    # A step of noise may come nearer to another network: the levels are taken in order of distance.
    return np.array([np.interp(d, np.sort(x), y[np.argsort(x)]) for d, x, y in columns])


class Space(NamedTuple):
  """What depends on the weights, as they are or passed through an autoencoder.

  Attributes:
    distance: {'samples': f32[T, k], 'fresh': f32[T, r], 'zoo': f32[n]}, to the nearest network of
      the zoo.
    overlap: {'samples' | 'fresh': f32[T, m]}, intersection over union of errors with the nearest
      networks, nearest first; NaN where nobody errs.
    excess: {'samples' | 'fresh': f32[T, m]}, the same beyond chance, see `novelty.Overlap`.
    spread: {'samples' | 'fresh': f32[T]}, mean distance between networks of one task.
  """

  distance: dict[str, np.ndarray]
  overlap: dict[str, np.ndarray]
  excess: dict[str, np.ndarray]
  spread: dict[str, np.ndarray]

  def nearer(self) -> np.ndarray:
    """f32[T], distance of samples less that of networks trained on the task."""
    return _per_task(self.distance['samples']) - _per_task(self.distance['fresh'])

  def rows(self, space: str) -> list[dict[str, Any]]:
    """Rows as `Report.rows` has them."""
    out = [
      _row('distance to the zoo', name, _per_task(values), space)
      for name, values in self.distance.items()
    ]
    out.append(_row('distance to the zoo', 'samples - fresh', self.nearer(), space))
    for name in self.overlap:
      shared, beyond = self.overlap[name], _largest(self.excess[name])
      out.append(_row('error overlap with the nearest', name, shared[:, 0], space))
      out.append(_row('largest error overlap', name, _largest(shared), space))
      out.append(_row('largest error overlap beyond chance', name, beyond, space))
      out.append(_row('spread within a task', name, self.spread[name], space))
    share = self.spread['samples'] / self.spread['fresh']
    return [*out, _row('spread within a task', 'samples / fresh', share, space)]


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
  """Novelty of samples on T tasks, beside networks trained on the same tasks ('fresh').

  Attributes:
    spaces: {'raw': ..., 'corrected': ...}; the second passed through an autoencoder, where there
      is one.
    accuracy: {'samples': f32[T, k], 'fresh': f32[T, r]}.
    sweep: stored networks with noise.
    ensemble: {'samples' | 'fresh': f32[T]}, accuracy of the mean softmax of all networks of a task.
  """

  spaces: dict[str, Space]
  accuracy: dict[str, np.ndarray]
  sweep: Sweep
  ensemble: dict[str, np.ndarray]

  def rows(self) -> list[dict[str, Any]]:
    """Flat rows: `measure`, `of`, `space`, `mean`, and the ends `low`, `high` of its 95% interval.

    Intervals are bootstraps over tasks (of the zoo's own distances: over its networks).
    """
    out = [row for name, space in self.spaces.items() for row in space.rows(name)]
    for name, values in self.accuracy.items():
      out.append(_row('accuracy', name, _per_task(values)))
      gain = self.ensemble[name] - _per_task(values)
      out.append(_row(f'gain of an ensemble of {values.shape[1]}', name, gain))
    for sigma, accuracy, distance in zip(
      self.sweep.sigma, self.sweep.accuracy, self.sweep.distance
    ):
      out.append(_row('accuracy', f'zoo + noise {sigma:g}', accuracy))
      out.append(_row('distance to the zoo', f'zoo + noise {sigma:g}', distance, 'raw'))
    gain = _per_task(self.accuracy['samples']) - self.sweep.at(
      _per_task(self.spaces['raw'].distance['samples'])
    )
    out.append(_row('accuracy', 'samples - noise at their distance', gain))
    return out

  def verdict(self) -> str:
    """'copies', 'near the zoo' or 'new', and the rule that says so.

    Two signs: samples are nearer to the zoo than networks trained on the same tasks, and their
    largest error overlap with it, beyond chance, is larger; corrected where there is an
    autoencoder. Both by the 95% interval of the paired difference over tasks. Copies show both
    signs, new networks none.
    """
    name = 'corrected' if 'corrected' in self.spaces else 'raw'
    space = self.spaces[name]
    nearer = _row('', '', space.nearer())
    alike = _row('', '', _largest(space.excess['samples']) - _largest(space.excess['fresh']))
    signs = int(nearer['high'] < 0) + int(alike['low'] > 0)
    text = ('new', 'near the zoo', 'copies')[signs]
    return (
      f'{text}: against networks trained on the same tasks ({name}), distance to the zoo '
      f'{_signed(nearer)}, largest error overlap beyond chance {_signed(alike)}; {signs} of two '
      'signs of copying (a distance below zero, an overlap above zero, by the whole 95% interval)'
    )


def figure(report: Report) -> figure_lib.Figure:
  """Accuracy against the distance to the zoo: a point a task, and the line of the noise sweep."""
  with matplotlib.rc_context(_STYLE):
    made = figure_lib.Figure(figsize=(5.0, 3.3), layout='constrained')
    axes, distance = made.add_subplot(), report.spaces['raw'].distance
    for name, colour, marker in (('fresh', '#d55e00', 's'), ('samples', '#0072b2', 'o')):
      style: Any = {'color': colour, 'marker': marker, 's': 16, 'alpha': 0.7, 'linewidths': 0}
      points = [_per_task(values[name]) for values in (distance, report.accuracy)]
      label = {'fresh': 'trained on the task', 'samples': 'sampled'}[name]
      axes.scatter(*points, label=label, **style)
    line = [report.sweep.distance.mean(1), report.sweep.accuracy.mean(1)]
    axes.plot(*line, color='#333333', marker='.', label='stored network + noise')
    labelled = -np.inf  # small levels of noise lie close together; labels must not
    for sigma, x, y in zip(report.sweep.sigma, *line):
      if x - labelled > 0.07 * np.ptp(line[0]):
        axes.annotate(f'{sigma:g}', (x, y), (3, 3), textcoords='offset points', fontsize=7.5)
        labelled = x
    axes.set_xlabel('distance to the nearest network of the zoo')
    axes.set_ylabel('accuracy on the task')
    axes.legend(frameon=False, fontsize=8.5)
  return made


def _per_task(values: np.ndarray) -> np.ndarray:
  """Means over the networks of a task; distances within the zoo are one each as they are."""
  return values.mean(1) if values.ndim == 2 else values


def _largest(overlap: np.ndarray) -> np.ndarray:
  """f32[T]; NaN only where no pair has an error."""
  found = np.where(np.isnan(overlap), -np.inf, overlap).max(1)
  return np.where(np.isinf(found), np.nan, found)


def _row(measure: str, of: str, values: np.ndarray, space: str = '') -> dict[str, Any]:
  """Tasks without a value (an overlap without errors) are left out; fewer than two leave NaN."""
  values = values[np.isfinite(values)]
  nothing = bootstrap.Interval(np.nan, np.nan, np.nan)
  found = bootstrap.interval(values, draws=_DRAWS) if len(values) > 1 else nothing
  return {'measure': measure, 'of': of, 'space': space, **found._asdict()}


def _signed(row: dict[str, Any]) -> str:
  return f'{row["mean"]:+.3g} ({row["low"]:+.3g} to {row["high"]:+.3g})'
