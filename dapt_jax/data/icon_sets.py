"""Pictures out of the npm package of icon sets: which icons, rendered how, with whose licence.

Icons are SVG bodies in one JSON file a set. Used are sets under permissive licences, in one
colour, that are no collections of logos, flags or emoji; of them, icons whose name is a concept, or
another name of it, once words of style are left out ('home', 'home-outline', 'home-24-filled').
"""

from __future__ import annotations

import collections
import io
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dapt_jax.data import icons

PACKAGE = '@iconify/json@2.2.535'
#: Below the place where npm unpacks.
INSIDE = 'node_modules/@iconify/json'
LICENCES = {'MIT', 'Apache-2.0', 'ISC', 'BSD-3-Clause', 'CC0-1.0', 'Unlicense', 'OFL-1.1'}
LICENCES |= {'CC-BY-3.0', 'CC-BY-4.0'}
_LEFT_OUT = ('Logos', 'Flags / Maps', 'Emoji')
_STYLE = {
  'outline',
  'outlined',
  'filled',
  'fill',
  'bold',
  'light',
  'duotone',
  'thin',
  'solid',
  'line',
}
_STYLE |= {'line', 'linear', 'rounded', 'round', 'sharp', 'regular', 'broken', 'twotone', 'two'}
_STYLE |= {'tone', 'bulk', 'alt', 'stroke', 'icon', 'simple', 'ui', '1', '2', '3', '01', '02', '03'}
_STYLE |= {'12', '16', '20', '24', '28', '32', '48'}
#: At most so many icons of one concept out of one set.
_MOST = 6
#: Share of the picture that ink may cover; else it is blank or a block.
_INK = (0.01, 0.95)


class Icon(NamedTuple):
  """One icon of a concept.

  Attributes:
    designer: the author of its set.
    prefix: the name of its set.
    concept: the word it stands for.
    svg: a whole SVG document with a square view box.
  """

  designer: str
  prefix: str
  concept: str
  svg: str


def usable(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Sets that may and can be used: `{prefix: what collections.json says about the set}`.

  Raises:
    ValueError: the folder does not hold the package.
  """
  path = folder / 'collections.json'
  if not path.is_file():
    raise ValueError(f'{path} is missing: {folder} does not hold {PACKAGE}.')
  sets = json.loads(path.read_text(encoding='utf-8'))
  return {
    prefix: said
    for prefix, said in sorted(sets.items())
    if said['license'].get('spdx') in LICENCES
    and said.get('category') not in _LEFT_OUT
    and not said.get('palette')
  }


def read(folder: pathlib.Path, collection: icons.IconCollection) -> Iterator[Icon]:
  """Yields the icons of all concepts of a collection, ordered by set and name."""
  concepts = collection.concepts
  for prefix, said in usable(folder).items():
    whole = json.loads((folder / 'json' / f'{prefix}.json').read_text(encoding='utf-8'))
    taken = collections.Counter[str]()
    for name, icon in sorted(whole['icons'].items()):
      concept = concepts.get(plain_name(name))
      if concept is None or taken[concept] == _MOST or icon.get('hidden'):
        continue
      taken[concept] += 1
      yield Icon(said['author']['name'], prefix, concept, _document(icon, whole))


def plain_name(name: str) -> str:
  """The name of an icon without words of style."""
  return '-'.join(word for word in name.split('-') if word not in _STYLE)


def _document(icon: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
  """The icon as an SVG document, its view box made square around the middle."""
  width, height, left, top = (
    float(icon.get(field, whole.get(field, default)))
    for field, default in (('width', 16), ('height', 16), ('left', 0), ('top', 0))
  )
  side = max(width, height)
  box = f'{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}'
  space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
  return f'<svg {space} viewBox="{box}">{icon["body"]}</svg>'


def render(svg: str, size: int) -> np.ndarray:
  """Renders an SVG document: u8[size, size], how much of every pixel is covered.

  Raises:
    ImportError: resvg-py is not installed.
    ValueError: the document cannot be rendered.
  """
  try:
    import resvg_py  # optional: only preparing needs it
  except ImportError as e:
    raise ImportError(
      "resvg-py draws the icons and is not installed: pip install resvg-py (or 'dapt_jax[icons]')"
    ) from e
  png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
  with Image.open(io.BytesIO(bytes(png))) as image:
    return np.asarray(image.convert('RGBA'))[..., 3]


def prepare(
  folder: pathlib.Path,
  target: pathlib.Path,
  draw: Callable[[str, int], np.ndarray] = render,
) -> dict[str, int]:
  """Renders all icons of the package, drops exact duplicates, and writes the splits.

  Args:
    folder: where the package lies unpacked.
    target: an existing directory; gets the pictures, what is known of them, and CREDITS.md.
    draw: renders one document with an edge of so many pixels.

  Returns:
    `{'data set/split': number of pictures}`.

  Raises:
    ImportError: as `render`.
    ValueError: no package there, or a class of a split without a picture.
  """
  counts: dict[str, int] = {}
  used: set[str] = set()
  for collection in icons.COLLECTIONS:
    parts = _draw(folder, collection, draw)
    arrays = {part: _stacked(collection, part, parts[part]) for part in collection.parts}
    sets = {'/'.join(part): sorted({s.prefix for s in found}) for part, found in parts.items()}
    collection.save(target, arrays, {'package': PACKAGE, 'sets': sets})
    counts |= {'/'.join(part): len(found) for part, found in parts.items()}
    used |= {prefix for found in sets.values() for prefix in found}
  (target / 'CREDITS.md').write_text(_credits(usable(folder), sorted(used)), encoding='utf-8')
  return counts


class _Picture(NamedTuple):
  """A picture u8[size, size], its class, and the name of its set."""

  pixels: np.ndarray
  label: int
  prefix: str


def _draw(
  folder: pathlib.Path,
  collection: icons.IconCollection,
  draw: Callable[[str, int], np.ndarray],
) -> dict[tuple[str, str], list[_Picture]]:
  """The pictures of every split, without blanks and exact duplicates."""
  hands = collection.deal([said['author']['name'] for said in usable(folder).values()])
  home = collection.home
  parts: dict[tuple[str, str], list[_Picture]] = {part: [] for part in collection.parts}
  seen = set()
  for icon in read(folder, collection):
    name = home[icon.concept]
    part = collection.part(name, hands[icon.designer])
    if part is None:
      continue
    try:
      pixels = draw(icon.svg, collection.size)
    except ValueError:  # a body that is not proper SVG
      continue
    if pixels.tobytes() in seen or not _INK[0] <= pixels.mean() / 255 <= _INK[1]:
      continue
    seen.add(pixels.tobytes())
    label = collection.class_names[name].index(icon.concept)
    parts[part].append(_Picture(pixels, label, icon.prefix))
  return parts


def _stacked(
  collection: icons.IconCollection, part: tuple[str, str], pictures: list[_Picture]
) -> tuple[np.ndarray, np.ndarray]:
  labels = np.array([picture.label for picture in pictures], np.int32)
  missing = [word for k, word in enumerate(collection.class_names[part[0]]) if k not in labels]
  if missing:
    raise ValueError(f'{"/".join(part)}: no picture of {missing}; is the package whole?')
  return np.stack([picture.pixels for picture in pictures]), labels


def _credits(sets: Mapping[str, Mapping[str, Any]], used: list[str]) -> str:
  """Who drew what under which licence, as CC-BY asks for."""
  lines = [
    '# Icon sets',
    '',
    f'Rendered from {PACKAGE}; each icon was made 64x64 or 28x28 pixels.',
    '',
  ]
  for prefix in used:
    said = sets[prefix]
    author, licence = said['author'], said['license']
    where = ', '.join(url for url in (author.get('url'), licence.get('url')) if url)
    lines.append(f'- {said["name"]} ({prefix}) by {author["name"]}: {licence["title"]}; {where}')
  return '\n'.join(lines) + '\n'
