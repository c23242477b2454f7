"""Sentences computed from the numbers, as plain about losses and ties as about wins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dapt_jax.report import methods
from dapt_jax.transfer import statistics

Row = Mapping[str, Any]

#: A reference is 'of equal cost' if its share is within this ratio of the learned one's.
EQUAL_COST = 0.02
_PM = '\u00a0±\u00a0'  # no line breaks inside a number and its interval
_UNITS = {'macs': 'MACs', 'params': 'parameters', 'bytes': 'bytes moved'}
_WORDS = {'win': 'win', 'loss': 'loss', 'tie': 'tie', 'unknown': 'one run'}
_PLURALS = {'win': 'wins', 'loss': 'losses', 'tie': 'ties', 'unknown': 'without interval'}


@dataclasses.dataclass(frozen=True)
class Finding:
  """One sentence of the report's head.

  Attributes:
    verdict: 'win', 'tie', 'loss', 'unknown', or 'count' for a sentence over all conditions.
    task: 'source → target', or '' for a sentence over all.
    text: the sentence.
  """

  verdict: str
  task: str
  text: str


def number(value: float, digits: int = 3) -> str:
  """A share without its leading zero: .696; 1.000 stays; NaN is a dash."""
  if math.isnan(value):
    return '–'
  text = f'{abs(value):.{digits}f}'
  zero = float(text) == 0
  return ('−' if value < 0 and not zero else '') + (text[1:] if text.startswith('0') else text)


def signed(value: float) -> str:
  """A difference with its sign: +.181, −.020."""
  text = number(value)
  return text if text.startswith(('−', '–')) else f'+{text}'


def plus_minus(value: float, half_width: float) -> str:
  """'.696 ± .020', or the value alone where there is no interval."""
  return number(value) if math.isnan(half_width) else f'{number(value)}{_PM}{number(half_width)}'


def percent(share: float) -> str:
  """16 %, 12.5 %, 0.4 %."""
  return f'{100 * share:.3g}\u00a0%'


def unit_name(unit: str) -> str:
  """'MACs' or 'parameters'."""
  return _UNITS.get(unit, unit)


def task_name(row: Row) -> str:
  """'source → target'."""
  return f'{row["source"]} → {row["target"]}'


def comparisons(rows: Sequence[Row], method: str = 'learned') -> list[dict[str, Any]]:
  """`method` against every other method it shares conditions with; see `statistics.compare`."""
  out = []
  for reference in methods.ordered(rows):
    conditions = [{(r['source'], r['target'], r['shots']) for r in rows if r['method'] == name}
                  for name in (method, reference)]  # fmt: skip
    if reference != method and conditions[0] & conditions[1]:
      out += statistics.compare(rows, method, reference)
  return out


def findings(rows: Sequence[Row], method: str = 'learned') -> list[Finding]:
  """The headline sentences.

  First one count per reference over all conditions, every loss named; then, for every task and
  budget, the fewest and the most shots in full against random architectures and the whole network
  (or whichever reference there is).

  Args:
    rows: result rows with one kind of weights per method.
    method: whose findings.
  """
  compared = comparisons(rows, method)
  summary = statistics.summarise(rows)
  out = [_count(compared, reference) for reference in _references(compared)]
  main = [r for r in ('random', 'dense') if r in _references(compared)] or _references(compared)[:1]
  groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
  for row in compared:
    if row['reference'] in main:
      key = (row['source'], row['target'], row['unit'], row['budget'])
      groups.setdefault(key, []).append(row)
  for group in groups.values():
    shots = sorted({row['shots'] for row in group})
    for row in sorted(group, key=lambda r: (r['shots'], main.index(r['reference']))):
      if row['shots'] in (shots[0], shots[-1]):
        out.append(Finding(row['verdict'], task_name(row), sentence(row, summary)))
  return out


def sentence(comparison: Row, summary: Sequence[Row]) -> str:
  """One paired comparison in words.

  Args:
    comparison: a row of `statistics.compare`.
    summary: `statistics.summarise` of the same rows.
  """
  task = ('source', 'target', 'shots')
  ours = _find(summary, comparison, comparison['method'], (*task, 'unit', 'budget'))
  theirs = _find(summary, comparison, comparison['reference'], (*task, 'unit', 'budget'), task)
  unit, look = comparison['unit'], methods.look
  mine, other = look(comparison['method']), look(comparison['reference'])
  subject = mine.phrase if ours['architectures'] == 1 else (
    f'the mean of {ours["architectures"]} {mine.plural}'
  )  # fmt: skip
  name = other.phrase if theirs['architectures'] == 1 else (
    f'the mean of {theirs["architectures"]} {other.plural}'
  )  # fmt: skip
  share = f'{unit}_share'
  if theirs[share] == 1.0:
    cost = ''
  elif abs(theirs[share] - ours[share]) <= EQUAL_COST * ours[share]:
    cost = f' of equal {unit_name(unit)}'
  else:
    cost = f' with {percent(theirs[share])} of the {unit_name(unit)}'
  difference = plus_minus(comparison['difference'], comparison['half_width'])
  difference = difference if difference.startswith(('−', '–')) else f'+{difference}'
  text = (
    f'At {_shots(comparison)} and {percent(comparison["budget"])} of the {unit_name(unit)}, '
    f'{subject} reached {plus_minus(ours["mean"], ours["half_width"])}, against '
    f'{plus_minus(theirs["mean"], theirs["half_width"])} for {name}{cost} '
    f'(paired difference {difference})'
  )
  beats = ''
  if comparison['references'] > 1:
    beats = f' and beats {comparison["beats"]} of {comparison["references"]}'
  ending = {
    'win': '.',
    'tie': ': a tie, the interval contains 0.',
    'loss': ': it loses.',
    'unknown': ': nothing was repeated, so there is no interval.',
  }
  return text + beats + ending[comparison['verdict']]


def _find(summary: Sequence[Row], like: Row, method: str, *keys: Sequence[str]) -> Row:
  """The summary row of `method` under the condition of `like`, by the first keys that match."""
  for names in keys:
    for row in summary:
      if row['method'] == method and all(row[n] == like[n] for n in names):
        return row
  raise ValueError(f'the summary has no row of {method!r} for the comparison {dict(like)}')


def _references(compared: Sequence[Row]) -> list[str]:
  return list(dict.fromkeys(row['reference'] for row in compared))


def _count(compared: Sequence[Row], reference: str) -> Finding:
  """'Against random: 14 wins, 2 ties, 0 losses.', and where the losses are."""
  own = [row for row in compared if row['reference'] == reference]
  parts = []
  for kind in ('win', 'tie', 'loss', 'unknown'):
    count = sum(row['verdict'] == kind for row in own)
    if count or kind != 'unknown':
      parts.append(f'{count} {_WORDS[kind] if count == 1 else _PLURALS[kind]}')
  many = f'{len(own)} paired comparison{"s" * (len(own) != 1)}'
  text = f'Against {methods.look(reference).label}: {", ".join(parts)} in {many}.'
  losses = [row for row in own if row['verdict'] == 'loss']
  if losses:
    worst = min(losses, key=lambda row: row['difference'])
    text += (
      f' Losses: {_places(losses)}; the largest is {signed(worst["difference"])}{_PM}'
      f'{number(worst["half_width"])} ({task_name(worst)}, {_shots(worst)}, '
      f'{percent(worst["budget"])}).'
    )
  return Finding('count', '', text)


def _places(rows: Sequence[Row]) -> str:
  """'mnist at 16 % of the MACs (10, 20 shots); ...'."""
  shots: dict[str, list[str]] = {}
  for row in rows:
    place = f'{row["target"]} at {percent(row["budget"])} of the {unit_name(row["unit"])}'
    shots.setdefault(place, []).append(str(row['shots']))
  return '; '.join(
    f'{place} ({", ".join(counts)} shot{"s" * (counts != ["1"])})'
    for place, counts in shots.items()
  )


def _shots(row: Row) -> str:
  return f'{row["shots"]} shot{"s" * (row["shots"] != 1)}'
