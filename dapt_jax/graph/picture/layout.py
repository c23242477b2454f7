"""Where everything stands: items in ranks from top to bottom, links around them.

A layered drawing (Sugiyama, Tagawa and Toda, 1981): ranks by longest path, places kept free for
links that pass a rank, few crossings by barycentres, and straight chains by isotonic regression.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize

from dapt_jax.graph.picture.cards import Card, cards, room
from dapt_jax.graph.picture.diagram import PORT, Diagram, Link, Masks
from dapt_jax.graph.picture.places import Layout, Node, Wire, move

#: Room between ranks, between neighbours, and around the content of a frame.
_DOWN, _ACROSS, _FRAME = 26.0, 16.0, 12.0
_SWEEPS = 24
#: Height of the title of a frame.
TITLE = 20.0


def lay_out(diagram: Diagram, masks: Masks | None) -> Layout:
  """Places a diagram and all its bodies."""
  return _Placer(diagram, masks).layout()


class _Placer:
  def __init__(self, diagram: Diagram, masks: Masks | None) -> None:
    self.diagram = diagram
    self.inner: dict[int, Layout] = {}
    self.nodes = [self._node(n, card, masks) for n, card in enumerate(cards(diagram, masks))]
    #: Neighbours in the next rank, once links are cut into pieces.
    self.above: dict[int, list[int]] = {}
    self.below: dict[int, list[int]] = {}
    #: Nodes on the way of every link, ends included.
    self.ways: list[tuple[list[int], Sequence[Link]]] = []
    self.ranks: list[list[int]] = []
    #: Nodes of skip connections.
    self.skips: set[int] = set()

  def _node(self, number: int, card: Card, masks: Masks | None) -> Node:
    body = card.item.body
    if body is None:
      return Node(card.width / 2, card.width / 2, card.height, card)
    inner = self.inner[number] = lay_out(body, masks)
    width = max(inner.width, room(card.title, 10.0)) + 2 * _FRAME
    height = inner.height + TITLE + _FRAME
    move(inner, (width - inner.width) / 2, TITLE)
    card.width, card.height = width, height
    return Node(inner.entry, width - inner.entry, height, card)

  def layout(self) -> Layout:
    """Ranks, order, x, y, in this order."""
    ends = self._ends()
    self._rank(ends)
    self._cut(ends)
    self._order()
    self._place()
    return self._finish()

  def _ends(self) -> list[tuple[int, int, Sequence[Link]]]:
    """(upper node, lower node, link of every copy); ports of a frame become nodes."""
    items = self.diagram.items
    self.entry, self.exit = len(items), len(items) + 1
    self.nodes += [Node(1.0, 1.0, 0.0), Node(1.0, 1.0, 0.0)]
    found: list[tuple[int, int, Sequence[Link]]] = []
    for number, item in enumerate(items):
      for place, link in enumerate(item.links):
        copies = [c.links[place] for c in item.copies if place < len(c.links)] or [link]
        upper = self.entry if link.source == PORT else link.source
        found.append((upper, number, copies))
    return found + [(i, self.exit, ()) for i in self.diagram.exits]

  def _rank(self, ends: Sequence[tuple[int, int, Sequence[Link]]]) -> None:
    linked = {n for upper, lower, _ in ends for n in (upper, lower)}
    has_port = self.entry in linked
    for number in range(len(self.diagram.items)):
      above = [u for u, lower, _ in ends if lower == number]
      ranks = [self.nodes[u].rank + 1 for u in above]
      self.nodes[number].rank = max(ranks, default=int(has_port))
    for number in reversed(range(len(self.diagram.items))):
      below = [self.nodes[w].rank - 1 for u, w, _ in ends if u == number and w != self.exit]
      if below and not self.diagram.items[number].links:
        self.nodes[number].rank = min(below)
    deepest = max((n.rank for n in self.nodes), default=0)
    self.nodes[self.exit].rank = deepest + 1
    for number in {self.entry, self.exit} - linked:
      self.nodes[number].rank = -1  # not drawn
    self.ranks = [[i for i, n in enumerate(self.nodes) if n.rank == r] for r in range(deepest + 2)]
    self.ranks = [r for r in self.ranks if r]

  def _cut(self, ends: Sequence[tuple[int, int, Sequence[Link]]]) -> None:
    """Gives every link a narrow node in every rank that it passes."""
    for upper, lower, links in ends:
      way = [upper]
      # Beside another way out of one item and into another: nobody stands in line with it.
      beside = all(sum(e[side] == end for e in ends) > 1 for side, end in ((0, upper), (1, lower)))
      for rank in range(self.nodes[upper].rank + 1, self.nodes[lower].rank):
        self.nodes.append(Node(2.0, 2.0, 0.0, rank=rank))
        self.ranks[rank].append(len(self.nodes) - 1)
        way.append(len(self.nodes) - 1)
        self.skips.update(way[-1:] if beside else ())
      way.append(lower)
      for above, below in itertools.pairwise(way):
        self.above.setdefault(below, []).append(above)
        self.below.setdefault(above, []).append(below)
      self.ways.append((way, links))

  def _order(self) -> None:
    """Orders ranks by the mean place of their neighbours; keeps the best of all sweeps."""
    best, fewest = [list(r) for r in self.ranks], self._crossings()
    for sweep in range(8):
      down = sweep % 2 == 0
      near = self.above if down else self.below
      for rank in self.ranks if down else self.ranks[::-1]:
        at = {n: i / len(r) for r in self.ranks for i, n in enumerate(r, 1)}
        means = {n: float(np.mean([at[m] for m in near.get(n, [n])])) for n in rank}
        rank.sort(key=means.__getitem__)
      crossings = self._crossings()
      if crossings < fewest:
        best, fewest = [list(r) for r in self.ranks], crossings
    self.ranks = best

  def _crossings(self) -> int:
    total = 0
    for upper, lower in itertools.pairwise(self.ranks):
      at = {n: i for i, n in enumerate(lower)}
      ends = [(i, at[m]) for i, n in enumerate(upper) for m in self.below.get(n, ())]
      total += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(ends) for c, d in ends[:i])
    return total

  def _place(self) -> None:
    """Sets x by rank: every node as near to its neighbours as its rank allows; items lead."""
    for rank in self.ranks:
      self._spread(rank, [0.0] * len(rank))
    for sweep in range(_SWEEPS):  # the last one goes down, where chains become straight
      up = sweep % 2 == 0
      near = self.below if up else self.above
      at = (lambda n: self.nodes[n].x) if up else self._out
      for rank in self.ranks[::-1] if up else self.ranks:
        self._spread(rank, [self._wish(n, near.get(n, ()), at) for n in rank])
    self._straighten()

  def _straighten(self) -> None:
    """Gives every link that passes ranks one lane, as far out as it ever has to go."""
    for _ in range(len(self.ranks)):
      lanes: dict[int, float] = {}
      for way, _ in self.ways:
        xs = [self.nodes[n].x for n in way[1:-1]]
        lanes |= dict.fromkeys(way[1:-1], max(xs, default=0.0))
      if all(abs(x - self.nodes[n].x) < 0.5 for n, x in lanes.items()):
        return
      for rank in self.ranks:
        self._spread(rank, [lanes.get(n, self.nodes[n].x) for n in rank])

  def _is_passing(self, number: int) -> bool:
    return number > self.exit

  def _wish(self, number: int, near: Sequence[int], at: Callable[[int], float]) -> float:
    """The mean of the neighbours; an item leaves links aside that only pass it by."""
    if not self._is_passing(number):
      near = [m for m in near if m not in self.skips] or near
    return float(np.mean([at(m) for m in near])) if near else self.nodes[number].x

  def _spread(self, rank: Sequence[int], wishes: Sequence[float]) -> None:
    """Sets x as near to the wishes as the room between neighbours allows."""
    nodes = [self.nodes[n] for n in rank]
    gaps = [a.right + b.left + _ACROSS for a, b in itertools.pairwise(nodes)]
    shift = np.concatenate([[0.0], np.cumsum(gaps)])
    weights = [1e-4 if self._is_passing(n) else 1.0 for n in rank]
    fitted = optimize.isotonic_regression(np.array(wishes) - shift, weights=np.array(weights)).x
    for node, x in zip(nodes, fitted + shift):
      node.x = float(x)

  def _finish(self) -> Layout:
    """Sets y by rank, everything moved to the origin, and the ways of the links."""
    left = min(self.nodes[n].x - self.nodes[n].left for r in self.ranks for n in r)
    width = max(self.nodes[n].x + self.nodes[n].right for r in self.ranks for n in r) - left
    y = 0.0
    span: dict[int, tuple[float, float]] = {}
    for rank in self.ranks:
      y -= _FRAME if self.exit in rank else 0.0
      height = max(self.nodes[n].height for n in rank)
      for number in rank:
        node = self.nodes[number]
        node.x -= left
        node.top = y + (height - node.height) / 2
        span[number] = (y, y + height)
      y += height + _DOWN
    wires = [self._wire(way, links, span) for way, links in self.ways]
    nodes = self.nodes[: len(self.diagram.items)]
    at = lambda port: self.nodes[port].x if self.nodes[port].rank >= 0 else width / 2
    height = y - _DOWN
    return Layout(nodes, wires, self.inner, width, height, at(self.entry), at(self.exit))

  def _wire(self, way: list[int], links: Sequence[Link], span: dict) -> Wire:
    source, target = self.nodes[way[0]], self.nodes[way[-1]]
    points = [(self._out(way[0]), source.bottom, span[way[0]][1])]
    points += [(self.nodes[n].x, *span[n]) for n in way[1:-1]]
    # Out of a frame a link goes through the room below its content.
    end = target.top + (_FRAME if way[-1] == self.exit else 0.0)
    points.append((target.x, span[way[-1]][0], end))
    return Wire(links, points, source, target)

  def _out(self, number: int) -> float:
    """Where results leave an item: a frame at the port of its body."""
    node = self.nodes[number]
    if number in self.inner:
      return node.x - node.left + self.inner[number].exit
    return node.x
