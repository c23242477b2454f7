"""Plots of how the searches went and what they chose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import patches, ticker

from dapt_jax.report import drawing, findings
from dapt_jax.report.data import floats
from dapt_jax.report.drawing import Panel

Search = Mapping[str, Any]

#: Shades of the learned architecture's colour for the searches; told apart by line style as well.
_COLOURS = ('#6B2E00', '#D55E00', '#F0A875', '#A8500A', '#3F1B00', '#E6C3A5')
_LINES = ('-', (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)))
_KEPT, _GONE = '#D55E00', '#ffffff'


def by_budget(searches: Sequence[Search]) -> dict[tuple[str, float], list[Search]]:
  """The searches of every (unit, budget), sorted."""
  out: dict[tuple[str, float], list[Search]] = {}
  for search in searches:
    out.setdefault((search['unit'], float(search['budget'])), []).append(search)
  return dict(sorted(out.items()))


def title_of(search: Search) -> str:
  """'learned, seed 0'."""
  return f'{search["name"]}, seed {search["seed"]}'


def budget_title(unit: str, budget: float) -> str:
  """'16 % of the MACs'."""
  return f'{findings.percent(budget)} of the {findings.unit_name(unit)}'


def courses(searches: Sequence[Search]) -> list[Panel]:
  """Loss, cost and multiplier against steps; per budget one panel each."""
  panels = []
  for (unit, budget), group in by_budget(searches).items():
    with_history = [s for s in group if s.get('history') and len(s['history']['step'])]
    if not with_history:
      continue
    where = budget_title(unit, budget)
    for key, label in (
      ('loss', 'search loss'),
      ('cost', f'{findings.unit_name(unit)} (% of the whole)'),
      ('multiplier', 'multiplier of the cost'),
    ):
      panels.append(_course(with_history, key, label, where, budget))
  return panels


def _course(searches: Sequence[Search], key: str, label: str, where: str, budget: float) -> Panel:
  scale = 100.0 if key == 'cost' else 1.0
  ends = []
  with drawing.canvas(4.4, 3.0) as axes:
    for index, search in enumerate(searches):
      values = scale * floats(search['history'][key])
      style: Any = {'color': _COLOURS[index % 6], 'linestyle': _LINES[index % 4]}
      axes.plot(floats(search['history']['step']), values, label=title_of(search), **style)
      ends.append(f'{title_of(search)} ends at {values[-1]:.3g}')
    if key == 'cost':
      axes.axhline(100 * budget, color='#000000', linewidth=1, dashes=(2, 2))
      axes.annotate(
        f'budget {findings.percent(budget)}',
        (1, 100 * budget),
        (-2, 6),
        xycoords=axes.get_yaxis_transform(),
        textcoords='offset points',
        ha='right',
        fontsize=8.5,
      )
      axes.set_ylim(bottom=0)
    axes.set_xlabel('search step')
    axes.set_ylabel(label)
    axes.set_title(where, fontweight='bold')
    axes.margins(x=0.01)
    if len(searches) > 1 and key == 'loss':
      axes.legend(frameon=False, fontsize=8.5)
    return Panel(drawing.render(axes, f'{label} against steps, {where}: {"; ".join(ends)}.'))


def operator(layer: Mapping[str, Any]) -> str:
  """The operator that a branch group stands for: the part of its path after the layer's name."""
  if 'operator' in layer:
    return str(layer['operator'])
  parts = [p for p in re.split(r'[:/.]', layer['group']) if p]
  if layer['layer'] in parts and parts.index(layer['layer']) + 1 < len(parts):
    return parts[parts.index(layer['layer']) + 1]
  return str(layer['group'])


def operators(searches: Sequence[Search]) -> list[Panel]:
  """Cells x operators, filled where kept: one panel per search with branch gates."""
  panels = []
  for (unit, budget), group in by_budget(searches).items():
    for search in group:
      branches = [layer for layer in search['layers'] if layer['kind'] == 'branch']
      if branches:
        title = f'{budget_title(unit, budget)}: {title_of(search)}'
        panels.append(_operator_grid(branches, title))
  return panels


def _operator_grid(branches: Sequence[Mapping[str, Any]], title: str) -> Panel:
  cells = list(dict.fromkeys(b['layer'] for b in branches))
  names = list(dict.fromkeys(operator(b) for b in branches))
  kept: dict[str, list[str]] = {cell: [] for cell in cells}
  with drawing.canvas(4.6, 1.15 + 0.34 * len(cells)) as axes:
    for branch in branches:
      x, y = names.index(operator(branch)), cells.index(branch['layer'])
      share = branch['kept'] / branch['width'] if branch['width'] else 0.0
      box: Any = {'facecolor': _KEPT if share else _GONE, 'edgecolor': '#999999', 'linewidth': 0.8}
      axes.add_patch(patches.Rectangle((x - 0.42, y - 0.4), 0.84, 0.8, **box))
      if share:
        kept[branch['layer']].append(operator(branch))
        text = '✓' if share == 1 else f'{branch["kept"]}/{branch["width"]}'
        axes.text(x, y, text, color='#ffffff', ha='center', va='center', fontsize=8.5)
    _grid_axes(axes, names, cells)
    axes.set_title(title, fontweight='bold')
    spoken = '; '.join(f'{c} keeps {", ".join(k) if k else "nothing"}' for c, k in kept.items())
    return Panel(drawing.render(axes, f'Operators kept, {title}: {spoken}.'))


def _grid_axes(axes: axes_lib.Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
  axes.set_xlim(-0.55, len(columns) - 0.45)
  axes.set_ylim(len(rows) - 0.5, -0.5)
  axes.set_xticks(range(len(columns)), columns, rotation=35, ha='right', rotation_mode='anchor')
  axes.set_yticks(range(len(rows)), rows)
  axes.tick_params(length=0)
  axes.grid(False)
  for spine in axes.spines.values():
    spine.set_visible(False)


def pictures(searches: Sequence[Search]) -> list[Panel]:
  """The cut networks, drawn layer by layer: one panel per search that brings its picture."""
  return [
    Panel(
      search['picture'].replace(' xmlns="http://www.w3.org/2000/svg"', ''),
      f'{budget_title(unit, budget)}: {title_of(search)}',
    )
    for (unit, budget), group in by_budget(searches).items()
    for search in group
    if search.get('picture')
  ]


def widths(searches: Sequence[Search]) -> list[Panel]:
  """Kept beside original width of every layer that is no branch: one panel per budget."""
  panels = []
  for (unit, budget), group in by_budget(searches).items():
    layers: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for index, search in enumerate(group):
      for layer in search['layers']:
        if layer['kind'] in ('channel', 'link', 'input'):
          key = (layer['group'], _layer_label(layer, search['layers']))
          layers.setdefault(key, []).append((index, layer['kept'], layer['width']))
    if layers:
      panels.append(_width_bars(layers, group, budget_title(unit, budget)))
  return panels


def _layer_label(layer: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> str:
  """The layer's name, with the rest of its group's path where two groups share the name."""
  same = [o for o in layers if o['layer'] == layer['layer'] and o['kind'] == layer['kind']]
  return str(layer['layer']) if len(same) == 1 else f'{layer["layer"]}: {operator(layer)}'


def _width_bars(
  layers: Mapping[tuple[str, str], Sequence[tuple[int, int, int]]],
  searches: Sequence[Search],
  where: str,
) -> Panel:
  bar = 0.78 / len(searches)
  spoken = []
  with drawing.canvas(5.0, 1.0 + (0.22 + 0.13 * len(searches)) * len(layers)) as axes:
    widest = max(width for kept in layers.values() for _, _, width in kept)
    for y, ((_, name), kept) in enumerate(layers.items()):
      width = kept[0][2]
      axes.barh(y, width, 0.86, color='#eeeeee', edgecolor='#aaaaaa', linewidth=0.7)
      for index, count, _ in kept:
        middle = y + bar * (index - (len(searches) - 1) / 2)
        axes.barh(middle, count, bar * 0.9, color=_COLOURS[index % 6])
      text = ', '.join(str(count) for _, count, _ in kept) + f' of {width}'
      axes.annotate(text, (width, y), (5, 0), textcoords='offset points', va='center', fontsize=8.5)
      spoken.append(f'{name} keeps {text}')
    axes.set_yticks(range(len(layers)), [name for _, name in layers])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, (1.23 + 0.05 * len(searches)) * widest)
    ticks = ticker.MaxNLocator(5, integer=True).tick_values(0, widest)
    axes.set_xticks([t for t in ticks if t <= widest])
    axes.grid(False, axis='y')
    axes.set_xlabel('channels: whole network (grey), kept (colour)')
    axes.set_title(where, fontweight='bold')
    order = '; '.join(map(title_of, searches))
    caption = f'Bars and numbers of a layer in this order: {order}.'
    alt = f'Widths kept, {where}. {caption} {"; ".join(spoken)}.'
    return Panel(drawing.render(axes, alt), caption)
