"""Colours of a picture: one for every group, and one for groups that repeated blocks repeat."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dapt_jax.graph.picture import names as names_lib
from dapt_jax.graph.picture.diagram import Diagram, Item, Masks

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph

#: Told apart by colour-blind readers (after Okabe and Ito, 2008, and Tol, 2021), on white and on
#: black; numbers beside them tell apart groups that share a colour.
COLOURS = (
  *('#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00', '#5D4FA0', '#A3A12C'),
  *('#99264F', '#44AA99'),
)
#: Too pale for white numbers.
_PALE = ('#E69F00', '#56B4E9', '#A3A12C', '#CC79A7', '#44AA99')


@dataclasses.dataclass(frozen=True)
class Entry:
  """One line of the legend.

  Attributes:
    number: from 1 on; stands beside the colour.
    kind: 'channel', 'branch', ...
    groups: names of the groups, several only where a repeated block stands for them.
    text: their name in short.
    widths: before, and after the cut if there is one: '16', '16 → 4…14'; of branches '3/9 kept'.
  """

  number: int
  kind: str
  groups: tuple[str, ...]
  text: str
  widths: str

  @property
  def colour(self) -> str:
    """As '#rrggbb'."""
    return COLOURS[(self.number - 1) % len(COLOURS)]

  @property
  def is_cut(self) -> bool:
    """Whether it is a branch of which nothing stays."""
    return self.kind == 'branch' and self.widths.startswith(('cut', '0/'))

  @property
  def ink(self) -> str:
    """Colour of what is written on it."""
    return '#111111' if self.colour in _PALE else '#ffffff'


def entries(graph: ChannelGraph, diagram: Diagram, masks: Masks | None) -> dict[str, Entry]:
  """The legend: {name of a gated group: its entry}, in the order of the program.

  Args:
    graph: the whole graph.
    diagram: with repeated blocks folded.
    masks: {group: f32[width]} of an architecture, or None.
  """
  found: dict[str, Entry] = {}
  for group, same in _alike(graph, diagram).items():
    if group in found:
      continue
    number = len(set(map(id, found.values()))) + 1
    kind = graph.groups[group].kind
    widths = _widths(graph, same, masks)
    entry = Entry(number, kind, tuple(same), names_lib.summary(same), widths)
    found.update(dict.fromkeys(same, entry))
  return found


def _alike(graph: ChannelGraph, diagram: Diagram) -> dict[str, list[str]]:
  """Every gated group with those that play its part in other copies of a block."""
  alike = {name: [name] for name in graph.gated_groups}
  for item in diagram.walk():
    for part in (part for parts in _parts(graph, item) for part in zip(*parts)):
      gated = [name for name in part if name in alike]
      for name in gated[1:] if len(gated) == len(part) else ():
        first, second = alike[gated[0]], alike[name]
        if first is not second:
          first += second
          alike.update(dict.fromkeys(second, first))
  order = {name: number for number, name in enumerate(graph.gated_groups)}
  return {name: sorted(same, key=order.__getitem__) for name, same in alike.items()}


def _parts(graph: ChannelGraph, item: Item) -> Iterator[list[list[str]]]:
  """Of all copies: the groups they write, the gates on their links, and those of their entries."""
  kinds: tuple[Callable[[Item], list[str]], ...] = (
    lambda i: [s.group for axis in i.writes for s in axis] if i.kind == 'layer' else [],
    lambda i: [link.branch for link in i.links],
    lambda i: entry_groups(graph, i),
  )
  for kind in kinds:
    parts = [kind(copy) for copy in item.copies]
    if len({len(p) for p in parts}) == 1:
      yield parts


def entry_groups(graph: ChannelGraph, item: Item) -> list[str]:
  """The groups that gate single entries of its parameters."""
  names = (f'link:{graph.tree.names[leaf]}' for leaf in sorted(item.leaves))
  return [n for n in names if n in graph.gated_groups]


def _widths(graph: ChannelGraph, groups: Sequence[str], masks: Masks | None) -> str:
  whole = names_lib.span([str(graph.groups[g].width) for g in groups])
  if graph.groups[groups[0]].kind == 'branch':
    if masks is None:
      return '1 gate' if len(groups) == 1 else f'{len(groups)} gates'
    is_open = sum(bool(masks[g].any()) for g in groups if g in masks)
    is_open += sum(g not in masks for g in groups)
    return f'{is_open}/{len(groups)} kept' if len(groups) > 1 else ('kept' if is_open else 'cut')
  if masks is None:
    return whole
  kept = sorted(int(masks[g].sum()) if g in masks else graph.groups[g].width for g in groups)
  return f'{whole} → {names_lib.span([str(n) for n in kept])}'


def reason(graph: ChannelGraph, group: str) -> str:
  """Why positions of a group without gates stay."""
  if group not in graph.groups:
    return 'belongs to no group'
  return graph.groups[group].refused or 'level or name not selected'


def shares(
  sides: Sequence[Sequence[Sequence[tuple[str, int]]]], legend: Mapping[str, Entry]
) -> list[tuple[str, int]]:
  """How much of a stripe every colour takes.

  Args:
    sides: for every copy and axis, [(group, positions)].
    legend: from `entries`.

  Returns:
    [(a group of the colour, or the first one without gates, positions)].
  """
  found: dict[int, tuple[str, int]] = {}
  for axes in sides:
    for axis in axes:
      for group, count in axis:
        key = legend[group].number if group in legend else 0
        first, total = found.get(key, (group, 0))
        found[key] = (first, total + count)
  return list(found.values())
