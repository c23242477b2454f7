"""What is written on every item of a picture, and how much room that takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dapt_jax.graph.picture import names as names_lib
from dapt_jax.graph.picture.diagram import Axis, Diagram, Item, Masks, kept, size

#: Sizes of the type in pixels: name, what is done, rows of widths. Letters of a fixed width make
#: the room that a text takes known in every viewer.
NAME, TEXT, ROW = 11.0, 10.0, 9.0
_LETTER = 0.605
STRIPE, PAD, BAR = 15.0, 7.0, 26.0
_LONGEST = 30


@dataclasses.dataclass(frozen=True)
class Row:
  """Widths of one layer, or of one of the layers that an item stands for.

  Attributes:
    mark: what tells it apart from the other rows.
    reads: width read, before and after a cut.
    writes: width written.
    share: part of the written width that stays; None without an architecture.
    alive: whether anything of it is left.
    name: of the layer.
  """

  mark: str
  reads: str
  writes: str
  share: float | None
  alive: bool
  name: str


@dataclasses.dataclass
class Card:
  """An item as it is drawn.

  Attributes:
    item: what it shows.
    shape: 'box', 'small' (a box of one line), 'pill', 'circle' or 'frame'.
    title: its name.
    text: what is done.
    rows: widths; none if the text says it all.
    width: in pixels.
    height: in pixels.
  """

  item: Item
  shape: str
  title: str = ''
  text: str = ''
  rows: Sequence[Row] = ()
  width: float = 0.0
  height: float = 0.0


def room(text: str, points: float) -> float:
  """Width of a text in pixels."""
  return len(text) * points * _LETTER


def cards(diagram: Diagram, masks: Masks | None) -> list[Card]:
  """The cards of all items, boxes of a diagram equally wide; frames still without a size."""
  names = [n for item in diagram.items for n in (item.name, *item.extras) if item.leaves]
  prefix = path_of(diagram) if any(item.copies for item in diagram.items) else ''
  prefix = prefix or (names_lib.shared(names) if len(names) > 1 else '')
  made = [_card(item, prefix, masks) for item in diagram.items]
  widest = max((c.width for c in made if c.shape == 'box'), default=0.0)
  for card in made:
    if card.shape == 'box':
      card.width = widest
  return made


def path_of(diagram: Diagram, copy: int = 0) -> str:
  """What the names of all layers in a block start with."""
  items = [item.all_copies()[min(copy, len(item.all_copies()) - 1)] for item in diagram.walk()]
  return names_lib.shared([i.name for i in items if i.leaves])


def _card(item: Item, prefix: str, masks: Masks | None) -> Card:
  if item.kind == 'layer':
    return _box(item, prefix, masks)
  if item.body is not None:
    return Card(item, 'frame', frame_title(item), item.text)
  if item.kind in ('sum', 'join') and len(item.text) == 1:
    return Card(item, 'circle', text=item.text, width=20.0, height=20.0)
  if item.kind == 'scale':
    rows = _rows(item, masks)
    width = names_lib.span([r.writes for r in rows])
    title = names_lib.middle(names_lib.below(item.name, prefix), _LONGEST)
    long = room(title, NAME) + room(width, ROW) + 3 * PAD + 2 * STRIPE
    return Card(item, 'small', title, width, (), long, 20.0)
  title = names_lib.middle(item.name, _LONGEST) if item.kind in ('input', 'output') else ''
  text = f'{title}  {item.text}' if title else item.text
  return Card(item, 'pill', '', text, (), room(text, TEXT) + 2 * PAD + 4, 20.0)


def frame_title(item: Item) -> str:
  """'stage1_block[1…9], 9 times'; 'scan, 16 turns'."""
  assert item.body is not None
  count = max((len(i.copies) for i in item.body.items), default=0)
  paths = [path_of(item.body, c) for c in range(max(count, 1))]
  name = names_lib.summary(paths) if all(paths) else ''
  parts = [name, item.text] if item.kind == 'repeat' else [item.text, name]
  return names_lib.middle(', '.join(p for p in parts if p), _LONGEST + 10)


def _box(item: Item, prefix: str, masks: Masks | None) -> Card:
  # Parameters of a module around the layer are its own, such as a bias beside the kernel.
  extras = [e for e in dict.fromkeys(item.extras) if not item.name.startswith(f'{e}/')]
  extras = [names_lib.below(e, names_lib.shared([item.name, e])) for e in extras]
  title = ' + '.join([names_lib.below(item.name, prefix), *extras])
  title = names_lib.middle(title, _LONGEST)
  sides = [names_lib.span([_sizes(s) for s in same]) for same in (
    [c.reads for c in item.all_copies()], [c.writes for c in item.all_copies()])]  # fmt: skip
  text = f'{item.text}  {" -> ".join(s for s in sides if s)}'
  rows = _rows(item, masks)
  if len(rows) == 1 and masks is None:
    rows = []
  marks, reads, writes = (max((room(t, ROW) for t in texts), default=0.0) for texts in (
    [r.mark for r in rows], [r.reads for r in rows], [r.writes for r in rows]))  # fmt: skip
  bar = BAR + 2 * PAD if masks is not None and rows else PAD
  widths = marks + (PAD if marks else 0) + reads + writes + bar
  inner = max(room(title, NAME), room(text, TEXT) + STRIPE, widths)
  height = 36.0 + 12.0 * len(rows)
  return Card(item, 'box', title, text, rows, inner + 2 * PAD + 2 * STRIPE, height)


def _rows(item: Item, masks: Masks | None) -> list[Row]:
  """One row for every copy; a single one where all are alike."""
  copies = item.all_copies()
  rows = [
    Row(
      mark,
      _change(copy.reads, masks),
      _change(copy.writes, masks),
      None if masks is None else _share(copy.writes, masks) * copy.alive,
      copy.alive,
      copy.name,
    )
    for mark, copy in zip(names_lib.marks([c.name for c in copies]), copies)
  ]
  alike = {(r.reads, r.writes, r.alive) for r in rows}
  return [dataclasses.replace(rows[0], mark='')] if len(alike) == 1 else rows


def _sizes(axes: Sequence[Axis]) -> str:
  return 'x'.join(map(str, size(axes)))


def _change(axes: Sequence[Axis], masks: Masks | None) -> str:
  """'32 → 11', or '32' where nothing can be cut."""
  before = _sizes(axes)
  gated = masks is not None and any(s.group in masks for axis in axes for s in axis)
  if masks is None or not gated:
    return before
  return f'{before} → {"x".join(map(str, kept(axes, masks)))}'


def _share(axes: Sequence[Axis], masks: Masks) -> float:
  share = 1.0
  for before, after in zip(size(axes), kept(axes, masks)):
    share *= after / before if before else 1.0
  return share
