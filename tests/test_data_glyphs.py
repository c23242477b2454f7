"""Letters out of fonts: what is drawn, how it is changed, where it goes.

Most tests draw with the DejaVu fonts that come with matplotlib; those that need the Noto fonts say
so and are skipped where the fonts are not installed.
"""

import dataclasses
import pathlib
import shutil

import matplotlib
import numpy as np
import pytest
from PIL import Image

from dapt_jax import data
from dapt_jax.data import catalog, drawing, families, fetch, glyph_fonts, glyphs, installers

DEJAVU = pathlib.Path(matplotlib.get_data_path()) / 'fonts' / 'ttf'
STILL = glyphs.Distortion(turn=0, shear=0, stretch=0, shift=0, noise=0)
SCRIPTS = {
  name: glyphs.Script(glyphs.SCRIPTS[name].letters, ('DejaVuSans',), ('DejaVuSerif',))
  for name in ('latin', 'greek', 'cyrillic')
}
COUNTS = {'train': 8, 'test': 6}
SMALL = glyphs.collection(SCRIPTS, glyphs.Distortion(), COUNTS)
needs_noto = pytest.mark.skipif(
  bool(glyph_fonts.missing(glyph_fonts.INSTALLED, glyphs.FAMILY)),
  reason=f'needs the Noto fonts: apt-get install {" ".join(glyph_fonts.PACKAGES)}',
)


def test_the_table_of_scripts():
  assert len(glyphs.SCRIPTS) >= 21 and {'latin', 'greek', 'cyrillic'} < set(glyphs.SCRIPTS)
  for name, script in glyphs.SCRIPTS.items():
    assert len(script.letters) == len(set(script.letters)) == 10, name
    assert script.train and script.test and not set(script.train) & set(script.test), name
  letters = ''.join(script.letters for script in glyphs.SCRIPTS.values())
  assert len(letters) == len(set(letters))
  assert len(glyphs.FAMILY.class_names['glyphs/thai']) == 10


def test_a_family_is_its_styles_and_no_other_family():
  found = [path.name for path in glyph_fonts.styles(DEJAVU, 'DejaVuSans')]
  assert found == [
    'DejaVuSans-Bold.ttf',
    'DejaVuSans-BoldOblique.ttf',
    'DejaVuSans-Oblique.ttf',
    'DejaVuSans.ttf',
  ]
  assert glyph_fonts.styles(DEJAVU, 'DejaVu') == []
  assert len(glyph_fonts.missing(DEJAVU, SMALL)) == 2
  assert '0 styles of NotoSansThai,' in str(glyph_fonts.missing(DEJAVU, glyphs.FAMILY))


def test_drawings_are_centred_and_keep_their_sizes():
  drawings = glyph_fonts.drawings(DEJAVU / 'DejaVuSans.ttf', 'abcdefgh.W', 16)
  boxes = [picture.getbbox() for picture in drawings]
  for left, top, right, bottom in boxes:
    assert abs(left + right - 112) <= 1 and abs(top + bottom - 112) <= 1
  sides = [max(right - left, bottom - top) for left, top, right, bottom in boxes]
  assert abs(np.median(sides) - 4 * 16) <= 2
  assert sides[8] < 20 and max(sides) <= 4 * 22 + 1


def test_wide_letters_are_drawn_smaller():
  drawings = glyph_fonts.drawings(DEJAVU / 'DejaVuSans.ttf', 'aceon—', 16)
  boxes = [picture.getbbox() for picture in drawings]
  assert [right - left <= 4 * 16 + 6 for left, _, right, _ in boxes] == [True] * 5 + [False]
  assert abs(boxes[-1][2] - boxes[-1][0] - 4 * 22) <= 2


@pytest.mark.parametrize(
  'letters,message',
  [
    ('abក', r"DejaVuSans\.ttf: no letter 'ក'"),
    ('ab ', "no letter ' '"),
    ('AbΑ', "letters 'A' and 'Α' are drawn alike"),  # the last one is Greek
  ],
)
def test_letters_that_cannot_be_told_are_refused(letters, message):
  with pytest.raises(ValueError, match=message):
    glyph_fonts.drawings(DEJAVU / 'DejaVuSans.ttf', letters, 16)


def blob():
  """A drawing with a bar that points up from the middle."""
  pixels = np.zeros((112, 112), np.uint8)
  pixels[16:56, 52:60] = 255
  return Image.fromarray(pixels)


def centre(pixels):
  """(x, y) of the ink's centre of mass relative to the middle of the picture, in pixels."""
  rows, columns = np.indices(pixels.shape)
  return np.array([(pixels * axis).sum() / pixels.sum() - 13.5 for axis in (columns, rows)])


def test_without_distortion_a_picture_is_the_drawing():
  pixels = glyph_fonts.distort(blob(), STILL, np.random.default_rng(0))
  assert pixels.dtype == np.uint8 and pixels.shape == (28, 28)
  np.testing.assert_allclose(pixels, np.asarray(blob().reduce(4)), atol=1)


@pytest.mark.parametrize('seed', range(4))
def test_every_change_does_what_its_name_says(seed):
  amounts = np.random.default_rng(seed).uniform(-1, 1, 6)

  def changed(**limits):
    rng = np.random.default_rng(seed)
    return glyph_fonts.distort(blob(), STILL._replace(**limits), rng).astype(float)

  still = centre(changed())  # on the middle axis, 5 pixels above the middle
  np.testing.assert_allclose(centre(changed(shift=3)) - still, 3 * amounts[4:], atol=0.1)
  angle = np.radians(40 * amounts[0])
  turned = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]] @ still
  np.testing.assert_allclose(centre(changed(turn=40)), turned, atol=0.15)
  slanted = still + np.array([amounts[1] * 0.5 * still[1], 0])
  np.testing.assert_allclose(centre(changed(shear=0.5)), slanted, atol=0.15)
  grown = changed(stretch=0.4).sum() / changed().sum()
  assert grown == pytest.approx(2 ** (0.4 * amounts[2:4].sum()), rel=0.05)
  noisy = changed(noise=0.1)
  assert 0.05 < np.std(noisy[20:] / 255) < 0.1  # half of it is cut off on black


def test_splits_are_balanced_and_repeatable():
  images, labels = glyph_fonts.draw(DEJAVU, SMALL, 'greek', 'train')
  assert images.shape == (80, 28, 28) and images.dtype == np.uint8
  assert labels.dtype == np.int32 and np.bincount(labels).tolist() == [8] * 10
  assert len({image.tobytes() for image in images}) == 80
  again, _ = glyph_fonts.draw(DEJAVU, SMALL, 'greek', 'train')
  np.testing.assert_array_equal(images, again)
  other, _ = glyph_fonts.draw(DEJAVU, SMALL, 'greek', 'test')
  assert other.shape == (60, 28, 28)


def test_each_split_has_its_own_families(tmp_path):
  for path in glyph_fonts.styles(DEJAVU, 'DejaVuSans'):
    shutil.copy(path, tmp_path)
  glyph_fonts.draw(tmp_path, SMALL, 'latin', 'train')
  with pytest.raises(ValueError, match=r"no font of \['DejaVuSerif'\], which glyphs/latin needs"):
    glyph_fonts.draw(tmp_path, SMALL, 'latin', 'test')


def nearest(train, test):
  """Accuracy of the nearest training picture."""
  a, b = (d.images.reshape(len(d), -1) for d in (train, test))
  distances = (a**2).sum(1)[None] - 2 * b @ a.T
  return np.mean(train.labels[distances.argmin(1)] == test.labels)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp('glyphs')
  return glyph_fonts.prepare(DEJAVU, folder, SMALL), folder


@pytest.mark.parametrize('name', SMALL.names)
def test_classes_can_be_told_apart(made, name):
  train, test = (SMALL.load(name, split, made[1]) for split in ('train', 'test'))
  assert 0.25 < nearest(train, test) < 1
  assert made[0] == {f'{n}/{s}': 10 * k for n in SMALL.names for s, k in COUNTS.items()}


def test_glyphs_load_by_name(made, tmp_path, monkeypatch):
  shutil.copytree(made[1], tmp_path / 'glyphs')
  monkeypatch.setitem(catalog.DRAWN, 'glyphs/greek', SMALL)
  whole = data.load('glyphs/greek', 'all', data_dir=tmp_path)
  assert whole.image_shape == (28, 28, 1) and len(whole) == 140
  assert whole.class_names == tuple('αβγδεζηθικ') and 'fonts-noto-core' in whole.source
  with pytest.raises(ValueError, match=r'other rules.*fetch glyphs'):
    data.load('glyphs/thai', data_dir=tmp_path)


def test_other_rules_are_noticed(made):
  for change in ({'distortion': STILL}, {'counts': {'train': 8, 'test': 7}}):
    other = {'scripts': SCRIPTS, 'distortion': SMALL.distortion, 'counts': COUNTS} | change
    with pytest.raises(ValueError, match='other rules'):
      glyphs.collection(**other).load('glyphs/latin', 'train', made[1])


def test_absent_glyphs_say_how_to_bring_them(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"'glyphs/thai' is not in .*fetch glyphs"):
    data.load('glyphs/thai', data_dir=tmp_path)
  with pytest.raises(ValueError, match=r"unknown.*'glyphs/tai'.*Did you mean 'glyphs/thai'"):
    data.load('glyphs/tai', data_dir=tmp_path)


@pytest.fixture
def small_fetch(monkeypatch):
  """`fetch` draws the small collection, and apt brings the DejaVu fonts; the calls of apt."""
  calls = []

  def apt(package, staging):
    calls.append(package)
    if package == glyph_fonts.PACKAGES[0]:
      shutil.copytree(DEJAVU, staging / 'usr' / 'share')

  monkeypatch.setattr(installers, 'apt', apt)
  monkeypatch.setattr(glyphs, 'FAMILY', SMALL)
  origin = drawing.ORIGINS['glyphs']._replace(collections=(SMALL,))
  monkeypatch.setitem(drawing.ORIGINS, 'glyphs', origin)
  monkeypatch.setattr(glyph_fonts, 'FEWEST', 4)
  return calls


def test_fetch_brings_fonts_draws_once_and_cleans_up(small_fetch, tmp_path, monkeypatch):
  monkeypatch.setattr(glyph_fonts, 'INSTALLED', tmp_path / 'nowhere')
  root, lines = tmp_path / 'data', []
  for name in ('glyphs', 'glyphs/latin'):
    assert fetch.fetch(name, root, log=lines.append) == root / 'glyphs'
  assert small_fetch == list(glyph_fonts.PACKAGES)
  assert '0 styles of DejaVuSans' in lines[0] and 'nothing to do' in lines[-1]
  assert [path.name for path in root.iterdir()] == ['glyphs']
  assert len(SMALL.load('glyphs/latin', 'test', root / 'glyphs')) == 60
  with pytest.raises(ValueError, match='do not come via npm'):
    fetch.fetch('glyphs', root, via='npm')


def test_installed_fonts_are_not_brought_again(small_fetch, tmp_path, monkeypatch):
  monkeypatch.setattr(glyph_fonts, 'INSTALLED', DEJAVU)
  fetch.fetch('glyphs', tmp_path, log=lambda line: None)
  assert small_fetch == []


def test_packages_without_the_fonts_leave_the_old_pictures(small_fetch, tmp_path, monkeypatch):
  monkeypatch.setattr(glyph_fonts, 'INSTALLED', tmp_path / 'nowhere')
  fetch.fetch('glyphs', tmp_path, log=lambda line: None)
  strange = dataclasses.replace(SMALL, scripts={'latin': glyphs.Script('ab', ('No',), ('Font',))})
  monkeypatch.setattr(glyphs, 'FAMILY', strange)
  origin = drawing.ORIGINS['glyphs']._replace(collections=(dataclasses.replace(SMALL, rules={}),))
  monkeypatch.setitem(drawing.ORIGINS, 'glyphs', origin)
  with pytest.raises(installers.InstallError, match=r"no font of \['No'\]"):
    fetch.fetch('glyphs', tmp_path, log=lambda line: None)
  assert [path.name for path in tmp_path.iterdir()] == ['glyphs']
  assert len(SMALL.load('glyphs/latin', 'test', tmp_path / 'glyphs')) == 60


def test_families_list_what_is_here(made, tmp_path, monkeypatch):
  assert families.names(tmp_path)['mnist'] == ['mnist']
  assert not {'glyphs', 'icons'} & set(families.names(tmp_path))
  shutil.copytree(made[1], tmp_path / 'glyphs')
  with pytest.raises(ValueError, match=r'other rules.*fetch glyphs'):
    families.names(tmp_path)
  monkeypatch.setitem(families._DRAWN, 'glyphs', SMALL)
  assert families.names(tmp_path)['glyphs'] == [f'glyphs/{name}' for name in SCRIPTS]


def test_kin_are_names_of_data_sets():
  kin = [name for group in families.KIN for name in group]
  assert len(kin) == len(set(kin)) and set(kin) <= set(catalog.DRAWN)


@needs_noto
@pytest.mark.parametrize('name', glyphs.SCRIPTS)
def test_noto_has_every_letter_in_every_family(name):
  script = glyphs.SCRIPTS[name]
  for family in (*script.train, *script.test):
    files = glyph_fonts.styles(glyph_fonts.INSTALLED, family)
    for path in files[:: max(1, len(files) // 3)]:
      assert len(glyph_fonts.drawings(path, script.letters, 17)) == 10


@needs_noto
def test_noto_scripts_are_neither_trivial_nor_hopeless():
  few = glyphs.collection(glyphs.SCRIPTS, glyphs.FAMILY.distortion, {'train': 40, 'test': 20})
  sets = [
    data.from_arrays(*glyph_fonts.draw(glyph_fonts.INSTALLED, few, 'georgian', split))
    for split in ('train', 'test')
  ]
  assert 0.3 < nearest(*sets) < 0.95
