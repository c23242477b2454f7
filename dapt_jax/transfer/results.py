"""Rows of transfer results: one row per network trained on one few-shot draw.

A row is a plain dict, so that it goes to CSV and JSON as it is. This module knows the columns,
reads, writes and checks rows, and arranges the accuracies of one method as a table of architectures
by draws, which is what `dapt_jax.transfer.statistics` computes with.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dapt_jax.training import writers

Row = dict[str, Any]

#: Column -> type. `budget` is a share of the whole network in `unit` ('macs' or 'params');
#: `search_seed` is -1 where nothing was searched; `draw` numbers the few-shot draw, and the same
#: draw number of a (source, target, shots) is the same examples for every method; `weights` says
#: where the first weights come from; `accuracy` is in [0, 1]; `macs`, `params` are counts and
#: `macs_share`, `params_share` the same over those of the whole network; `steps` of training.
COLUMNS: dict[str, type] = {
  'source': str,
  'target': str,
  'unit': str,
  'budget': float,
  'method': str,
  'architecture': str,
  'search_seed': int,
  'shots': int,
  'draw': int,
  'weights': str,
  'accuracy': float,
  'macs_share': float,
  'params_share': float,
  'macs': float,
  'params': float,
  'steps': float,
}
UNITS = ('macs', 'params')
#: What one table of architectures by draws has in common.
GROUP = ('source', 'target', 'unit', 'budget', 'method', 'weights', 'shots')
#: What names one row.
IDENTITY = (*GROUP, 'architecture', 'search_seed', 'draw')


@dataclasses.dataclass(frozen=True)
class Table:
  """The accuracies of one method under one condition.

  Attributes:
    condition: the columns of `GROUP`.
    accuracy: f64[architectures, draws].
    architectures: (architecture, search_seed) of every line. Two searches that ended at the same
      architecture are two lines: the search is what is repeated.
    draws: draw number of every column, increasing.
    rows: the rows it was made from.
  """

  condition: Row
  accuracy: np.ndarray
  architectures: tuple[tuple[str, int], ...]
  draws: tuple[int, ...]
  rows: tuple[Row, ...]


def describe(row: Mapping[str, Any], columns: Sequence[str] = IDENTITY) -> str:
  """`row` in one line, for messages."""
  return ', '.join(f'{name} {row[name]!r}' for name in columns if name in row)


def check_rows(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
  """The rows with every column present and of its type.

  Args:
    rows: mappings with at least the columns of `COLUMNS`; values may be text, as a CSV file has.

  Returns:
    New dicts; further columns are kept as they are.

  Raises:
    ValueError: there are no rows, a column is missing, a value has the wrong type or range, or two
      rows are of the same network on the same draw.
  """
  if not rows:
    raise ValueError('there are no result rows; run the transfer step first')
  out = [_convert(row, number) for number, row in enumerate(rows, 1)]
  seen: dict[tuple[Any, ...], int] = {}
  for number, row in enumerate(out, 1):
    first = seen.setdefault(tuple(row[name] for name in IDENTITY), number)
    if first != number:
      raise ValueError(
        f'rows {first} and {number} are the same network on the same draw ({describe(row)}); '
        'remove one, or give repeated architectures ids of their own'
      )
  return out


def _convert(row: Mapping[str, Any], number: int) -> Row:
  missing = [name for name in COLUMNS if name not in row]
  if missing:
    raise ValueError(
      f'row {number} lacks the column(s) {", ".join(missing)}; a row needs {", ".join(COLUMNS)}'
    )
  out = dict(row)
  for name, kind in COLUMNS.items():
    try:
      out[name] = kind(row[name])
      if kind is int and float(row[name]) != out[name]:
        raise ValueError
    except (TypeError, ValueError):
      raise ValueError(
        f'row {number}, column {name}: {row[name]!r} is no {kind.__name__}; correct the row'
      ) from None
  if not 0.0 <= out['accuracy'] <= 1.0:  # NaN too
    raise ValueError(
      f'row {number}: accuracy {out["accuracy"]} is not in [0, 1] ({describe(out)}); give it as a '
      'share, and leave a diverged training at the accuracy its network has'
    )
  if not 0.0 < out['budget'] <= 1.0:
    raise ValueError(f'row {number}: budget {out["budget"]} is not in (0, 1]; give it as a share')
  if out['unit'] not in UNITS:
    raise ValueError(f'row {number}: unit {out["unit"]!r} is none of {", ".join(UNITS)}')
  if out['shots'] < 1:
    raise ValueError(f'row {number}: shots {out["shots"]} is below 1; count examples per class')
  for name in ('macs_share', 'params_share', 'macs', 'params', 'steps'):
    if not (math.isfinite(out[name]) and out[name] >= 0):
      raise ValueError(f'row {number}, column {name}: {out[name]} is not a finite count or share')
  return out


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
  """Rows as one table of architectures by draws per condition, in order of first appearance.

  Raises:
    ValueError: as `check_rows`, or an architecture lacks a draw that another one of the same
      condition has: averages over different draws do not compare.
  """
  groups: dict[tuple[Any, ...], list[Row]] = {}
  for row in check_rows(rows):
    groups.setdefault(tuple(row[name] for name in GROUP), []).append(row)
  return [_table(dict(zip(GROUP, key)), members) for key, members in groups.items()]


def _table(condition: Row, rows: list[Row]) -> Table:
  cells = {((r['architecture'], r['search_seed']), r['draw']): r['accuracy'] for r in rows}
  architectures = tuple(dict.fromkeys(a for a, _ in cells))
  draws = tuple(sorted({d for _, d in cells}))
  for architecture in architectures:
    for draw in draws:
      if (architecture, draw) not in cells:
        raise ValueError(
          f'unpaired draw: {describe(condition)}: architecture {architecture[0]!r} (search seed '
          f'{architecture[1]}) has no row for draw {draw}, which another architecture has; run the '
          'missing one or leave that draw out everywhere'
        )
  accuracy = np.array([[cells[a, d] for d in draws] for a in architectures])
  return Table(condition, accuracy, architectures, draws, tuple(rows))


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
  """The result rows of a CSV file, checked.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: as `check_rows`; names the file.
  """
  with pathlib.Path(path).open(encoding='utf-8', newline='') as handle:
    rows = list(csv.DictReader(handle))
  try:
    return check_rows(rows)
  except ValueError as error:
    raise ValueError(f'{os.fspath(path)}: {error}') from error


def write_rows(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes checked result rows as CSV, all or nothing.

  Raises:
    ValueError: as `check_rows`.
  """
  writers.write_csv(path, check_rows(rows))
