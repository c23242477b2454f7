"""Plots of measured time beside the counted work."""

from __future__ import annotations

from collections.abc import Sequence

from dapt_jax.report import drawing, findings, results_plots
from dapt_jax.report.drawing import Panel
from dapt_jax.report.results_plots import Row


def latency(rows: Sequence[Row]) -> list[Panel]:
  """Measured time beside the MACs ratio, one panel per batch size.

  Args:
    rows: `ReportData.latency`.
  """
  return [
    _latency_panel(own, batch) for (batch,), own in results_plots.groups(rows, 'batch').items()
  ]


def _latency_panel(rows: Sequence[Row], batch: int) -> Panel:
  whole = max(rows, key=lambda r: r['macs_share'])
  own = sorted(rows, key=lambda r: r['macs_share'])
  base = whole['milliseconds']
  with drawing.canvas(5.0, 0.95 + 0.62 * len(own)) as axes:
    ends = []
    for y, row in enumerate(own):
      ratio, spread = row['milliseconds'] / base, row['spread'] / base
      cost = row['macs_share'] / whole['macs_share']
      axes.barh(y + 0.19, ratio, 0.34, color='#4A5A6A', label='time' if not y else None)
      axes.errorbar(ratio, y + 0.19, xerr=spread, color='#222222', capsize=2, linewidth=1)
      axes.barh(y - 0.19, cost, 0.34, color='#C9C9C9', label='MACs' if not y else None)
      text = f'{row["milliseconds"]:.3g} ± {row["spread"]:.2g} ms, {findings.percent(ratio)}'
      for end, height, label in (
        (ratio + spread, 0.19, f'time {text}'),
        (cost, -0.19, f'MACs {findings.percent(cost)}'),
      ):
        axes.annotate(label, (end, y + height), (5, 0), textcoords='offset points', va='center',
                      fontsize=8.5)  # fmt: skip
      ends.append(max(ratio + spread, cost))
    axes.set_yticks(range(len(own)), [r['name'] for r in own])
    axes.set_xlim(0, 1.62 * max(ends))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ['0', '25', '50', '75', '100'])
    axes.grid(False, axis='y')
    axes.set_xlabel('% of the whole network')
    axes.set_title(f'batch of {batch}', fontweight='bold')
    spoken = '; '.join(
      f'{r["name"]} {r["milliseconds"]:.3g} ms at {findings.percent(r["macs_share"])} of the MACs'
      for r in own
    )
    return Panel(drawing.render(axes, f'Latency for a batch of {batch}: {spoken}.'))
