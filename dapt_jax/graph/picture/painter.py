"""Draws a placed diagram: boxes, frames and links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dapt_jax.graph.picture import cards as cards_lib
from dapt_jax.graph.picture import legend as legend_lib
from dapt_jax.graph.picture import svg
from dapt_jax.graph.picture.diagram import Axis, Item, Masks, is_open
from dapt_jax.graph.picture.layout import TITLE
from dapt_jax.graph.picture.places import Layout, Node, Wire

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph


class Painter:
  """Draws layouts into an SVG element.

  Attributes:
    graph: the whole graph.
    legend: {gated group: its entry}.
    masks: of an architecture, or None.
  """

  def __init__(
    self,
    graph: ChannelGraph,
    legend: Mapping[str, legend_lib.Entry],
    masks: Masks | None,
  ) -> None:
    self.graph = graph
    self.legend = legend
    self.masks = masks

  def layout(self, parent: svg.Element, layout: Layout) -> None:
    """Draws links first, items above them, and bodies inside of frames."""
    for wire in layout.wires:
      self._wire(parent, wire)
    for number, node in enumerate(layout.nodes):
      assert node.card is not None
      if number in layout.inner:
        self._frame(parent, node, layout.inner[number])
      else:
        self._item(parent, node, node.card)

  def _wire(self, parent: svg.Element, wire: Wire) -> None:
    gone = any(n.card is not None and not _alive(n.card.item) for n in (wire.source, wire.target))
    cut = bool(wire.links) and not any(is_open(k, self.masks or {}) for k in wire.links)
    look: dict[str, Any] = (
      {'stroke': svg.FAINT, 'stroke_dasharray': '4 3'} if gone or cut else {'stroke': svg.LINE}
    )
    path = svg.route(wire.points)
    x, y = wire.points[-1][0], wire.points[-1][2]
    svg.tag(parent, 'path', d=path, fill='none', stroke_width=1.4, **look)
    if wire.target.card is not None:
      head = f'M{svg.number(x)} {svg.number(y)}l-3.5 -6h7z'
      svg.tag(parent, 'path', d=head, fill=look['stroke'])
    if wire.links and wire.links[0].branch in self.legend:
      self._gate(parent, wire, cut)

  def _gate(self, parent: svg.Element, wire: Wire, cut: bool) -> None:
    x, _, y = wire.points[-2]
    names = list(dict.fromkeys(k.branch for k in wire.links))
    entry = self.legend[names[0]]
    group = svg.tag(parent, 'g', class_=svg.class_of(entry))
    closed = [k.branch for k in wire.links if not is_open(k, self.masks or {})]
    told = '\n'.join(f'{n}: {"cut" if n in closed else "a gate on this branch"}' for n in names)
    svg.tag(group, 'title', told)
    svg.diamond(group, x, y + 11, entry, faint=cut)

  def _frame(self, parent: svg.Element, node: Node, inner: Layout) -> None:
    card = node.card
    assert card is not None
    x, width = node.x - node.left, node.left + node.right
    look: dict[str, Any] = {'stroke': svg.EDGE, 'stroke_width': 1.0}
    frame = svg.tag(parent, 'g', transform=f'translate({svg.number(x)} {svg.number(node.top)})')
    svg.tag(
      frame,
      'rect',
      width=width,
      height=node.height,
      rx=6.0,
      fill='#808080',
      fill_opacity=0.12,
      **look,
    )
    svg.tag(frame, 'rect', width=width, height=TITLE, rx=6.0, fill='#e4e4e4', **look)
    svg.write(frame, card.title, width / 2, 14.0, 10.0, text_anchor='middle', font_weight='bold')
    self.layout(frame, inner)

  def _item(self, parent: svg.Element, node: Node, card: cards_lib.Card) -> None:
    alive = _alive(card.item)
    group = svg.tag(parent, 'g', class_='item' if alive else 'item gone')
    x, y, width, height = node.x - node.left, node.top, card.width, card.height
    edge: dict[str, Any] = (
      {'stroke': svg.EDGE} if alive else {'stroke': svg.FAINT, 'stroke_dasharray': '4 3'}
    )
    edge |= {'fill': svg.PAPER if alive else svg.GONE}
    svg.tag(group, 'title', self._told(card))
    if card.shape == 'circle':
      svg.tag(group, 'circle', cx=node.x, cy=y + height / 2, r=width / 2, **edge)
      svg.write(group, card.text, node.x, y + height / 2 + 4.5, 13.0, text_anchor='middle')
      return
    radius = 4.0 if card.shape == 'box' else height / 2
    svg.tag(group, 'rect', x=x, y=y, width=width, height=height, rx=radius, **edge)
    if card.shape == 'pill':
      svg.write(group, card.text, node.x, y + 13.5, cards_lib.TEXT, text_anchor='middle')
      return
    copies = card.item.all_copies()
    inset = 3.0 if card.shape == 'box' else 5.0
    for sides, at in (
      ([c.reads for c in copies], x + 3),
      ([c.writes for c in copies], x + width - 3 - cards_lib.STRIPE + 2),
    ):
      self._stripe(group, sides, at, y + inset, height - 2 * inset)
    left = x + cards_lib.STRIPE + cards_lib.PAD
    if card.shape == 'small':
      svg.write(group, card.title, left, y + 14.0, cards_lib.NAME)
      end = x + width - cards_lib.STRIPE - cards_lib.PAD
      svg.write(group, card.text, end, y + 13.5, cards_lib.ROW, text_anchor='end', fill=svg.MUTED)
      return
    svg.write(group, card.title, left, y + 14.0, cards_lib.NAME, font_weight='bold')
    svg.write(group, card.text, left, y + 28.0, cards_lib.TEXT, fill=svg.MUTED)
    for group_name in legend_lib.entry_groups(self.graph, card.item)[:1]:
      end = x + width - 2 * cards_lib.STRIPE - cards_lib.PAD
      svg.swatch(group, end, y + 18.0, cards_lib.STRIPE, 12.0, self.legend[group_name])
    for number, row in enumerate(card.rows):
      self._row(group, card, row, left, y + 41.0 + 12.0 * number)

  def _row(
    self, parent: svg.Element, card: cards_lib.Card, row: cards_lib.Row, left: float, y: float
  ) -> None:
    """Widths before and after, and a bar of the share that stays."""
    end = left + card.width - 2 * (cards_lib.STRIPE + cards_lib.PAD)
    group = svg.tag(parent, 'g', fill=svg.INK if row.alive else svg.EDGE)
    svg.tag(group, 'title', row.name + ('' if row.alive else ': cut'))
    marks = max(cards_lib.room(r.mark, cards_lib.ROW) for r in card.rows)
    start = left + (marks + cards_lib.PAD if marks else 0.0)
    if row.mark:
      svg.write(group, row.mark, left + marks, y, cards_lib.ROW, text_anchor='end', fill=svg.MUTED)
    svg.write(group, row.reads, start, y, cards_lib.ROW)
    svg.write(group, row.writes, end, y, cards_lib.ROW, text_anchor='end')
    if row.share is None:
      return
    rooms = [[cards_lib.room(t, cards_lib.ROW) for t in texts] for texts in (
      [r.reads for r in card.rows], [r.writes for r in card.rows])]  # fmt: skip
    start, end = start + max(rooms[0]) + cards_lib.PAD, end - max(rooms[1]) - cards_lib.PAD
    svg.tag(group, 'rect', x=start, y=y - 7.0, width=end - start, height=7.0, fill='#dcdcdc')
    svg.tag(group, 'rect', x=start, y=y - 7.0, width=(end - start) * row.share, height=7.0,
            fill='#4d4d4d' if row.alive else svg.FAINT)  # fmt: skip

  def _stripe(
    self, parent: svg.Element, sides: Sequence[Sequence[Axis]], x: float, y: float, height: float
  ) -> None:
    """The colours of the groups that an item reads or writes."""
    counts = [[[(s.group, len(s.gates)) for s in axis] for axis in axes] for axes in sides]
    parts = legend_lib.shares(counts, self.legend)
    total = sum(count for _, count in parts)
    # A colour that takes little still has room for its number.
    least = min(9.0, height / max(len(parts), 1))
    free = height - least * len(parts)
    for group, count in parts:
      tall = least + free * count / total
      entry = self.legend.get(group)
      if entry is None:
        svg.hatched(parent, x, y, cards_lib.STRIPE - 2, tall, legend_lib.reason(self.graph, group))
      else:
        svg.swatch(parent, x, y, cards_lib.STRIPE - 2, tall, entry)
      y += tall

  def _told(self, card: cards_lib.Card) -> str:
    """The tooltip of an item."""
    item, tree = card.item, self.graph.tree
    lines = [f'{item.name or item.text}' + ('' if _alive(item) else ': cut')]
    for leaf in sorted(item.leaves):
      shape = list(self.graph.program.shape(self.graph.program.inputs[leaf]))
      lines.append(f'{tree.names[leaf]} {shape}')
    lines += [f'gated entry by entry: {n}' for n in legend_lib.entry_groups(self.graph, item)]
    for verb, axes in (('reads', item.reads), ('writes', item.writes)):
      names = dict.fromkeys(s.group for axis in axes for s in axis if s.group)
      lines += [f'{verb} {name}' for name in names]
    if len(item.all_copies()) > 1:
      lines.append(f'stands for {len(item.copies)} alike')
    return '\n'.join(lines)


def _alive(item: Item) -> bool:
  return any(c.alive for c in item.all_copies())
