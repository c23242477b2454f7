"""Pictures out of the npm package of icon sets: which icons, rendered how, with whose licence.

Icons are SVG bodies in one JSON file a set. Used are sets under permissive licences, in one
colour, that are no collections of logos, flags or emoji; of them, icons whose name is a concept
once words of style are left out ('home', 'home-outline', 'home-24-filled', ...).
"""

from __future__ import annotations

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


def read(folder: pathlib.Path) -> Iterator[Icon]:
  """Yields the icons of all concepts, ordered by set and name."""
  concepts = {word for words in icons.CONCEPTS.values() for word in words}
  for prefix, said in usable(folder).items():
    whole = json.loads((folder / 'json' / f'{prefix}.json').read_text(encoding='utf-8'))
    taken = dict.fromkeys(concepts, 0)
    for name, icon in sorted(whole['icons'].items()):
      concept = concept_of(name)
      if concept not in taken or taken[concept] == _MOST or icon.get('hidden'):
        continue
      taken[concept] += 1
      yield Icon(said['author']['name'], prefix, concept, _document(icon, whole))


def concept_of(name: str) -> str | None:
  """The word that a name comes down to without words of style; None for several words."""
  words = [word for word in name.split('-') if word not in _STYLE]
  return words[0] if len(words) == 1 else None


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


def render(svg: str) -> np.ndarray:
  """Renders an SVG document: u8[SIZE, SIZE], how much of every pixel is covered.

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
  png = resvg_py.svg_to_bytes(svg_string=svg, width=icons.SIZE, height=icons.SIZE)
  with Image.open(io.BytesIO(bytes(png))) as image:
    return np.asarray(image.convert('RGBA'))[..., 3]


def prepare(
  folder: pathlib.Path,
  target: pathlib.Path,
  draw: Callable[[str], np.ndarray] = render,
) -> dict[str, int]:
  """Renders all icons of the package, drops exact duplicates, and writes the splits.

  Args:
    folder: where the package lies unpacked.
    target: an existing directory; gets the pictures, what is known of them, and CREDITS.md.
    draw: renders one document.

  Returns:
    `{'data set/split': number of pictures}`.

  Raises:
    ImportError: as `render`.
    ValueError: no package there, or a class of a split without a picture.
  """
  place = icons.deal([said['author']['name'] for said in usable(folder).values()])
  images: dict[tuple[str, str], list[np.ndarray]] = {part: [] for part in icons.SHARES}
  labels: dict[tuple[str, str], list[int]] = {part: [] for part in icons.SHARES}
  used: dict[tuple[str, str], set[str]] = {part: set() for part in icons.SHARES}
  seen = set()
  for icon in read(folder):
    part = place[icon.designer]
    if icon.concept not in icons.CONCEPTS[part[0]]:
      continue
    try:
      picture = draw(icon.svg)
    except ValueError:  # a body that is not proper SVG
      continue
    if picture.tobytes() in seen or not _INK[0] <= picture.mean() / 255 <= _INK[1]:
      continue
    seen.add(picture.tobytes())
    images[part].append(picture)
    labels[part].append(icons.CONCEPTS[part[0]].index(icon.concept))
    used[part].add(icon.prefix)
  arrays = {part: _stacked(part, images[part], labels[part]) for part in icons.SHARES}
  sets = {'/'.join(part): sorted(used[part]) for part in icons.SHARES}
  icons.save(target, arrays, {'package': PACKAGE, 'sets': sets})
  credits = _credits(usable(folder), sorted({p for found in sets.values() for p in found}))
  (target / 'CREDITS.md').write_text(credits, encoding='utf-8')
  return {'/'.join(part): len(arrays[part][1]) for part in icons.SHARES}


def _stacked(
  part: tuple[str, str], images: list[np.ndarray], labels: list[int]
) -> tuple[np.ndarray, np.ndarray]:
  words = icons.CONCEPTS[part[0]]
  missing = [word for k, word in enumerate(words) if k not in labels]
  if missing:
    raise ValueError(f'{"/".join(part)}: no picture of {missing}; is the package whole?')
  return np.stack(images), np.asarray(labels, np.int32)


def _credits(sets: Mapping[str, Mapping[str, Any]], used: list[str]) -> str:
  """Who drew what under which licence, as CC-BY asks for."""
  lines = ['# Icon sets', '', f'Rendered from {PACKAGE}; each icon was made 64x64 pixels.', '']
  for prefix in used:
    said = sets[prefix]
    author, licence = said['author'], said['license']
    where = ', '.join(url for url in (author.get('url'), licence.get('url')) if url)
    lines.append(f'- {said["name"]} ({prefix}) by {author["name"]}: {licence["title"]}; {where}')
  return '\n'.join(lines) + '\n'
