"""Pictures out of fonts: which files are the styles of a family, how a letter is drawn.

A letter is drawn large, once per style. All letters of a style have one scale, so that small
letters stay small; only what is very wide is drawn smaller. Every picture is one affine map of such
a drawing, averaged over areas down to 28x28 pixels, and noise. Letters stand alone, so no text
shaping is needed.
"""

from __future__ import annotations

import math
import pathlib
import re
import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dapt_jax.data import drawn, glyphs

#: Debian's packages, and where their fonts lie once installed.
PACKAGES = ('fonts-noto-core', 'fonts-noto-extra')
INSTALLED = pathlib.Path('/usr/share/fonts/truetype/noto')
#: Every family that is used has at least so many styles where both packages are there.
FEWEST = 9
#: Size of a font while its letters are measured, in pixels.
_MEASURE = 128
#: Drawings are so many times as fine as the pictures.
_FINE = 4
#: The longer side of a letter before it is distorted, at most, in pixels of the final picture.
_WIDEST = 22
#: A character that no font has: shows what a font draws for a letter that it lacks.
_ABSENT = '\U0010fffd'


def styles(folder: pathlib.Path, family: str) -> list[pathlib.Path]:
  """Returns the font files of a family, anywhere below a folder, ordered by name.

  Args:
    folder: where the packages are installed or unpacked.
    family: what the file names begin with, up to the style: 'NotoSansThai' for
      'NotoSansThai-Bold.ttf' but not for 'NotoSansThaiUI-Bold.ttf'.
  """
  pattern = re.compile(re.escape(family) + r'(-\w+)?\.ttf')
  found = {path.name: path for path in folder.rglob(f'{family}*.ttf')}
  return [found[name] for name in sorted(found) if pattern.fullmatch(name)]


def missing(folder: pathlib.Path, collection: glyphs.GlyphCollection) -> list[str]:
  """Returns what a folder lacks for the scripts, one sentence a family."""
  return [
    f'{folder} has {count} styles of {family}, not {FEWEST} or more'
    for family, count in _count(folder, collection).items()
    if count < FEWEST
  ]


def _count(folder: pathlib.Path, collection: glyphs.GlyphCollection) -> dict[str, int]:
  """The number of styles of every family that the scripts use."""
  scripts = collection.scripts.values()
  families = sorted({family for script in scripts for family in (*script.train, *script.test)})
  return {family: len(styles(folder, family)) for family in families}


def drawings(path: pathlib.Path, letters: str, extent: float) -> list[Image.Image]:
  """Draws letters of a font, each in the middle of a square of its own.

  Args:
    path: the font file.
    letters: what to draw.
    extent: the longer side of the median letter, in pixels of the final picture.

  Returns:
    Grey pictures, four times as fine as the final ones, ink white on black.

  Raises:
    ValueError: the font lacks a letter, or draws two of them alike.
  """
  font = _font(path, _MEASURE)
  measured = [_ink(font, letter) for letter in letters]
  absent = _ink(font, _ABSENT)
  for letter, ink in zip(letters, measured):
    if 0 in ink.size or ink.tobytes() == absent.tobytes():
      raise ValueError(f'{path}: no letter {letter!r}; choose another letter or family.')
  sides = np.array([max(ink.size) for ink in measured])
  scale = np.minimum(extent / np.median(sides), _WIDEST / sides) * _FINE
  fonts = [_font(path, round(_MEASURE * factor)) for factor in scale]
  out = [_centred(_ink(font, letter)) for font, letter in zip(fonts, letters)]
  for k, picture in enumerate(out):
    for other, letter in zip(out[:k], letters):
      if picture.tobytes() == other.tobytes():
        raise ValueError(f'{path}: letters {letter!r} and {letters[k]!r} are drawn alike.')
  return out


def _font(path: pathlib.Path, size: int) -> ImageFont.FreeTypeFont:
  # The plain layout engine is in every build of Pillow; letters that stand alone need no other.
  return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _ink(font: ImageFont.FreeTypeFont, letter: str) -> Image.Image:
  """The letter, cut out to its ink; of size 0 where there is none."""
  size = round(font.size)
  picture = Image.new('L', (4 * size, 4 * size))
  ImageDraw.Draw(picture).text((size, size), letter, fill=255, font=font)
  return picture.crop(picture.getbbox() or (0, 0, 0, 0))


def _centred(ink: Image.Image) -> Image.Image:
  edge = glyphs.SIZE * _FINE
  picture = Image.new('L', (edge, edge))
  picture.paste(ink, ((edge - ink.width) // 2, (edge - ink.height) // 2))
  return picture


def distort(
  picture: Image.Image, distortion: glyphs.Distortion, rng: np.random.Generator
) -> np.ndarray:
  """Makes one final picture of a drawing.

  Args:
    picture: from `drawings`.
    distortion: limits of the changes.
    rng: gives their amounts and the noise.

  Returns:
    u8[28, 28].
  """
  amounts = rng.uniform(-1, 1, 6)
  noise = rng.normal(0, distortion.noise, (glyphs.SIZE, glyphs.SIZE))
  angle = math.radians(amounts[0] * distortion.turn)
  turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
  slant = np.array([[1, amounts[1] * distortion.shear], [0, 1]])
  stretch = np.diag(2 ** (amounts[2:4] * distortion.stretch))
  # Pillow asks where the ink of a pixel comes from: for the way back.
  back = np.linalg.inv(turn @ slant @ stretch)
  middle = np.full(2, glyphs.SIZE * _FINE / 2)
  offset = middle - back @ (middle + amounts[4:] * distortion.shift * _FINE)
  coefficients = tuple(np.column_stack([back, offset]).ravel().tolist())
  moved = picture.transform(
    picture.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
  )
  ink = np.asarray(moved.reduce(_FINE)) / 255
  return np.rint(255 * np.clip(ink + noise, 0, 1)).astype(np.uint8)


def draw(
  folder: pathlib.Path, collection: glyphs.GlyphCollection, name: str, split: str
) -> tuple[np.ndarray, np.ndarray]:
  """Draws all pictures of one split of a script.

  Every letter is drawn in all styles in turn, in an order drawn from the seed, each time distorted
  anew.

  Args:
    folder: where the fonts lie.
    collection: what to draw.
    name: the script.
    split: 'train' or 'test'.

  Returns:
    u8[n, 28, 28], i32[n], ordered by label.

  Raises:
    ValueError: there is no font of its families, or one lacks a letter.
  """
  script, count = collection.scripts[name], collection.counts[split]
  families = script.train if split == 'train' else script.test
  files = [path for family in families for path in styles(folder, family)]
  if not files:
    raise ValueError(f'{folder}: no font of {list(families)}, which glyphs/{name} needs.')
  rng = np.random.default_rng([glyphs.SEED, zlib.crc32(f'{name}/{split}'.encode())])
  chosen = [files[k] for k in rng.permutation(len(files))[:count]]
  extent = collection.distortion.extent
  drawn_in = [drawings(path, script.letters, extent) for path in chosen]
  images = [
    distort(drawn_in[turn % len(chosen)][label], collection.distortion, rng)
    for label in range(len(script.letters))
    for turn in range(count)
  ]
  return np.stack(images), np.repeat(np.arange(len(script.letters), dtype=np.int32), count)


def prepare(
  folder: pathlib.Path, target: pathlib.Path, collection: glyphs.GlyphCollection
) -> dict[str, int]:
  """Draws all scripts of a collection and writes their splits.

  Args:
    folder: where the fonts lie, installed or unpacked.
    target: an existing directory.
    collection: what to draw.

  Returns:
    `{'data set/split': number of pictures}`.

  Raises:
    ValueError: as `draw`.
  """
  parts = {
    (f'{glyphs.FETCH_NAME}/{name}', split): draw(folder, collection, name, split)
    for name in collection.scripts
    for split in drawn.SPLITS
  }
  about = {'package': ' and '.join(PACKAGES), 'styles': _count(folder, collection)}
  collection.save(target, parts, about)
  return {'/'.join(part): len(labels) for part, (_, labels) in parts.items()}
