"""Letters of many scripts out of the Noto fonts: `glyphs/georgian`, `glyphs/thai`, ...

Every script is a data set of 28x28: its classes are ten letters, its training pictures come from
other font families than its test pictures (mostly Sans against Serif), and every picture is
distorted at random. This file is the one place that says which letters and families belong to a
script, and how strong the distortion is. The pictures are made once, by
`python -m dapt_jax.data.fetch glyphs`; see `glyph_fonts`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from dapt_jax.data import drawn

#: Edge length of the pictures, in pixels.
SIZE = 28
#: Of the choice of styles and of the distortions.
SEED = 0
#: What `fetch` calls all of them together.
FETCH_NAME = 'glyphs'


class Distortion(NamedTuple):
  """How far a picture is changed; every amount is drawn evenly up to the limit given here.

  Attributes:
    extent: the longer side of the median letter of a style before the changes, in pixels.
    turn: rotation to either side, in degrees.
    shear: slant to either side, as a tangent.
    stretch: each axis is multiplied by up to 2 ** stretch, or divided by it.
    shift: displacement along each axis, in pixels.
    noise: standard deviation of the Gaussian noise on every pixel, where 1 is full ink.
  """

  extent: float = 17.0
  turn: float = 15.0
  shear: float = 0.2
  stretch: float = 0.25
  shift: float = 2.0
  noise: float = 0.2


class Script(NamedTuple):
  """A script.

  Attributes:
    letters: the classes, in the order of their labels: ten letters that stand alone and differ.
    train: font families of the training pictures, as the file names have them before the style.
    test: font families of the test pictures.
  """

  letters: str
  train: tuple[str, ...]
  test: tuple[str, ...]


def _sans_serif(letters: str, name: str) -> Script:
  return Script(letters, (f'NotoSans{name}',), (f'NotoSerif{name}',))


_EUROPEAN = (('NotoSans', 'NotoSansDisplay', 'NotoSansMono'), ('NotoSerif', 'NotoSerifDisplay'))
#: Data sets whose letters are alike.
KIN = (
  ('glyphs/cyrillic', 'glyphs/greek', 'glyphs/latin'),
  ('glyphs/kannada', 'glyphs/telugu'),
  ('glyphs/lao', 'glyphs/thai'),
)
SCRIPTS: dict[str, Script] = {
  'arabic': Script('ابجدرسصطعف', ('NotoSansArabic',), ('NotoKufiArabic',)),
  'armenian': _sans_serif('աբգդեզէըթժ', 'Armenian'),
  'bengali': _sans_serif('কখগঘচছজঝটঠ', 'Bengali'),
  'cyrillic': Script('бвгджзиклф', *_EUROPEAN),
  'devanagari': _sans_serif('कखगघचछजझटठ', 'Devanagari'),
  'ethiopic': _sans_serif('ሀለሐመሠረሰቀበተ', 'Ethiopic'),
  'georgian': _sans_serif('აბგდევზთიკ', 'Georgian'),
  'greek': Script('αβγδεζηθικ', *_EUROPEAN),
  'gujarati': _sans_serif('કખગઘચછજઝટઠ', 'Gujarati'),
  'gurmukhi': _sans_serif('ਕਖਗਘਚਛਜਝਟਠ', 'Gurmukhi'),
  'hebrew': _sans_serif('אבגדהוזחטי', 'Hebrew'),
  'kannada': _sans_serif('ಕಖಗಘಚಛಜಝಟಠ', 'Kannada'),
  'khmer': _sans_serif('កខគឃងចឆជឈញ', 'Khmer'),
  'lao': Script('ກຂຄງຈຊຍທນບ', ('NotoSansLao', 'NotoLoopedLao'), ('NotoSerifLao',)),
  'latin': Script('abcdefghij', *_EUROPEAN),
  'malayalam': _sans_serif('കഖഗഘചഛജഝടഠ', 'Malayalam'),
  'myanmar': _sans_serif('ကခဂဃငစဆဇဈည', 'Myanmar'),
  'sinhala': _sans_serif('කඛගඝචඡජඣටඨ', 'Sinhala'),
  'tamil': _sans_serif('கஙசஞடணதநபம', 'Tamil'),
  'telugu': _sans_serif('కఖగఘచఛజఝటఠ', 'Telugu'),
  'thai': Script('กขคฆงจฉชญด', ('NotoSansThai', 'NotoLoopedThai'), ('NotoSerifThai',)),
}


@dataclasses.dataclass(frozen=True)
class GlyphCollection(drawn.Collection):
  """Scripts that are drawn together.

  Attributes:
    scripts: `{script: its letters and families}`.
    distortion: how far pictures are changed.
    counts: `{'train' or 'test': pictures of every letter}`.
  """

  scripts: Mapping[str, Script]
  distortion: Distortion
  counts: Mapping[str, int]


def collection(
  scripts: Mapping[str, Script], distortion: Distortion, counts: Mapping[str, int]
) -> GlyphCollection:
  """Returns the data sets of some scripts; their names are 'glyphs/<script>'."""
  rules = {
    'size': SIZE,
    'seed': SEED,
    'counts': dict(counts),
    'distortion': distortion._asdict(),
    'scripts': {name: [s.letters, list(s.train), list(s.test)] for name, s in scripts.items()},
  }
  classes = {f'{FETCH_NAME}/{name}': tuple(s.letters) for name, s in scripts.items()}
  return GlyphCollection(FETCH_NAME, 'glyphs', classes, rules, scripts, distortion, counts)


FAMILY = collection(SCRIPTS, Distortion(), {'train': 200, 'test': 100})
