"""Plots of first weights: what the generator sees, accuracy without a step, and along training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dapt_jax.report import drawing, findings
from dapt_jax.report.data import floats
from dapt_jax.report.drawing import Panel

Row = Mapping[str, Any]

#: {start: colour, marker, line}; others are grey.
_LOOKS: dict[str, tuple[str, str, Any]] = {
  'generator': ('#D55E00', 'o', '-'),
  'nearest': ('#0072B2', 's', '-'),
  'best of the zoo': ('#009E73', '^', '-'),
  'random': ('#000000', 'X', (0, (5, 2))),
}
_HYPERNETWORKS = (('#CC79A7', 'D'), ('#882255', 'P'), ('#8C6D31', '*'))
_PARTS = {
  'new_classes': 'sets of classes that the zoo never saw',
  'new_view': 'views or data sets that the zoo never saw',
  'new_both': 'data sets and classes that the zoo never saw',
}


def title_of(part: Row) -> str:
  """What is new in the tasks of a part, in words."""
  return _PARTS.get(part['part'], str(part['part']))


def compared(part: Row) -> list[Row]:
  """The starts that plots show; the table has all of them."""
  shown = lambda name: name in _LOOKS or name.startswith('hypernetwork')
  return [r for r in part['rows'] if shown(r['method'])]


def looks(part: Row) -> dict[str, tuple[str, str, Any]]:
  """{start: colour, marker, line} of the starts that plots show."""
  names = [r['method'] for r in compared(part)]
  networks = [n for n in names if n not in _LOOKS]
  spare = {n: (*_HYPERNETWORKS[k % len(_HYPERNETWORKS)], '-') for k, n in enumerate(networks)}
  return {n: _LOOKS.get(n) or spare[n] for n in names}


def panels(part: Row, steps: Sequence[int], chance: float, candidates: int) -> list[Panel]:
  """The pictures of one part.

  Args:
    part: entry of `ReportData.first_weights['parts']`.
    steps: of training, at which the curves are given.
    chance: accuracy of guessing.
    candidates: draws, of which the best on the support is taken.
  """
  return [_shown(part), _zero_step(part, chance, candidates), _curves(part, steps, chance)]


def _shown(part: Row) -> Panel:
  picture = np.stack([floats(line) for line in part['shown']['images']])
  name = part['shown']['task']
  with drawing.canvas(5.0, 5.0 * picture.shape[0] / picture.shape[1] + 0.35) as axes:
    axes.imshow(picture, cmap='gray', vmin=0, vmax=1, interpolation='nearest')
    axes.set_axis_off()
    axes.set_title(f'{name}: all that is known of it', fontweight='bold')
    alt = f'Example images of the task {name}, a line of images for every label.'
    return Panel(drawing.render(axes, alt), 'One of the tasks; a line of images for every label.')


def _zero_step(part: Row, chance: float, candidates: int) -> Panel:
  rows, look = compared(part)[::-1], looks(part)
  with drawing.canvas(5.0, 1.1 + 0.34 * len(rows)) as axes:
    for y, row in enumerate(rows):
      colour, marker, _ = look[row['method']]
      best, one = row['best'], row['one']
      axes.plot([best['low'], best['high']], [y, y], color=colour, linewidth=1.6)
      axes.plot(one['mean'], y, marker, color=colour, markerfacecolor='none', markersize=6)
      axes.plot(best['mean'], y, marker, color=colour, markersize=6)
      axes.annotate(findings.number(best['mean']), (best['high'], y), (6, 0), va='center',
                    textcoords='offset points', color=colour, fontsize=8.5)  # fmt: skip
    axes.axvline(chance, color='#000000', linewidth=0.7, dashes=(2, 3), zorder=0)
    axes.set_yticks(range(len(rows)), [r['method'] for r in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(0, 1.08)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.grid(False, axis='y')
    axes.set_xlabel('accuracy on test images')
    axes.set_title('without a training step', fontweight='bold')
    spoken = '; '.join(f'{r["method"]} {findings.number(r["best"]["mean"])}' for r in rows[::-1])
    caption = (
      f'Filled: the best of {candidates} draws on the images shown (where there are draws), with '
      f'its 95 % interval over {part["tasks"]} tasks; hollow: the mean of single ones; dotted: '
      'chance.'
    )
    return Panel(drawing.render(axes, f'Accuracy without a step: {spoken}.'), caption)


def _curves(part: Row, steps: Sequence[int], chance: float) -> Panel:
  rows, look = compared(part), looks(part)
  with drawing.canvas(5.0, 3.3) as axes:
    for row in rows:
      colour, marker, line = look[row['method']]
      width = 2.0 if row['method'] == 'generator' else 1.2
      axes.plot(floats(row['curve']), color=colour, marker=marker, linestyle=line, linewidth=width)
    axes.axhline(chance, color='#000000', linewidth=0.7, dashes=(2, 3), zorder=0)
    axes.set_xticks(range(len(steps)), [str(s) for s in steps])
    axes.set_ylim(0, 1)
    axes.set_xlabel('training steps on the images shown')
    axes.set_ylabel('accuracy on test images')
    axes.set_title('along training', fontweight='bold')
    ends = '; '.join(
      f'{r["method"]} from {findings.number(r["curve"][0])} to {findings.number(r["curve"][-1])}'
      for r in rows
    )
    return Panel(drawing.render(axes, f'Accuracy along {steps[-1]} training steps: {ends}.'))
