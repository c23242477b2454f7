"""Small figures as inline SVG: no global plotting state, no outside references, equal bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import html
import io
import re
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
from matplotlib import axes as axes_lib
from matplotlib import figure as figure_lib
from matplotlib import lines

_STYLE: Any = {
  'svg.fonttype': 'path',  # measured by the layout, so labels cannot collide in another font
  'svg.hashsalt': 'dapt_jax',
  'text.parse_math': False,  # names may hold a dollar sign
  'font.family': 'DejaVu Sans',
  'font.size': 9.5,
  'axes.titlesize': 10,
  'axes.titlelocation': 'left',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.edgecolor': '#666666',
  'axes.labelcolor': '#333333',
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': '#e4e4e4',
  'grid.linewidth': 0.7,
  'xtick.color': '#555555',
  'ytick.color': '#555555',
  'lines.linewidth': 1.3,
  'lines.markersize': 4.6,
  'axes.unicode_minus': True,
}


@dataclasses.dataclass(frozen=True)
class Panel:
  """One figure of the page.

  Attributes:
    svg: the `<svg>` element.
    caption: a short line below the figure.
  """

  svg: str
  caption: str = ''


@contextlib.contextmanager
def canvas(width: float = 5.0, height: float = 3.3) -> Iterator[axes_lib.Axes]:
  """Axes of a new figure in the report's style; sizes in inches."""
  with matplotlib.rc_context(_STYLE):
    figure = figure_lib.Figure(figsize=(width, height), layout='constrained')
    yield figure.add_subplot()


def render(axes: axes_lib.Axes, alt: str, salt: str = '') -> str:
  """The figure of `axes` as an `<svg>` element that can share a page with others.

  Args:
    axes: made by `canvas`, within its `with` block.
    alt: what the picture shows, for readers who do not see it.
    salt: tells apart two copies of one picture on a page.
  """
  figure = axes.get_figure(root=True)
  assert figure is not None
  buffer = io.StringIO()
  figure.savefig(buffer, format='svg', metadata={'Date': None, 'Creator': None}, transparent=True)
  text = buffer.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>\s*', '', text, flags=re.S)
  opening = re.match(r'<svg[^>]*>', text)
  assert opening is not None
  box = re.search(r'viewBox="([^"]*)"', opening.group())
  assert box is not None
  body = text[opening.end() :].replace('xlink:href', 'href')
  # Ids count from one in every figure; a prefix keeps the figures of a page apart.
  prefix = 'f' + hashlib.sha256((salt + alt + body).encode()).hexdigest()[:8]
  used = set(re.findall(r'(?:href="|url\()#([^")]*)', body))
  body = re.sub(
    r' id="([^"]*)"', lambda m: f' id="{prefix}-{m.group(1)}"' if m.group(1) in used else '', body
  )
  body = re.sub(r'(href="|url\()#', rf'\g<1>#{prefix}-', body)
  label = html.escape(alt, quote=True)
  return f'<svg viewBox="{box.group(1)}" role="img" aria-label="{label}">{body}'.strip()


def swatch(colour: str, marker: str, line: Any, salt: str) -> str:
  """A line with a marker, for a legend outside the plots; decoration, so without a text.

  Args: colour, marker, line: of Matplotlib; salt: as in `render`.
  """
  with canvas(0.42, 0.16) as axes:
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(-1, 1)
    style: Any = {'color': colour, 'marker': marker, 'linestyle': line, 'markersize': 6}
    axes.add_line(lines.Line2D([0.02, 0.5, 0.98], [0, 0, 0], markevery=[1], **style))
    return render(axes, '', salt).replace('role="img" aria-label=""', 'aria-hidden="true"')


def spaced(values: list[float], ratio: float = 1.28) -> list[float]:
  """Those of the increasing positive values whose labels do not run into each other."""
  kept: list[float] = []
  for value in sorted(set(values), reverse=True):
    if not kept or kept[-1] / value >= ratio:
      kept.append(value)
  return kept[::-1]


def limits(low: list[float], high: list[float]) -> tuple[float, float]:
  """A common range for accuracies with some room, inside [0, 1]."""
  bottom, top = np.nanmin(low), np.nanmax(high)
  margin = max(0.06 * (top - bottom), 0.01)
  return max(0.0, float(bottom - margin)), min(1.0, float(top + margin))
