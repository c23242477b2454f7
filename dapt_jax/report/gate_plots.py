"""Plots of the gates themselves: their probabilities over time, and input gates as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colors, ticker

from dapt_jax.report import drawing, findings, search_plots
from dapt_jax.report.data import floats
from dapt_jax.report.drawing import Panel
from dapt_jax.report.search_plots import Search

_BINS = 20


def gate_histograms(searches: Sequence[Search]) -> list[Panel]:
  """Time x probability heat maps, per budget and kind of gate, pooled over equal recordings."""
  panels = []
  for (unit, budget), group in search_plots.by_budget(searches).items():
    for kind in ('branch', 'channel'):
      recorded = [(s, g) for s in group if (g := _gates_of(s, kind)) is not None]
      if not recorded:
        continue
      steps = recorded[0][0]['gate_history']['step']
      pooled = [(s, g) for s, g in recorded if s['gate_history']['step'] == steps]
      values = np.concatenate([g for _, g in pooled], axis=1)
      seeds = ', '.join(str(s['seed']) for s, _ in pooled)
      title = f'{kind} gates, {search_plots.budget_title(unit, budget)}'
      caption = f'{values.shape[1]} gates; seed{"s" * (len(pooled) > 1)} {seeds}.'
      panels.append(_heat_map(floats(steps), values, title, caption))
  return panels


def _gates_of(search: Search, kind: str) -> np.ndarray | None:
  """Recorded probabilities of all groups of a kind, f64[time, gates]."""
  history = search.get('gate_history')
  if not history or not len(history['step']):
    return None
  names = {layer['group'] for layer in search['layers'] if layer['kind'] == kind}
  found = [
    np.stack([floats(line) for line in values])
    for group, values in history['probabilities'].items()
    if group in names
  ]
  return np.concatenate(found, axis=1) if found else None


def _heat_map(steps: np.ndarray, values: np.ndarray, title: str, caption: str) -> Panel:
  edges = np.linspace(0, 1, _BINS + 1)
  shares = np.stack([np.histogram(line, edges)[0] for line in values], axis=1) / values.shape[1]
  middles = (steps[1:] + steps[:-1]) / 2
  times = np.concatenate([steps[:1], middles, steps[-1:]])
  if len(steps) == 1:
    times = np.array([steps[0] - 0.5, steps[0] + 0.5])
  with drawing.canvas(4.6, 3.0) as axes:
    norm = colors.PowerNorm(0.5, 0, 100)  # a few gates on their way must still show
    mesh = axes.pcolormesh(times, edges, 100 * shares, cmap='Blues', norm=norm, rasterized=True)
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(mesh, ax=axes, ticks=[0, 5, 25, 50, 100])
    bar.set_label('% of the gates')
    axes.grid(False)
    axes.set_xlabel('search step')
    axes.set_ylabel('gate probability')
    axes.set_title(title, fontweight='bold')
    settled = np.mean((values[-1] < 0.05) | (values[-1] > 0.95))
    caption += f' At the end {findings.percent(settled)} are below .05 or above .95.'
    return Panel(drawing.render(axes, f'Histogram over time, {title}: {caption}'), caption)


def input_gates(searches: Sequence[Search]) -> list[Panel]:
  """The learned input gates as pictures, for the searches that have them."""
  panels = []
  for (unit, budget), group in search_plots.by_budget(searches).items():
    for search in group:
      if search.get('input_gates') is None:
        continue
      picture = np.stack([floats(line) for line in search['input_gates']])
      title = f'{search_plots.budget_title(unit, budget)}: {search_plots.title_of(search)}'
      with drawing.canvas(4.0, 3.2) as axes:
        image = axes.imshow(picture, cmap='gray', vmin=0, vmax=1, interpolation='nearest')
        figure = axes.get_figure()
        assert figure is not None
        figure.colorbar(image, ax=axes).set_label('gate (1 = the pixel is read)')
        axes.grid(False)
        for axis in (axes.xaxis, axes.yaxis):
          axis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        axes.set_xlabel('pixel column')
        axes.set_ylabel('pixel row')
        axes.set_title(title, fontweight='bold')
        height, width = picture.shape
        alt = (
          f'Input gates, {title}: {int((picture > 0.5).sum())} of {height * width} pixels are read.'
        )
        panels.append(Panel(drawing.render(axes, alt), alt.split(': ')[-1]))
  return panels
