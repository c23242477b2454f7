"""Plots of what transfer gave: accuracy against cost, and few-shot curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import axes as axes_lib

from dapt_jax.report import drawing, findings, methods
from dapt_jax.report.drawing import Panel
from dapt_jax.transfer import results

Row = Mapping[str, Any]

#: Methods whose means stand as numbers above a plot.
NUMBERED = ('learned', 'dense')


def groups(rows: Sequence[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
  """The rows by the values of these columns, in order of first appearance."""
  out: dict[tuple[Any, ...], list[Row]] = {}
  for row in rows:
    out.setdefault(tuple(row[n] for n in names), []).append(row)
  return out


def architecture_means(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Mean accuracy and cost of every architecture of methods that have several."""
  out = []
  for table in results.tables(rows):
    if len(table.architectures) == 1:
      continue
    for index, key in enumerate(table.architectures):
      row = next(r for r in table.rows if (r['architecture'], r['search_seed']) == key)
      out.append({**row, 'mean': float(table.accuracy[index].mean())})
  return out


def accuracy_against_cost(summary: Sequence[Row], singles: Sequence[Row]) -> list[Panel]:
  """One panel per task, unit and number of shots.

  Args:
    summary: rows of `statistics.summarise`.
    singles: rows of `architecture_means`, drawn as small dots.
  """
  panels = []
  for (source, target), task in groups(summary, 'source', 'target').items():
    units = sorted({r['unit'] for r in task if r['budget'] < 1}) or sorted(
      {r['unit'] for r in task}
    )
    for unit in units:
      # The whole network stands in every unit's picture, but once.
      of_unit = [r for r in task if r['unit'] == unit or r['budget'] == 1]
      for shots in sorted({r['shots'] for r in of_unit}):
        here = [r for r in of_unit if r['shots'] == shots]
        once = list({(r['method'], r[f'{unit}_share']): r for r in here}.values())
        dots = [
          s
          for s in singles
          if (s['source'], s['target'], s['shots'], s['unit']) == (source, target, shots, unit)
        ]
        panels.append(
          _cost_panel(once, dots, unit, f'{_task(summary, task[0])}, {shots} per class')
        )
  return panels


def _cost_panel(
  rows: Sequence[Row],
  dots: Sequence[Row],
  unit: str,
  title: str,
) -> Panel:
  share, names = f'{unit}_share', methods.ordered(rows)
  # Methods of one budget stand side by side: their costs are equal, or equal within rounding.
  slots = {b: [m for m in names if any((r['method'], r['budget']) == (m, b) for r in rows)]
           for b in sorted({r['budget'] for r in rows})}  # fmt: skip
  gap = _smallest_gap(list(slots))
  room = 0.72 * gap / max(len(s) for s in slots.values())

  def place(row: Row) -> float:
    slot = slots[row['budget']]
    return math.log(max(row[share], 1e-4)) + room * (
      slot.index(row['method']) - (len(slot) - 1) / 2
    )

  with drawing.canvas() as axes:
    for dot in dots:
      if dot['budget'] in slots and dot['method'] in slots[dot['budget']]:
        colour = methods.look(dot['method'], names).colour
        axes.plot(place(dot), dot['mean'], '.', color=colour, alpha=0.35, markersize=3.5)
    _points(axes, rows, names, place, joined=False)
    for row in rows:
      if row['method'] == 'dense':
        axes.axhline(row['mean'], color='#000000', linewidth=0.7, dashes=(2, 3), zorder=0)
    costs = drawing.spaced(list(slots), ratio=1.18)
    axes.set_xticks([math.log(c) for c in costs], [f'{100 * c:.3g}' for c in costs])
    axes.set_xlim(math.log(min(slots)) - 0.6 * gap, math.log(max(slots)) + 0.6 * gap)
    axes.grid(False, axis='x')
    axes.set_ylim(*_limits(rows))
    axes.set_xlabel(f'{findings.unit_name(unit)} (% of the whole network, log scale)')
    axes.set_ylabel('accuracy')
    _numbers(axes, rows, lambda row: math.log(row['budget']), title)
    return Panel(
      drawing.render(
        axes, f'Accuracy against {findings.unit_name(unit)}, {title}: ' + _spoken(rows)
      )
    )


def _task(summary: Sequence[Row], row: Row) -> str:
  """The target's name, with its source where there are several."""
  return findings.task_name(row) if len({r['source'] for r in summary}) > 1 else row['target']


def _smallest_gap(budgets: Sequence[float]) -> float:
  logs = np.log(sorted(budgets))
  return float(min(np.diff(logs))) if len(logs) > 1 else 1.0


def few_shot_curves(summary: Sequence[Row]) -> list[Panel]:
  """Accuracy against shots per class, one panel per task, unit and budget."""
  panels = []
  for task in groups(summary, 'source', 'target').values():
    bounds = _limits(task)
    cut = groups([r for r in task if r['budget'] < 1], 'unit', 'budget')
    if not cut:
      cut = {(task[0]['unit'], 1.0): []}
    for (unit, budget), rows in sorted(cut.items()):
      whole = {(r['method'], r['shots']): r for r in task if r['budget'] == 1}
      here = [*rows, *whole.values()]
      title = (
        f'{_task(summary, task[0])}, {findings.percent(budget)} of the {findings.unit_name(unit)}'
      )
      panels.append(_shots_panel(here, title, bounds))
  return panels


def _shots_panel(rows: Sequence[Row], title: str, bounds: tuple[float, float]) -> Panel:
  names, shots = methods.ordered(rows), sorted({r['shots'] for r in rows})
  room = min(0.045, 0.5 * _smallest_gap(shots) / len(names))

  def place(row: Row) -> float:
    return math.log(row['shots']) + room * (names.index(row['method']) - (len(names) - 1) / 2)

  with drawing.canvas(5.0, 3.7) as axes:
    _points(axes, rows, names, place, joined=True)
    ticks = drawing.spaced(shots)
    axes.set_xticks([math.log(s) for s in ticks], [f'{s:g}' for s in ticks])
    axes.set_ylim(*bounds)
    axes.set_xlabel('training examples per class (log scale)')
    axes.set_ylabel('accuracy')
    _numbers(axes, rows, lambda row: math.log(row['shots']), title)
    return Panel(drawing.render(axes, f'Few-shot curves, {title}: ' + _spoken(rows)))


def _points(
  axes: axes_lib.Axes,
  rows: Sequence[Row],
  names: Sequence[str],
  place: Callable[[Row], float],
  joined: bool,
) -> None:
  """Every method's means with their intervals; the learned one on top and larger."""
  for name in names:
    own = sorted((r for r in rows if r['method'] == name), key=place)
    look, main = methods.look(name, names), name == 'learned'
    width = [0.0 if math.isnan(r['half_width']) else r['half_width'] for r in own]
    axes.errorbar(
      [place(r) for r in own],
      [r['mean'] for r in own],
      yerr=width,
      color=look.colour,
      marker=look.marker,
      linestyle=look.line if joined else 'none',
      linewidth=2.0 if main else 1.0,
      markersize=6.0 if main else 4.6,
      elinewidth=1.6 if main else 1.0,
      capsize=2.0,
      zorder=5 if main else 3,
    )


def _numbers(
  axes: axes_lib.Axes, rows: Sequence[Row], place: Callable[[Row], float], title: str
) -> None:
  """The means of the learned architecture and the whole network above the axes, then the title."""
  spots = {n: {round(place(r), 6): r['mean'] for r in rows if r['method'] == n} for n in NUMBERED}
  stacked = bool(set.intersection(*(set(s) for s in spots.values())))
  for line, (name, means) in enumerate(spots.items()):
    height = 16 - 12 * line if stacked else 4
    kept = drawing.spaced([math.exp(x) for x in means], ratio=1.25)
    for x, mean in means.items():
      if any(math.isclose(math.exp(x), k) for k in kept):
        axes.annotate(
          findings.number(mean),
          (x, 1),
          (0, height),
          xycoords=axes.get_xaxis_transform(),
          textcoords='offset points',
          color=methods.look(name).colour,
          ha='center',
          fontsize=8.5,
        )
  axes.set_title(title, pad=32 if stacked else 20, fontweight='bold')


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
  widths = [0.0 if math.isnan(r['half_width']) else r['half_width'] for r in rows]
  low = [min(r['mean'] - w, r['worst']) for r, w in zip(rows, widths)]
  return drawing.limits(low, [max(r['mean'] + w, r['best']) for r, w in zip(rows, widths)])


def _spoken(rows: Sequence[Row]) -> str:
  """The numbers of the best-known methods, for an alt text; the table has the rest."""
  parts = [
    f'{methods.look(r["method"]).label} {findings.plus_minus(r["mean"], r["half_width"])} at '
    f'{r["shots"]} shots and {findings.percent(r["macs_share"])} of the MACs'
    for r in rows
    if r['method'] in ('learned', 'random', 'dense')
  ]
  return '; '.join(parts) + '. All numbers are in the table of methods.'
