"""The legend of a picture: every colour with its groups, and what the signs mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from dapt_jax.graph.picture import names as names_lib
from dapt_jax.graph.picture import svg
from dapt_jax.graph.picture.cards import ROW, TEXT, room
from dapt_jax.graph.picture.legend import Entry

_LINE, _PAD, _SWATCH, _GAP = 20.0, 10.0, 20.0, 18.0
_LONGEST = 40


class Key:
  """A panel with the legend.

  Attributes:
    entries: lines with a colour.
    head: lines of text above them.
    notes: lines below: what the signs mean.
  """

  def __init__(self, entries: Sequence[Entry], head: Sequence[str], cut: bool | None) -> None:
    """Sets up a legend; `cut`: whether layers are cut, None without an architecture."""
    self.entries = entries
    self.head = head
    self.notes = ['left: width read, right: width written', 'hatched: stays whole']
    if cut is not None:
      self.notes[0] += ', before → after'
      self.notes.append('bar: share of the written width that stays')
    if cut:
      self.notes.append('dashed: cut')
    if any(e.kind == 'branch' for e in entries):
      self.notes.append('diamond: gate of a branch')
    self._names = [names_lib.middle(e.text, _LONGEST) for e in entries]
    self._column = _SWATCH + 2 * _GAP + max(
      (room(n, TEXT) + room(e.widths, ROW) for n, e in zip(self._names, entries)), default=0.0
    )  # fmt: skip

  def across(self, columns: int) -> float:
    """Width of the panel with this many columns."""
    texts = max(room(t, ROW) for t in [*self.head, *self.notes])
    return max(columns * self._column, texts) + 2 * _PAD

  def height(self, width: float) -> float:
    """Height of the panel in this width."""
    texts = len(self.head) + len(self.notes)
    return self._rows(width) * _LINE + texts * 14.0 + 3 * _PAD

  def _columns(self, width: float) -> int:
    return max(1, int((width - 2 * _PAD) / self._column))

  def _rows(self, width: float) -> int:
    return math.ceil(len(self.entries) / self._columns(width))

  def draw(self, parent: ElementTree.Element, x: float, y: float, width: float) -> None:
    """Draws the panel with its upper left corner at (x, y)."""
    panel = svg.tag(parent, 'g', class_='key', transform=f'translate({x:.1f} {y:.1f})')
    box: dict[str, Any] = {'width': width, 'height': self.height(width), 'rx': 6.0}
    svg.tag(panel, 'rect', fill=svg.PAPER, stroke=svg.FAINT, **box)
    at = _PAD
    for line in self.head:
      at += 14.0
      svg.write(panel, line, _PAD, at - 3.0, ROW)
    at += _PAD / 2
    rows = self._rows(width)
    for number, entry in enumerate(self.entries):
      column, row = divmod(number, rows)
      left = _PAD + column * self._column
      self._entry(panel, number, entry, left, at + row * _LINE)
    at += rows * _LINE + _PAD / 2
    for line in self.notes:
      at += 14.0
      svg.write(panel, line, _PAD, at - 3.0, ROW, fill=svg.MUTED)

  def _entry(
    self, panel: ElementTree.Element, number: int, entry: Entry, x: float, y: float
  ) -> None:
    group = svg.tag(panel, 'g', class_=svg.class_of(entry))
    svg.tag(group, 'title', '\n'.join(entry.groups))
    if entry.kind == 'branch':
      svg.diamond(group, x + _SWATCH / 2, y + _LINE / 2, entry, faint=entry.is_cut)
    else:
      svg.swatch(group, x + 2, y + 3.0, _SWATCH - 4, _LINE - 6.0, entry)
    svg.write(group, self._names[number], x + _SWATCH + 6, y + 13.5, TEXT)
    end = x + self._column - _GAP
    svg.write(group, entry.widths, end, y + 13.5, ROW, text_anchor='end', fill=svg.MUTED)
