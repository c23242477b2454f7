"""Elements of SVG: text, lines, and the marks of groups."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np

from dapt_jax.graph.picture import legend as legend_lib

Element = ElementTree.Element
#: Greys that can be seen on white and on black; boxes bring their own light ground.
LINE, FAINT, INK, PAPER, EDGE, GONE = (
  *('#858585', '#b9b9b9', '#1c1c1c', '#fcfcfc', '#9c9c9c', '#eeeeee'),
)
MUTED = '#5a5a5a'


def tag(parent: Element, name: str, text: str = '', **attributes: object) -> Element:
  """Adds an element; numbers are rounded, '_' in names of attributes becomes '-'."""
  shown = {k.rstrip('_').replace('_', '-'): number(v) for k, v in attributes.items()}
  element = ElementTree.SubElement(parent, name, shown)
  element.text = clean(text) or None
  return element


def number(value: object) -> str:
  """A value of an attribute: floats with up to two decimals, other things as they print."""
  return f'{value:.2f}'.rstrip('0').rstrip('.') if isinstance(value, float) else clean(str(value))


def clean(text: str) -> str:
  """The text without characters that XML cannot hold."""
  return re.sub('[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]', '\ufffd', text)


def write(parent: Element, text: str, x: float, y: float, points: float, **more: object) -> None:
  """Adds a line of text, if there is any."""
  if text:
    tag(parent, 'text', text, x=x, y=y, font_size=points, **more)


def route(points: Sequence[tuple[float, float, float]]) -> str:
  """The path of a line down through (x, upper y, lower y), with curves or corners between them."""
  (x, top, y), *others = points
  path = f'M{number(x)} {number(top)}V{number(y)}'
  for to, upper, lower in others:
    middle = number((y + upper) / 2)
    ends = f'{number(x)} {middle} {number(to)} {middle} {number(to)} {number(upper)}'
    bend = f'H{number(to)}' if y == upper else f'C{ends}'
    path += f'{f"V{number(upper)}" if to == x else bend}V{number(lower)}'
    x, y = to, lower
  return path


def swatch(
  parent: Element, x: float, y: float, width: float, height: float, entry: legend_lib.Entry
) -> None:
  """A rectangle in the colour of a group, with its number."""
  group = tag(parent, 'g', class_=class_of(entry))
  tag(group, 'title', f'{entry.kind} {entry.text}: {entry.widths}')
  tag(group, 'rect', x=x, y=y, width=width, height=height, fill=entry.colour)
  if height >= 9:
    write(group, str(entry.number), x + width / 2, y + height / 2 + 3, 8.0, text_anchor='middle',
          fill=entry.ink)  # fmt: skip


def diamond(
  parent: Element, x: float, y: float, entry: legend_lib.Entry, faint: bool = False
) -> None:
  """The gate of a branch."""
  look = {'fill': GONE, 'stroke': entry.colour} if faint else {'fill': entry.colour}
  tag(parent, 'path', d=f'M{number(x - 10)} {number(y)}l10 -9 10 9 -10 9z', **look)
  write(parent, str(entry.number), x, y + 3, 8.0, text_anchor='middle',
        fill=INK if faint else entry.ink)  # fmt: skip


def hatched(parent: Element, x: float, y: float, width: float, height: float, why: str) -> None:
  """Positions that stay whole, and the reason."""
  group = tag(parent, 'g', class_='whole')
  tag(group, 'title', f'stays whole: {why}')
  tag(group, 'rect', x=x, y=y, width=width, height=height, fill='#d2d2d2')
  side = min(width, height)
  right, down = (np.arange(0.0, most - side + 0.1, 5.0) for most in (width, height))
  lines = ''.join(
    f'M{number(x + float(i))} {number(y + float(j) + side)}l{number(side)} -{number(side)}'
    for i in right
    for j in down
  )
  if lines:
    tag(group, 'path', d=lines, stroke='#8a8a8a', stroke_width=1.0)


def class_of(entry: legend_lib.Entry) -> str:
  """What the page looks for to show a group."""
  return f'group group-{entry.number}'
