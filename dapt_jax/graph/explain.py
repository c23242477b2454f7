"""The graph as a table that users can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from dapt_jax.graph.architecture import Architecture
  from dapt_jax.graph.channel_graph import ChannelGraph
  from dapt_jax.graph.groups import Group

_QUIET = ('spatial axis', 'a window slides', 'a single channel')


def table(graph: ChannelGraph, arch: Architecture | None = None, verbose: bool = False) -> str:
  """One line per group: kind, width (kept of it), writers, readers, or why it is refused.

  Args:
    graph: from `trace`.
    arch: shows how many gates of each group it keeps.
    verbose: list spatial axes, single channels and groups of levels not asked for as well.
  """
  gated = graph.gated_groups
  rows = [('group', 'kind', 'width', 'written by', 'read by / reason')]
  hidden = 0
  for name, group in graph.groups.items():
    if name not in gated and not verbose and group.refused.startswith(_QUIET):
      hidden += 1
      continue
    width = str(group.width)
    if arch is not None and name in arch.kept:
      width = f'{len(arch.kept[name])}/{group.width}'
    reason = '' if name in gated else f'[whole: {group.refused or "level not selected"}] '
    readers = _leaves(graph, group, ('read',)) or _carried(graph, group)
    writers = _leaves(graph, group, ('write', 'along')) or '-'
    rows.append((name, group.kind, width, writers, reason + readers))
  lines = _align(rows)
  for names, is_open in zip(graph.sums, graph.open_sums):
    lines.append(f'sum of {len(names)} gated summands{" and others" if is_open else ""}: '
                 + ', '.join(names))
  if hidden:
    lines.append(f'({hidden} spatial axes and single channels not shown; verbose=True shows them)')
  shares = {u: graph.total(u) for u in ('params', 'macs')}
  lines.append(f'whole network: {shares["params"]:,.0f} parameters, {shares["macs"]:,.0f} MACs '
               'for the traced inputs')
  return '\n'.join(lines)


def _leaves(graph: ChannelGraph, group: Group, roles: tuple[str, ...]) -> str:
  names = [
    f'{graph.tree.names[s.leaf]}.{s.axis}' for role in roles for s in group.touching(role)
  ]
  return ', '.join(names[:3]) + (f' +{len(names) - 3}' if len(names) > 3 else '')


def _carried(graph: ChannelGraph, group: Group) -> str:
  return 'carried by ' + ', '.join(graph.tree.names[i] for i in group.carriers) if (
    group.carriers
  ) else ''


def _align(rows: list[tuple[str, ...]]) -> list[str]:
  widths = np.max([[len(c) for c in row] for row in rows], axis=0)
  return ['  '.join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
