"""The results as Markdown tables, to paste into a paper's draft or a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dapt_jax.report import findings, methods
from dapt_jax.transfer import statistics

Row = Mapping[str, Any]
#: What follows an accuracy: how `learned` compares with it.
_SIGNS = {'win': ' (+)', 'tie': ' (=)', 'loss': ' (-)', 'unknown': ''}


def tables(rows: Sequence[Row], method: str = 'learned') -> str:
  """One table per task and budget: methods against shots.

  A cell is mean accuracy and 95% interval, then whether `method` wins against it, ties or loses in
  the paired comparison, and how many of several architectures `method` beats.

  Args:
    rows: result rows with one kind of weights per method.
    method: the one that is compared with all others.

  Returns:
    Markdown text.
  """
  compared = {
    (r['source'], r['target'], r['unit'], r['budget'], r['shots'], r['reference']): r
    for r in findings.comparisons(rows, method)
  }
  summary = statistics.summarise(rows)
  places = [r for r in summary if r['method'] == method]
  out = []
  for place in {(r['source'], r['target'], r['unit'], r['budget']): r for r in places}.values():
    out.append(_table(place, summary, compared, methods.ordered(rows)))
  return '\n'.join(out)


def _table(
  place: Row, summary: Sequence[Row], compared: Mapping[Any, Row], names: Sequence[str]
) -> str:
  task = (place['source'], place['target'])
  here = [r for r in summary if (r['source'], r['target']) == task]
  shots = sorted({r['shots'] for r in here if r['method'] == place['method']})
  unit, budget = place['unit'], place['budget']
  cost = f'{findings.percent(budget)} of the {findings.unit_name(unit)}'
  lines = [
    f'**{findings.task_name(place)}, {cost}**',
    '',
    '| | ' + ' | '.join(f'{s} shot{"s" * (s != 1)}' for s in shots) + f' | {unit} | params |',
    '| --- |' + ' --- |' * (len(shots) + 2),
  ]
  for name in names:
    own = [r for r in here if r['method'] == name and r['budget'] in (budget, 1.0)]
    exact = [r for r in own if r['budget'] == budget] or own
    if not exact:
      continue
    count = exact[0]['architectures']
    label = methods.look(name).label + (f' ({count})' if count > 1 else '')
    by_shots = {r['shots']: r for r in exact}
    cells = [
      _cell(by_shots[s], compared.get((*task, unit, budget, s, name))) if s in by_shots else ''
      for s in shots
    ]
    sizes = [f'{r:.1%}' for r in (exact[0][f'{unit}_share'], exact[0]['params_share'])]
    lines.append('| ' + ' | '.join([label, *cells, *sizes]) + ' |')
  return '\n'.join(lines) + '\n'


def _cell(row: Row, comparison: Row | None) -> str:
  text = findings.plus_minus(row['mean'], row['half_width'])
  if comparison is None:
    return text
  beaten = f' {comparison["beats"]}/{comparison["references"]}'
  return text + _SIGNS[comparison['verdict']] + (beaten if comparison['references'] > 1 else '')
