"""The graph as a table that fits a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dapt_jax.graph import checks

if TYPE_CHECKING:
  from dapt_jax.graph.architecture import Architecture
  from dapt_jax.graph.channel_graph import ChannelGraph
  from dapt_jax.graph.groups import Group

_QUIET = ('spatial axis', 'a window slides', 'a single channel', 'a loop runs')
#: Longest cell of names, in characters; what does not fit is counted.
_CELL = 36


def table(graph: ChannelGraph, arch: Architecture | None = None, verbose: bool = False) -> str:
  """One line per group: kind, width (kept of it), writers, readers, or why it is refused.

  Args:
    graph: from `trace`.
    arch: shows how many gates of each group it keeps.
    verbose: list spatial axes and single channels as well, and all names in full.

  Returns:
    The table; lines of about 110 characters at most unless names are long.
  """
  if arch is not None:
    if not hasattr(arch, 'kept'):
      raise TypeError(f'arch is {checks.kind_of(arch)}; pass what graph.decide returns, or None')
    arch.check(graph)
  rows = [('group', 'kind', 'width', 'written by', 'read by, or why it stays whole')]
  hidden = 0
  for name, group in graph.groups.items():
    if name not in graph.gated_groups and not verbose and _is_quiet(group):
      hidden += 1
      continue
    width = str(group.width)
    if arch is not None and name in arch.kept:
      width = f'{len(arch.kept[name])}/{group.width}'
    writers, readers = _ends(graph, group, verbose)
    if name not in graph.gated_groups:
      readers = f'whole: {group.refused or "level or name not selected"}'
    short = name if verbose else _middle(name, _CELL)
    rows.append((short, group.kind, width, writers, readers))
  lines = _align(rows)
  if hidden:
    lines.append(
      f'({hidden} spatial axes, single channels and loops not shown; verbose=True shows them)'
    )
  return '\n'.join(lines + totals(graph, arch))


def totals(graph: ChannelGraph, arch: Architecture | None = None) -> list[str]:
  """The cost of the whole network, and what an architecture keeps of it, as lines of text."""
  lines = [
    f'whole network: {graph.total("params"):,.0f} parameters, {graph.total("macs"):,.0f} MACs '
    'for the traced inputs'
  ]
  if arch is not None and arch.costs:
    shares = ', '.join(f'{c["share"]:.1%} of the {unit}' for unit, c in arch.costs.items())
    lines.append(f'kept: {shares}')
  return lines


def _is_quiet(group: Group) -> bool:
  """Whether the group is no news: an axis that nobody would think of cutting."""
  return group.refused.startswith(_QUIET) and (group.width == 1 or not group.touching('write'))


def _ends(graph: ChannelGraph, group: Group, verbose: bool) -> tuple[str, str]:
  """The cells 'written by' and 'read by'."""
  if group.kind == 'branch':
    return _sum_of(graph, group.name), _carriers(graph, group)
  if group.kind == 'link':
    return '-', 'entries of ' + _carriers(graph, group)
  names = {
    role: [f'{graph.tree.names[s.leaf]}.{s.axis}' for s in group.touching(role)]
    for role in ('read', 'write', 'along')
  }
  return _shortened(names['write'] or names['along'], verbose), _shortened(names['read'], verbose)


def _sum_of(graph: ChannelGraph, name: str) -> str:
  for number, (names, is_open) in enumerate(zip(graph.sums, graph.open_sums), start=1):
    if name in names:
      others = ', others stay' if is_open else ''
      return f'sum {number} ({len(names)} gated{others})'
  return '-'


def _carriers(graph: ChannelGraph, group: Group) -> str:
  """'block/bn/{bias,scale}' for parameters of one place."""
  paths = [graph.tree.names[i].rpartition('/') for i in group.carriers]
  if len(paths) > 1 and len({head for head, _, _ in paths}) == 1 and paths[0][0]:
    return f'{paths[0][0]}/{{{",".join(tail for _, _, tail in paths)}}}'
  return ', '.join(graph.tree.names[i] for i in group.carriers)


def _shortened(names: Sequence[str], verbose: bool) -> str:
  """As many names as a cell holds, and the number of the others."""
  if verbose or not names:
    return ', '.join(names) or '-'
  shown = 1
  while shown < len(names) and len(', '.join(names[: shown + 1])) <= _CELL - 4:
    shown += 1
  text = _middle(', '.join(names[:shown]), _CELL - 4)
  return text + (f' +{len(names) - shown}' if shown < len(names) else '')


def _middle(text: str, size: int) -> str:
  """The text, its middle cut out where it is longer than `size`."""
  if len(text) <= size:
    return text
  half = (size - 1) // 2
  return f'{text[:half]}…{text[-(size - 1 - half) :]}'


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return ['  '.join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
