"""Tables of what `experiments.check_generator` measured, over one seed or several.

  python -m experiments.checks_table runs/generate-0 runs/generate-1 runs/generate-2 --out=checks.md

Intervals are bootstraps over tasks and, of several seeds, over seeds as well.
"""

from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dapt_jax.weights import bootstrap, checks, novelty_report


class Part(NamedTuple):
  """What was measured on the tasks of one part.

  Attributes:
    checks: {generator: its checks}, accuracies f[T] or f[seeds, T].
    novelty: `novelty_report.Values`, f[T] or f[seeds, T].
  """

  checks: dict[str, checks.Checks]
  novelty: novelty_report.Values

  def rows(self) -> dict[str, Any]:
    """Everything as rows, JSON-ready."""
    return {
      'checks': {m: {'rows': c.rows(), 'verdicts': c.verdicts()} for m, c in self.checks.items()},
      'novelty': [
        {k: v if v == v else None for k, v in row.items()}  # NaN is no JSON
        for row in novelty_report.rows(self.novelty)
      ],
      'verdict': novelty_report.verdict(self.novelty),
    }


def save(path: str | os.PathLike[str], parts: Mapping[str, Part]) -> None:
  """Writes the figures of every task as .npz."""
  arrays: dict[str, Any] = {}
  for name, part in parts.items():
    for method, found in part.checks.items():
      arrays[f'{name}|chance|{method}'] = np.asarray(found.chance)
      arrays |= {f'{name}|check|{method}|{v}': a for v, a in found.accuracy.items()}
    arrays |= {'|'.join((name, 'novelty', *key)): a for key, a in part.novelty.items()}
  np.savez(path, **arrays)


def load(path: pathlib.Path) -> dict[str, Part]:
  """Reads what `save` wrote into a work directory.

  Raises:
    FileNotFoundError: if there is nothing.
  """
  if not (path / 'checks.npz').is_file():
    raise FileNotFoundError(
      f'{path}/checks.npz is missing; run experiments.check_generator --workdir={path} first'
    )
  accuracy: dict[str, dict[str, dict[str, np.ndarray]]] = {}
  chance: dict[tuple[str, str], float] = {}
  values: dict[str, dict[tuple[str, str, str], np.ndarray]] = {}
  with np.load(path / 'checks.npz') as file:
    for name in file.files:
      part, kind, first, *rest = name.split('|')
      if kind == 'chance':
        chance[part, first] = float(file[name])
      elif kind == 'check':
        accuracy.setdefault(part, {}).setdefault(first, {})[rest[0]] = file[name]
      else:
        values.setdefault(part, {})[first, rest[0], rest[1]] = file[name]
  return {
    part: Part({m: checks.Checks(a, chance[part, m]) for m, a in methods.items()}, values[part])
    for part, methods in accuracy.items()
  }


def stack(seeds: Sequence[Mapping[str, Part]]) -> dict[str, Part]:
  """Several seeds as one, figures f[seeds, T].

  Raises:
    ValueError: if they hold different parts, generators or measures.
  """
  names = [{(p, *m.checks, *m.novelty) for p, m in s.items()} for s in seeds]
  if any(n != names[0] for n in names):
    raise ValueError('the work directories hold different checks; make them with one configuration')
  out = {}
  for part, own in seeds[0].items():
    every = [s[part] for s in seeds]
    found = {
      m: checks.Checks(
        {v: np.stack([p.checks[m].accuracy[v] for p in every]) for v in c.accuracy}, c.chance
      )
      for m, c in own.checks.items()
    }
    out[part] = Part(found, {k: np.stack([p.novelty[k] for p in every]) for k in own.novelty})
  return out


def markdown(parts: Mapping[str, Part]) -> str:
  """Three tables for every part: accuracies, verdicts on them, novelty."""
  lines = []
  for name, part in parts.items():
    title = name.replace('_', ' ')
    versions = list(dict.fromkeys(v for c in part.checks.values() for v in c.accuracy))
    lines += _table(f'{title}, accuracy by what a generator is told', ['generator', *versions])
    for method, found in part.checks.items():
      cells = [_cell(found.accuracy[v]) if v in found.accuracy else '' for v in versions]
      lines.append(f'| {method} | ' + ' | '.join(cells) + ' |')
    names = list(dict.fromkeys(v['check'] for c in part.checks.values() for v in c.verdicts()))
    lines += _table(f'{title}, verdicts', ['generator', *names])
    for method, found in part.checks.items():
      said = {v['check']: f'{v["verdict"]} ({v["mean"]:+.3f})' for v in found.verdicts()}
      lines.append(f'| {method} | ' + ' | '.join(said.get(n, '') for n in names) + ' |')
    lines += _table(f'{title}, novelty', ['measure', 'of', 'space', 'mean [95%]'])
    for (measure, of, space), values in part.novelty.items():
      if not of.startswith('zoo + noise'):  # the figure has them
        lines.append(f'| {measure} | {of} | {space} | {_cell(values)} |')
    lines += ['', f'Verdict: {novelty_report.verdict(part.novelty)}.', '']
  return '\n'.join(lines)


def _table(title: str, columns: Sequence[str]) -> list[str]:
  head = ['', f'**{title}**', '', '| ' + ' | '.join(columns) + ' |']
  return [*head, '| --- ' * len(columns) + '|']


def _cell(values: np.ndarray) -> str:
  table = np.atleast_2d(values)
  table = table[:, np.isfinite(table).all(0)]
  if table.shape[1] < 2:
    return 'none'
  found = bootstrap.interval(table)
  return f'{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]'


def main(argv: Sequence[str] | None = None) -> None:
  """Writes the tables."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('workdirs', nargs='+', type=pathlib.Path)
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('checks.md'))
  args = parser.parse_args(argv)
  parts = [load(path) for path in args.workdirs]
  text = markdown(stack(parts))
  if len(parts) > 1:
    text += '\nEvery seed alone:\n\n' + ''.join(
      f'* {path}, {name}: {novelty_report.verdict(part.novelty)}; failed checks: {_failed(part)}\n'
      for path, own in zip(args.workdirs, parts)
      for name, part in own.items()
    )
  args.out.write_text(text, encoding='utf-8')
  print(text)


def _failed(part: Part) -> str:
  failed = [
    f'{method}: {row["check"]}'
    for method, found in part.checks.items()
    for row in found.verdicts()
    if row['verdict'] == 'failed'
  ]
  return '; '.join(failed) or 'none'


if __name__ == '__main__':
  main()
