"""What tests of pictures look at: places of all boxes and links, texts of the SVG."""

import itertools
from xml.etree import ElementTree

from dapt_jax.graph.picture import draw

SVG = '{http://www.w3.org/2000/svg}'


def boxes(layout):
  """[(item, left, top, right, bottom)] of the items of a layout, those of bodies left out."""
  return [
    (n.card.item, n.x - n.left, n.top, n.x - n.left + n.card.width, n.bottom) for n in layout.nodes
  ]


def levels(layout):
  """The layout and those of all bodies."""
  return [layout, *(inner for body in layout.inner.values() for inner in levels(body))]


def assert_nothing_overlaps(graph, masks=None, fold=None):
  """No two boxes overlap, no link runs over a box, bodies lie inside of their frames."""
  _, layout = draw.plan(graph, masks, fold)
  for level in levels(layout):
    found = boxes(level)
    for (_, a, b, c, d), (_, e, f, g, h) in itertools.combinations(found, 2):
      assert c <= e or g <= a or d <= f or h <= b
    for wire in level.wires:
      for x, upper, lower in wire.points[1:-1]:
        for _, left, top, right, bottom in found:
          assert not (left < x < right and max(min(upper, lower), top) < min(
            max(upper, lower), bottom))  # fmt: skip
    for number, body in level.inner.items():
      card = level.nodes[number].card
      for _, left, top, right, bottom in boxes(body):
        assert left >= 0 and top > 0 and right <= card.width and bottom < card.height
  for _, left, top, right, bottom in boxes(layout):
    assert left >= -0.01 and top >= 0 and right <= layout.width + 0.01
    assert bottom <= layout.height


def root(picture):
  """The parsed SVG."""
  return ElementTree.fromstring(picture.svg)


def texts(picture):
  """All lines of text, tooltips not among them."""
  return [t.text for t in root(picture).iter(f'{SVG}text')]


def legend(picture):
  """{name of a group: number of its colour}, read off the legend."""
  (key,) = [g for g in root(picture).iter(f'{SVG}g') if g.get('class') == 'key']
  found = {}
  for line in key:
    if line.get('class', '').startswith('group group-'):
      names = line.find(f'{SVG}title').text.split('\n')
      found |= dict.fromkeys(names, int(line.get('class').rpartition('-')[2]))
  return found
