"""Where items and links stand in a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dapt_jax.graph.picture.cards import Card
from dapt_jax.graph.picture.diagram import Link


@dataclasses.dataclass
class Node:
  """An item, a port of the diagram, or a link on its way through a rank.

  Attributes:
    left: room left of the line that the links follow.
    right: room right of it.
    height: its own.
    card: of an item.
    rank: 0 at the top.
    x: of the line.
    top: upper edge.
  """

  left: float
  right: float
  height: float
  card: Card | None = None
  rank: int = 0
  x: float = 0.0
  top: float = 0.0

  @property
  def bottom(self) -> float:
    """Lower edge."""
    return self.top + self.height


@dataclasses.dataclass
class Wire:
  """A link as it is drawn.

  Attributes:
    links: the link, of every copy of the item that it goes into; empty to the end of a frame.
    points: [(x, upper y, lower y)], straight down each, with curves between.
    source: where it comes from.
    target: where it goes.
  """

  links: Sequence[Link]
  points: list[tuple[float, float, float]]
  source: Node
  target: Node


@dataclasses.dataclass
class Layout:
  """A diagram with places, in pixels from its upper left corner.

  Attributes:
    nodes: one per item, in order.
    wires: all links.
    inner: item -> the layout of its body, whose origin is the node's upper left corner.
    width: of everything.
    height: of everything.
    entry: x of the port at the top.
    exit: x of the port at the bottom.
  """

  nodes: list[Node]
  wires: list[Wire]
  inner: dict[int, Layout]
  width: float
  height: float
  entry: float
  exit: float


def move(layout: Layout, right: float, down: float) -> None:
  """Moves everything in a layout."""
  for node in layout.nodes:
    node.x, node.top = node.x + right, node.top + down
  for wire in layout.wires:
    wire.points = [(x + right, a + down, b + down) for x, a, b in wire.points]
  layout.entry, layout.exit = layout.entry + right, layout.exit + right
