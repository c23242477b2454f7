"""Tables of first weights over several seeds, with paired intervals over seeds and tasks.

  python -m experiments.starts_table runs/generate-0 runs/generate-1 runs/generate-2 --out=starts.md

Reads what `experiments.compare_starts` left in each work directory. Writes Markdown and, beside it,
a plot of the accuracy along fine-tuning (`.svg`).
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps, figure

from dapt_jax.weights import bootstrap

#: {kind of accuracy: what it is called}
_KINDS = {'one': 'one start', 'best': 'best on support', 'ensemble': 'ensemble'}
_REFERENCE, _PLAIN = 'generator', 'random'

Table = dict[str, dict[str, np.ndarray]]


def load(paths: Sequence[pathlib.Path]) -> dict[str, Table]:
  """{part: {method: arrays}}: 'one', 'best', 'ensemble' [seeds, tasks], curves [.., steps, tasks].

  Raises:
    FileNotFoundError: if a directory holds no comparison.
    ValueError: if they hold different methods.
  """
  files = []
  for path in paths:
    if not (path / 'starts.npz').is_file():
      raise FileNotFoundError(
        f'{path}/starts.npz is missing; run experiments.compare_starts --workdir={path} first'
      )
    with np.load(path / 'starts.npz') as file:
      files.append({name: file[name] for name in file.files if name != 'steps'})
  if any(set(f) != set(files[0]) for f in files):
    raise ValueError(f'{[str(p) for p in paths]} hold different methods; compare them anew')
  out: dict[str, Table] = {}
  for name in files[0]:
    part, method, kind = name.split('|')
    arrays = [f[name].mean(1) if kind == 'all' else f[name] for f in files]
    shown = 'one' if kind == 'all' else kind
    out.setdefault(part, {}).setdefault(method, {})[shown] = np.stack(arrays)
  return out


def markdown(parts: Mapping[str, Table], steps: Sequence[int]) -> str:
  """A table of zero-step accuracies and one along fine-tuning for every part.

  The last column of the second says how many steps of training random first weights take to be as
  good as a start is without any, out of the steps that were looked at.
  """
  lines = []
  for part, methods in parts.items():
    lines += [f'**{part}**, accuracy without a gradient step', '']
    lines += ['| start | ' + ' | '.join(_KINDS.values()) + ' |', '| --- ' * (1 + len(_KINDS)) + '|']
    columns = {
      kind: bootstrap.compare({m: seen[kind] for m, seen in methods.items()}, _REFERENCE)
      for kind in _KINDS
    }
    for number, method in enumerate(methods):
      cells = [_cell(columns[kind][number]) for kind in _KINDS]
      lines.append(f'| {method} | ' + ' | '.join(cells) + ' |')
    lines += ['', f'**{part}**, best start, after so many steps on the support images', '']
    titles = [*map(str, steps), f'steps that {_PLAIN} needs to match 0']
    lines += ['| start | ' + ' | '.join(titles) + ' |', '| --- ' * (1 + len(titles)) + '|']
    plain = methods[_PLAIN]['best curve'].mean((0, 2))
    for method, seen in methods.items():
      curve = seen['best curve'].mean((0, 2))
      cells = [f'{a:.3f}'.lstrip('0') for a in curve]
      lines.append(f'| {method} | ' + ' | '.join([*cells, needed(plain, steps, curve[0])]) + ' |')
    lines.append('')
  return '\n'.join(lines)


def needed(curve: np.ndarray, steps: Sequence[int], accuracy: float) -> str:
  """The first of the steps at which a curve f32[steps] has this accuracy, or that none has."""
  reached = np.flatnonzero(np.asarray(curve) >= accuracy)
  return str(steps[reached[0]]) if len(reached) else f'> {steps[-1]}'


def _cell(row: Mapping[str, float | str]) -> str:
  sign = {'win': ' (above)', 'loss': ' (below)', 'tie': ' (=)'}.get(str(row['verdict']), '')
  shown = [f'{float(row[k]):.3f}'.lstrip('0') for k in ('mean', 'low', 'high')]
  return f'{shown[0]} [{shown[1]}, {shown[2]}]{sign}'


def plot(parts: Mapping[str, Table], steps: Sequence[int]) -> figure.Figure:
  """Accuracy along fine-tuning, a panel a part."""
  page = figure.Figure(figsize=(5.2 * len(parts) + 2.4, 4.2), layout='constrained')
  panels = np.atleast_1d(page.subplots(1, len(parts), sharey=True))
  for panel, (part, methods) in zip(panels, parts.items()):
    for number, (method, seen) in enumerate(methods.items()):
      strong = method.startswith(('generator', 'hypernetwork'))
      panel.plot(
        range(len(steps)),
        seen['best curve'].mean((0, 2)),
        label=method,
        color='black' if method == _REFERENCE else colormaps['tab20'](number % 20),
        linewidth=2 if strong else 1,
        linestyle='-' if strong else '--',
      )
    panel.set_xticks(range(len(steps)), [str(s) for s in steps])
    panel.set_title(part.replace('_', ' '))
    panel.set_xlabel('steps on the support images')
    panel.grid(alpha=0.3)
  panels[0].set_ylabel('accuracy on test images')
  page.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc='outside right center')
  return page


def main(argv: Sequence[str] | None = None) -> None:
  """Writes the tables and the plot."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('workdirs', nargs='+', type=pathlib.Path)
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('starts.md'))
  args = parser.parse_args(argv)
  parts = load(args.workdirs)
  with np.load(args.workdirs[0] / 'starts.npz') as file:
    steps = file['steps'].tolist()
  args.out.write_text(markdown(parts, steps), encoding='utf-8')
  plot(parts, steps).savefig(args.out.with_suffix('.svg'))
  print(args.out.read_text(encoding='utf-8'))


if __name__ == '__main__':
  main()
