"""What `novelty.report` has measured: as rows, as a verdict, as a figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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


#: {(measure, of, space): f[T], or f[seeds, T]}.
Values = Mapping[tuple[str, str, str], np.ndarray]


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

  def values(self) -> dict[tuple[str, str], np.ndarray]:
    """{(measure, of): f[T]}, as `Report.values` has them."""
    out = {('distance to the zoo', of): _per_task(found) for of, found in self.distance.items()}
    out['distance to the zoo', 'samples - fresh'] = self.nearer()
    for of in self.overlap:
      shared, beyond = self.overlap[of], _largest(self.excess[of])
      out['error overlap with the nearest', of] = shared[:, 0]
      out['largest error overlap', of] = _largest(shared)
      out['largest error overlap beyond chance', of] = beyond
      out['spread within a task', of] = self.spread[of]
    own, others = (_largest(self.excess[of]) for of in ('samples', 'fresh'))
    out['largest error overlap beyond chance', 'samples - fresh'] = own - others
    out['spread within a task', 'samples / fresh'] = self.spread['samples'] / self.spread['fresh']
    return out


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

  def values(self) -> Values:
    """What was measured of every task; of the zoo's own distances, of every network."""
    out = {(m, of, name): v for name, s in self.spaces.items() for (m, of), v in s.values().items()}
    for of, found in self.accuracy.items():
      out['accuracy', of, ''] = _per_task(found)
      gain = f'gain of an ensemble of {found.shape[1]}'
      out[gain, of, ''] = self.ensemble[of] - _per_task(found)
    for number, sigma in enumerate(self.sweep.sigma):
      out['accuracy', f'zoo + noise {sigma:g}', ''] = self.sweep.accuracy[number]
      out['distance to the zoo', f'zoo + noise {sigma:g}', 'raw'] = self.sweep.distance[number]
    away = out['distance to the zoo', 'samples', 'raw']
    gain = out['accuracy', 'samples', ''] - self.sweep.at(away)
    return {**out, ('accuracy', 'samples - noise at their distance', ''): gain}

  def rows(self) -> list[dict[str, Any]]:
    """Rows of `values`, see `rows`."""
    return rows(self.values())

  def verdict(self) -> str:
    """The verdict on `values`, see `verdict`."""
    return verdict(self.values())


def rows(values: Values) -> list[dict[str, Any]]:
  """Flat rows: `measure`, `of`, `space`, `mean`, and the ends `low`, `high` of its 95% interval.

  Intervals are bootstraps over tasks (of the zoo's own distances: over its networks), and over
  seeds where values are f[seeds, T].
  """
  return [_row(*name, found) for name, found in values.items()]


def verdict(values: Values) -> str:
  """'copies', 'near the zoo' or 'new', and the rule that says so.

  Two signs: samples are nearer to the zoo than networks trained on the same tasks, and their
  largest error overlap with it, beyond chance, is larger; corrected where there is an autoencoder.
  Both by the 95% interval of the paired difference over tasks. Copies show both signs, new networks
  none.
  """
  name = 'corrected' if any(space == 'corrected' for _, _, space in values) else 'raw'
  nearer, alike = (
    _row('', '', '', values[measure, 'samples - fresh', name])
    for measure in ('distance to the zoo', 'largest error overlap beyond chance')
  )
  signs = int(nearer['high'] < 0) + int(alike['low'] > 0)
  text = ('new', 'near the zoo', 'copies')[signs]
  return (
    f'{text}: against networks trained on the same tasks ({name}), distance to the zoo '
    f'{_signed(nearer)}, largest error overlap beyond chance {_signed(alike)}; {signs} of two '
    'signs of copying (a distance below zero, an overlap above zero, by the whole 95% interval)'
  )


def figure(reports: Mapping[str, Report]) -> figure_lib.Figure:
  """Accuracy against the distance to the zoo: a panel a report, {title: report}.

  A point is a task, the line is the noise sweep.
  """
  with matplotlib.rc_context(_STYLE):
    size = (4.6 * len(reports), 3.5)
    made = figure_lib.Figure(figsize=size, layout='constrained')
    panels = np.atleast_1d(made.subplots(1, len(reports), sharey=True))
    for panel, (title, report) in zip(panels, reports.items()):
      _draw(panel, report)
      panel.set_title(title)
    panels[0].set_ylabel('accuracy on the task')
    panels[-1].legend(frameon=False, fontsize=8.5)
  return made


def _draw(axes: Any, report: Report) -> None:
  distance = report.spaces['raw'].distance
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


def _per_task(values: np.ndarray) -> np.ndarray:
  """Means over the networks of a task; distances within the zoo are one each as they are."""
  return values.mean(1) if values.ndim == 2 else values


def _largest(overlap: np.ndarray) -> np.ndarray:
  """f32[T]; NaN only where no pair has an error."""
  found = np.where(np.isnan(overlap), -np.inf, overlap).max(1)
  return np.where(np.isinf(found), np.nan, found)


def _row(measure: str, of: str, space: str, values: np.ndarray) -> dict[str, Any]:
  """Tasks without a value (an overlap without errors) are left out; fewer than two leave NaN."""
  values = values[..., np.isfinite(np.atleast_2d(values)).all(0)]
  nothing = bootstrap.Interval(np.nan, np.nan, np.nan)
  found = bootstrap.interval(values, draws=_DRAWS) if values.shape[-1] > 1 else nothing
  return {'measure': measure, 'of': of, 'space': space, **found._asdict()}


def _signed(row: dict[str, Any]) -> str:
  return f'{row["mean"]:+.3g} ({row["low"]:+.3g} to {row["high"]:+.3g})'
