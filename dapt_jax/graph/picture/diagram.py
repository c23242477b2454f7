"""Diagrams: items, links between them, and what an architecture leaves of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

#: Source of a link that comes from outside the diagram.
PORT = -1

Masks = Mapping[str, np.ndarray]


class Segment(NamedTuple):
  """Positions of an axis that belong to one group.

  Attributes:
    group: its name, '' where the positions belong to none.
    gates: i64[n], their gates in it.
  """

  group: str
  gates: np.ndarray

  def kept(self, masks: Masks) -> int:
    """Number of positions that stay under these masks, `{group: f32[width]}`."""
    return int(masks[self.group][self.gates].sum()) if self.group in masks else len(self.gates)


Axis = tuple[Segment, ...]


@dataclasses.dataclass(frozen=True)
class Link:
  """Data on their way into an item.

  Attributes:
    source: number of the item they come from, or `PORT`.
    branch: name of the gate on the way, if there is one.
  """

  source: int
  branch: str = ''


@dataclasses.dataclass
class Item:
  """Something that a picture shows.

  Attributes:
    kind: 'input', 'output', 'layer', 'scale' (parameters that act position by position), 'sum',
      'join' (other operations on several streams), 'pool', 'loop' or 'repeat' (with a body).
    name: path of the parameters.
    text: what is done.
    links: where the data come from.
    leaves: flat numbers of its parameters.
    reads: the axes it sums over.
    writes: the axes it makes.
    extras: names of the small items that were folded into it.
    body: what is inside of a loop or of a repeated block.
    copies: in a repeated block, the items that this one stands for, itself first.
    alive: whether anything of it is left.
  """

  kind: str
  name: str
  text: str = ''
  links: list[Link] = dataclasses.field(default_factory=list)
  leaves: frozenset[int] = frozenset()
  reads: tuple[Axis, ...] = ()
  writes: tuple[Axis, ...] = ()
  extras: list[str] = dataclasses.field(default_factory=list)
  body: Diagram | None = None
  copies: list[Item] = dataclasses.field(default_factory=list)
  alive: bool = True

  def scales(self, source: int) -> bool:
    """Whether it does nothing but scale or shift what comes from `source`."""
    return self.kind == 'scale' and self.links[0].source == source

  def all_copies(self) -> list[Item]:
    """The items it stands for; itself alone outside of repeated blocks."""
    return self.copies or [self]


@dataclasses.dataclass
class Diagram:
  """Items in the order of the data.

  Attributes:
    items: sources stand before what they feed.
    exits: numbers of the items whose results leave the diagram (outputs of the whole are items).
  """

  items: list[Item]
  exits: list[int] = dataclasses.field(default_factory=list)

  def consumers(self) -> dict[int, list[int]]:
    """Item -> the items that its result goes to, with repetitions."""
    out: dict[int, list[int]] = {}
    for number, item in enumerate(self.items):
      for link in item.links:
        out.setdefault(link.source, []).append(number)
    return out

  def walk(self) -> Iterator[Item]:
    """All items, those of bodies after the item that holds them."""
    for item in self.items:
      yield item
      if item.body is not None:
        yield from item.body.walk()


def size(axes: Sequence[Axis]) -> tuple[int, ...]:
  """Width of every axis."""
  return tuple(sum(len(s.gates) for s in axis) for axis in axes)


def kept(axes: Sequence[Axis], masks: Masks) -> tuple[int, ...]:
  """Width of every axis after the cut."""
  return tuple(sum(s.kept(masks) for s in axis) for axis in axes)


def tidy(diagram: Diagram) -> Diagram:
  """Small items folded into their layers, sums of sums made one, what leads nowhere left out."""
  for item in diagram.items:
    if item.body is not None:
      item.body = tidy(item.body)
  for fold in (_fold_scale, _fold_sum):
    diagram = _folded(diagram, fold)
  return _used(diagram)


def _fold_scale(item: Item, source: Item) -> bool:
  """A bias or a normalisation becomes a part of the layer before it."""
  if item.kind != 'scale' or source.kind != 'layer':
    return False
  source.leaves |= item.leaves
  source.extras.append(item.name)
  return True


def _fold_sum(item: Item, source: Item) -> bool:
  """The operands of the inner sum become operands of the outer one."""
  return item.kind == 'sum' == source.kind


def _folded(diagram: Diagram, fold: Callable[[Item, Item], bool]) -> Diagram:
  """Makes one item of every source and its only consumer that `fold` accepts."""
  consumers = diagram.consumers()
  stands: dict[int, int] = {}
  gone: set[int] = set()
  for number, item in enumerate(diagram.items):
    for link in list(item.links):
      source = link.source
      once = consumers.get(source) == [number] and source not in diagram.exits
      if source == PORT or link.branch or not once:
        continue
      before = diagram.items[stands.get(source, source)]
      if not fold(item, before):
        continue
      if item.kind == 'sum':
        at = item.links.index(link)
        item.links[at : at + 1] = before.links
        gone.add(source)
      else:
        stands[number] = stands.get(source, source)
        gone.add(number)
  return renumbered(diagram, gone, stands)


def _used(diagram: Diagram) -> Diagram:
  """Without the items that nothing shown depends on."""
  needed = {i for i, item in enumerate(diagram.items) if item.kind == 'output'} | set(diagram.exits)
  for number in reversed(range(len(diagram.items))):
    if number in needed:
      needed.update(k.source for k in diagram.items[number].links)
  return renumbered(diagram, set(range(len(diagram.items))) - needed, {})


def renumbered(diagram: Diagram, gone: set[int], stands: Mapping[int, int]) -> Diagram:
  """Without the items `gone`; links to them go to the items that stand for them."""
  left = [i for i in range(len(diagram.items)) if i not in gone]
  new = {PORT: PORT} | {old: number for number, old in enumerate(left)}
  at = lambda old: new[stands.get(old, old)]
  items = [diagram.items[i] for i in left]
  for item in items:
    item.links = list(dict.fromkeys(Link(at(k.source), k.branch) for k in item.links))
  return Diagram(items, sorted({at(i) for i in diagram.exits}))


def mark(diagram: Diagram, masks: Masks, alive: bool = True) -> None:
  """Sets `alive` of all items under these masks.

  Args:
    diagram: not yet folded into repeats.
    masks: {group: f32[width]}; groups not named stay whole.
    alive: whether anything needs the exits.
  """
  needed = set(diagram.exits) if alive else set()
  for number in reversed(range(len(diagram.items))):
    item = diagram.items[number]
    item.alive = alive and (number in needed or item.kind == 'output')
    item.alive = item.alive and 0 not in kept(item.writes, masks)
    if item.alive:
      needed.update(k.source for k in item.links if is_open(k, masks))
    if item.body is not None:
      mark(item.body, masks, item.alive)


def is_open(link: Link, masks: Masks) -> bool:
  """Whether the branch of a link stays."""
  return link.branch not in masks or bool(masks[link.branch].any())
