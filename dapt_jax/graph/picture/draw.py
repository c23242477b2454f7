"""The graph as a picture: layers as boxes, groups as colours, widths before and after a cut."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from dapt_jax import files
from dapt_jax.graph import explain
from dapt_jax.graph.picture import (
  columns,
  diagram,
  items,
  key,
  layout,
  legend,
  painter,
  places,
  repeats,
  svg,
)

if TYPE_CHECKING:
  from dapt_jax.graph.architecture import Architecture
  from dapt_jax.graph.channel_graph import ChannelGraph

#: Deeper networks are folded unless told otherwise.
_DEEP = 24
_MARGIN = 12.0
_FONT = 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace'

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Channel graph</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 1rem; }}
.group {{ cursor: pointer; }}
svg.chosen .group:not(.on), svg.chosen .whole {{ opacity: .15; }}
</style>
{svg}
<script>
const svg = document.querySelector('svg');
const names = target => [...target.closest('.group')?.classList ?? []].filter(c => /-/.test(c));
svg.addEventListener('mouseover', event => {{
  const [name] = names(event.target);
  svg.classList.toggle('chosen', Boolean(name));
  svg.querySelectorAll('.group').forEach(g => g.classList.toggle('on', g.classList.contains(name)));
}});
</script>
</html>
"""


@dataclasses.dataclass(frozen=True)
class Picture:
  """A drawn graph. Notebooks show it where it is the last value of a cell.

  Attributes:
    svg: the picture as SVG text, without scripts or anything loaded from elsewhere.
  """

  svg: str

  @property
  def html(self) -> str:
    """A page with the picture, where pointing at a group shows all that belongs to it."""
    return _PAGE.format(svg=self.svg)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the picture, all or nothing; its folder is made.

    Args:
      path: ending in '.svg', or in '.html' for a page.

    Raises:
      ValueError: for another ending.
      OSError: if the disk refuses; what was there is then still there.
    """
    target = pathlib.Path(path)
    text = {'.svg': self.svg, '.html': self.html}.get(target.suffix)
    if text is None:
      raise ValueError(
        f'a picture is saved as .svg or .html, not as {target.name!r}: give a path with one of them'
      )
    target.parent.mkdir(parents=True, exist_ok=True)
    files.replace([(target, text.encode())], 'the picture')

  def _repr_svg_(self) -> str:
    return self.svg

  def _repr_html_(self) -> str:
    return f'<div style="overflow-x: auto">{self.svg}</div>'


def draw(graph: ChannelGraph, arch: Architecture | None, fold: bool | None) -> Picture:
  """Draws a graph; see `ChannelGraph.picture`."""
  masks = None
  if arch is not None:
    arch.check(graph)
    masks = arch.masks()
  shown, placed = plan(graph, masks, fold)
  entries = legend.entries(graph, shown, masks)
  cut = None if masks is None else not all(i.alive for i in shown.walk())
  totals = explain.totals(graph, arch)
  panel = key.Key(list(dict.fromkeys(entries.values())), totals, cut)
  root, body, at, across = _sheet(placed, panel, f'{len(entries)} gated groups')
  painter.Painter(graph, entries, masks).layout(body, placed)
  panel.draw(body, *at, across)
  ElementTree.indent(root, '')
  return Picture(ElementTree.tostring(root, encoding='unicode'))


def plan(
  graph: ChannelGraph, masks: diagram.Masks | None, fold: bool | None
) -> tuple[diagram.Diagram, places.Layout]:
  """What is drawn, and where.

  Args:
    graph: from `trace`.
    masks: {group: f32[width]} of an architecture, or None.
    fold: as for `ChannelGraph.picture`.
  """
  shown = diagram.tidy(items.read(graph))
  diagram.mark(shown, masks or {})
  if _depth(shown) > _DEEP if fold is None else fold:
    shown = repeats.fold(shown)
  return shown, columns.split(layout.lay_out(shown, masks))


def _sheet(
  placed: places.Layout, panel: key.Key, said: str
) -> tuple[ElementTree.Element, ElementTree.Element, tuple[float, float], float]:
  """(root, where to draw, corner of the legend, its width): beside a tall drawing, or below."""
  if placed.height > placed.width + panel.height(placed.width):
    across = panel.across(1)
    at = (placed.width + 3 * _MARGIN, 0.0)
    width, height = at[0] + across, max(placed.height, panel.height(across))
  else:
    width = across = max(placed.width, panel.across(1))
    at = (0.0, placed.height + 2 * _MARGIN)
    height = at[1] + panel.height(across)
    places.move(placed, (width - placed.width) / 2, 0.0)
  width, height = width + 2 * _MARGIN, height + 2 * _MARGIN
  root = ElementTree.Element(
    'svg',
    {
      'xmlns': 'http://www.w3.org/2000/svg',
      'viewBox': f'0 0 {width:.0f} {height:.0f}',
      'width': f'{width:.0f}',
      'height': f'{height:.0f}',
      'font-family': _FONT,
      'fill': svg.INK,
      'role': 'img',
      'aria-label': f'Channel graph: {"; ".join([*panel.head, said])}',
    },
  )
  body = svg.tag(root, 'g', transform=f'translate({_MARGIN:g} {_MARGIN:g})')
  return root, body, at, across


def _depth(shown: diagram.Diagram) -> int:
  """Items on the longest way through."""
  depth = {diagram.PORT: 0}
  for number, item in enumerate(shown.items):
    depth[number] = 1 + max((depth[k.source] for k in item.links), default=0)
  return max(depth.values())
