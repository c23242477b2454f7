"""Sets a long drawing in several columns, as a newspaper does."""

from __future__ import annotations

from collections.abc import Sequence

from dapt_jax.graph.picture.places import Layout, Node, Wire

#: Columns get longer only where nothing can be parted.
_LENGTH = 1000.0
#: Columns longer than this share of the whole are not worth the links between them.
_GAIN = 0.7
#: Room between columns, and above and below them for the links that join them.
_GUTTER, _ABOVE, _BELOW = 44.0, 28.0, 14.0


def split(layout: Layout) -> Layout:
  """Parts a long layout where a single link passes; the columns stand side by side.

  Args:
    layout: of the whole network; its nodes are moved.

  Returns:
    The layout in columns of about equal length, or as it was.
  """
  parts = _parts(layout)
  wanted = -(-layout.height // _LENGTH)
  if wanted < 2 or len(parts) < 2:
    return layout
  length = max(_extent(p)[1] - _extent(p)[0] for p in parts)
  columns = _filled(parts, length)
  while len(columns) > wanted:
    length += 20.0
    columns = _filled(parts, length)
  if length > _GAIN * layout.height:
    return layout
  return _side_by_side(layout, columns)


def _parts(layout: Layout) -> list[list[Node]]:
  """The nodes between places where nothing passes but the result of a single node."""
  ranks: dict[int, list[Node]] = {}
  for node in layout.nodes:
    ranks.setdefault(node.rank, []).append(node)
  parts: list[list[Node]] = [[]]
  for rank in sorted(ranks):
    passing = [w for w in layout.wires if w.source.rank < rank <= w.target.rank]
    is_one = len({id(w.source) for w in passing}) == 1 and passing[0].source.rank == rank - 1
    gates_here = any(k.branch for w in passing if len(w.points) == 2 for k in w.links)
    if is_one and not gates_here:
      parts.append([])
    parts[-1] += ranks[rank]
  return [p for p in parts if p]


def _extent(nodes: Sequence[Node]) -> tuple[float, float]:
  return min(n.top for n in nodes), max(n.bottom for n in nodes)


def _filled(parts: Sequence[list[Node]], length: float) -> list[list[Node]]:
  """Columns of at most this length, filled in order."""
  columns: list[list[Node]] = []
  for part in parts:
    if columns and _extent(part)[1] - _extent(columns[-1])[0] <= length:
      columns[-1] += part
    else:
      columns.append(list(part))
  return columns


def _side_by_side(layout: Layout, columns: Sequence[list[Node]]) -> Layout:
  column = {id(node): number for number, nodes in enumerate(columns) for node in nodes}
  at = lambda wire: (column[id(wire.source)], column[id(wire.target)])
  tops = [_extent(nodes)[0] for nodes in columns]
  length = max(_extent(nodes)[1] - top for nodes, top in zip(columns, tops))
  x, shifts, gutters = 0.0, [], []
  for number, nodes in enumerate(columns):
    own = [p[0] for w in layout.wires if at(w) == (number, number) for p in w.points]
    left = min(*(n.x - n.left for n in nodes), *own)
    right = max(*(n.x + n.right for n in nodes), *own)
    shifts.append(x - left)
    x += right - left + _GUTTER
    gutters.append(x - _GUTTER / 2)
  for number, nodes in enumerate(columns):
    for node in nodes:
      node.x += shifts[number]
      node.top += _ABOVE - tops[number]
  for wire in layout.wires:
    upper, lower = at(wire)
    down = _ABOVE - tops[lower]
    points = [(x + shifts[lower], a + down, b + down) for x, a, b in wire.points]
    if upper != lower:
      points[:1] = _bend(wire, shifts[upper], gutters[upper], points[0][0])
    wire.points = points
  layout.width, layout.height = x - _GUTTER, length + _ABOVE + _BELOW
  return layout


def _bend(wire: Wire, shift: float, gutter: float, x: float) -> list[tuple[float, float, float]]:
  """The way of a link to the top of the next column."""
  turn = wire.source.bottom + _BELOW
  start = wire.points[0][0] + shift
  return [(start, wire.source.bottom, turn), (gutter, turn, 0.0), (x, 0.0, _ABOVE / 4)]
