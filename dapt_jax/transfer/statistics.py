"""Means, intervals and paired differences of transfer results.

**Two things are repeated.** Every architecture of a method (12 random ones, or one per search seed)
is trained on the same few-shot draws, so an accuracy is `mean + architecture + draw + rest`, two
crossed random factors. Treating the architectures x draws accuracies as independent is wrong twice:
all networks of a hard draw suffer together, and so do all draws of a bad architecture. With
`A` architectures and `D` draws the variance of the overall mean is estimated by

    V = V_draw + V_arch - V_rest,
    V_draw = variance of the D means over architectures / D,
    V_arch = variance of the A means over draws / A,
    V_rest = variance of the doubly centred table, on (A-1)(D-1) degrees, / (A D),

which is unbiased (`V_draw` and `V_arch` both contain the rest, so it is taken off once), and never
less than the wider of the two one-way clusterings, `max(V_draw, V_arch)`: with few repetitions the
difference can fall below what a single factor alone already shows. Degrees of freedom are
Satterthwaite's, never fewer than the smaller factor has. A bootstrap was not taken: over 3 search
seeds its variance is a third too small, and it has no heavier tails to make up for few repetitions.
Where a factor is not repeated (one architecture, one draw) the interval speaks for the other alone.

Differences between methods are taken draw by draw, which removes what both share of a draw; if the
architectures of both carry the same ids and search seeds (other first weights, or each search's own
choice shuffled), architecture by architecture too, which is as valid where nothing is shared.
Intervals are 95% and per comparison: nothing is corrected for the number of comparisons.

Reference: F. E. Satterthwaite, "An approximate distribution of estimates of variance components",
1946; A. C. Cameron, J. B. Gelbach, D. L. Miller, "Robust inference with multiway clustering", 2011.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from dapt_jax.transfer import results
from dapt_jax.transfer.results import Row, Table

read_rows = results.read_rows
write_rows = results.write_rows

CONFIDENCE = 0.95


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
  """Mean and interval per (source, target, unit, budget, method, weights, shots).

  Args:
    rows: result rows, see `dapt_jax.transfer.results.COLUMNS`.

  Returns:
    One dict per condition with its columns and: `mean` accuracy; `half_width` of its 95% interval
    (NaN if neither draws nor architectures are repeated); `draws`; `architectures` (searches that
    ended alike count each); `worst` and `best` over the architectures' own means; the means of
    `macs_share`, `params_share`, `macs`, `params`, `steps`.

  Raises:
    ValueError: a missing column, a duplicate, or an unpaired draw.
  """
  return [_summary(table) for table in results.tables(rows)]


def _summary(table: Table) -> Row:
  means = table.accuracy.mean(axis=1)
  sizes = ('macs_share', 'params_share', 'macs', 'params', 'steps')
  return {
    **table.condition,
    'mean': float(means.mean()),
    'half_width': half_width([table.accuracy]),
    'draws': len(table.draws),
    'architectures': len(table.architectures),
    'worst': float(means.min()),
    'best': float(means.max()),
    **{name: float(np.mean([row[name] for row in table.rows])) for name in sizes},
  }


def half_width(accuracies: Sequence[np.ndarray]) -> float:
  """Half the width of the 95% interval of a mean, or of the difference of two.

  Args:
    accuracies: one table f[architectures, draws], or two with the same draws whose difference of
      means is asked for. For tables paired in architectures too, pass their difference as one.

  Returns:
    The half width; NaN if nothing is repeated.
  """
  tables = [np.asarray(a, np.float64) for a in accuracies]
  signs = (1.0, -1.0)
  by_draw = sum(sign * table.mean(axis=0) for sign, table in zip(signs, tables))
  draws = len(by_draw)
  terms: list[tuple[float, int]] = []  # (signed share of the variance, degrees of freedom)
  if draws > 1:
    terms.append((float(np.var(by_draw, ddof=1)) / draws, draws - 1))
  between = 0.0
  for table in tables:
    count = len(table)
    if count == 1:
      continue
    by_architecture = table.mean(axis=1)
    share = float(np.var(by_architecture, ddof=1)) / count
    between += share
    terms.append((share, count - 1))
    if draws > 1:
      rest = table - by_architecture[:, None] - table.mean(axis=0) + table.mean()
      freedom = (count - 1) * (draws - 1)
      terms.append((-float(np.sum(rest**2)) / freedom / (count * draws), freedom))
  if not terms:
    return math.nan
  floor = max(between, terms[0][0])
  variance = max(sum(share for share, _ in terms), floor)
  if variance == 0.0:
    return 0.0
  satterthwaite = variance**2 / sum(share**2 / freedom for share, freedom in terms)
  effective = max(satterthwaite, min(freedom for _, freedom in terms))
  return float(stats.t.ppf(0.5 + CONFIDENCE / 2, effective) * math.sqrt(variance))


def compare(rows: Sequence[Mapping[str, Any]], method: str, reference: str) -> list[Row]:
  """Differences `method - reference`, paired by draw.

  A reference is looked up at the same unit and budget; one that is never cut (all its rows of that
  source and target have budget 1: the whole network) is compared at every budget.

  Args:
    rows: result rows, see `dapt_jax.transfer.results.COLUMNS`.
    method: value of the column `method`, for instance 'learned'.
    reference: the method it is measured against, for instance 'random'.

  Returns:
    One dict per condition that both have, with `source`, `target`, `unit`, `budget`, `shots`,
    `method`, `reference`; `mean` and `reference_mean`; `difference` and its 95% `half_width`;
    `verdict`: 'win' or 'loss' if the interval leaves zero out, else 'tie' ('unknown' if nothing is
    repeated); `beats` of `references`: how many of the reference's architectures have a mean below
    the method's mean; `draws`, `architectures` of the method.

  Raises:
    ValueError: bad rows; a method without rows, or with first weights of several kinds; no
      condition in common; draws that only one of the two has.
  """
  tables = results.tables(rows)
  ours, theirs = (_of(tables, name) for name in (method, reference))
  pairs = [(a, b) for a in ours if (b := _match(a, theirs)) is not None]
  if not pairs:
    raise ValueError(
      f'{method!r} and {reference!r} share no source, target, unit, budget and shots; the '
      f'reference has {results.describe(theirs[0].condition)}: run it under the same conditions'
    )
  return [_difference(a, b) for a, b in pairs]


def _of(tables: Sequence[Table], method: str) -> list[Table]:
  found = [table for table in tables if table.condition['method'] == method]
  if not found:
    known = ', '.join(dict.fromkeys(t.condition['method'] for t in tables))
    raise ValueError(f'no rows of method {method!r}; there are rows of {known}')
  kinds = sorted({t.condition['weights'] for t in found})
  if len(kinds) > 1:
    raise ValueError(
      f'method {method!r} has rows with weights {" and ".join(kinds)}; pass rows of one kind, or '
      'give them method names of their own'
    )
  return found


def _match(table: Table, references: Sequence[Table]) -> Table | None:
  """The reference's table under the same condition; at budget 1 if it is the whole network."""
  task = ('source', 'target', 'shots')
  same_task = [r for r in references if all(r.condition[n] == table.condition[n] for n in task)]
  for candidate in same_task:
    if all(candidate.condition[n] == table.condition[n] for n in ('unit', 'budget')):
      return candidate
  whole = all(candidate.condition['budget'] == 1.0 for candidate in same_task)
  # The whole network is the same in every unit; prefer the unit asked for.
  same_task.sort(key=lambda c: c.condition['unit'] != table.condition['unit'])
  return same_task[0] if same_task and whole else None


def _difference(ours: Table, theirs: Table) -> Row:
  condition = ours.condition
  if ours.draws != theirs.draws:
    alone = sorted(set(ours.draws) ^ set(theirs.draws))
    raise ValueError(
      f'unpaired draw(s) {alone}: {results.describe(condition)} has draws {list(ours.draws)}, '
      f'{theirs.condition["method"]!r} has {list(theirs.draws)}; run both on the same draws'
    )
  mean, means = float(ours.accuracy.mean()), theirs.accuracy.mean(axis=1)
  if sorted(ours.architectures) == sorted(theirs.architectures):
    order = [theirs.architectures.index(a) for a in ours.architectures]
    width = half_width([ours.accuracy - theirs.accuracy[order]])
  else:
    width = half_width([ours.accuracy, theirs.accuracy])
  difference = mean - float(means.mean())
  return {
    **{name: condition[name] for name in ('source', 'target', 'unit', 'budget', 'shots', 'method')},
    'reference': theirs.condition['method'],
    'mean': mean,
    'reference_mean': float(means.mean()),
    'difference': difference,
    'half_width': width,
    'verdict': verdict(difference, width),
    'beats': int(np.sum(means < mean)),
    'references': len(means),
    'draws': len(ours.draws),
    'architectures': len(ours.architectures),
  }


def verdict(difference: float, width: float) -> str:
  """'win', 'loss', or 'tie' if `difference` +- `width` contains 0; 'unknown' without a width."""
  if math.isnan(width):
    return 'unknown'
  if abs(difference) <= width:
    return 'tie'
  return 'win' if difference > 0 else 'loss'
