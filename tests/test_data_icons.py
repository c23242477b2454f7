"""Icons out of a tiny package of sets: who is used, how pictures are made, where they go."""

import json
import sys

import numpy as np
import pytest

from dapt_jax import data
from dapt_jax.data import catalog, fetch, icon_sets, icons, installers

WORDS = [word for words in icons.CONCEPTS.values() for word in words]


def said(designer, spdx='MIT', **more):
  return {
    'name': designer.title(),
    'author': {'name': designer, 'url': f'https://{designer}.example'},
    'license': {'title': spdx, 'spdx': spdx},
    'category': 'UI 24px',
    'palette': False,
    **more,
  }


def icon(number):
  """A body that says which picture it is."""
  return {'body': f'<path d="M{number}"/>'}


@pytest.fixture
def package(tmp_path):
  """Sixty designers with every concept in two styles, and some sets that must stay out."""
  sets = {f'set{k}': said(f'designer{k}') for k in range(60)}
  sets |= {
    'closed': said('designer0', 'GPL-3.0'),
    'logos': said('designer1', category='Logos'),
    'coloured': said('designer2', palette=True),
  }
  folder = tmp_path / 'package'
  (folder / 'json').mkdir(parents=True)
  (folder / 'collections.json').write_text(json.dumps(sets))
  for number, prefix in enumerate(sets):
    bodies = {}
    for k, word in enumerate(WORDS):
      bodies[word] = icon(100 * number + 2 * k)
      bodies[f'{word}-outline'] = icon(100 * number + 2 * k + 1)
      bodies[f'{word}-off'] = icon(7)
    whole = {'prefix': prefix, 'icons': bodies, 'width': 24, 'height': 24}
    (folder / 'json' / f'{prefix}.json').write_text(json.dumps(whole))
  return folder


def draw(svg):
  """A picture that spells the number in the body."""
  number = int(svg.split('d="M')[1].split('"')[0])
  picture = np.zeros((icons.SIZE, icons.SIZE), np.uint8)
  picture[:32] = 255
  picture[40, :16] = [255 * (number >> bit & 1) for bit in range(16)]
  return picture


def prepared(package, tmp_path, draw=draw):
  target = tmp_path / 'data' / icons.FETCH_NAME
  target.mkdir(parents=True)
  return icon_sets.prepare(package, target, draw), target


def test_the_deal_keeps_concepts_and_designers_apart():
  train, unseen = (set(words) for words in icons.CONCEPTS.values())
  assert len(train) == len(unseen) == 10 and not train & unseen
  names = [f'd{k}' for k in range(40)]
  dealt = icons.deal(names)
  assert dealt == icons.deal(names[::-1]) and set(dealt) == set(names)
  counts = [list(dealt.values()).count(part) for part in icons.SHARES]
  assert counts == [round(40 * share) for share in icons.SHARES.values()]


@pytest.mark.parametrize(
  'name,concept',
  [
    ('home', 'home'),
    ('home-outline', 'home'),
    ('outline-home-24', 'home'),
    ('home-off', None),
    ('home-home', None),
    ('outline', None),
  ],
)
def test_names_without_words_of_style(name, concept):
  assert icon_sets.concept_of(name) == concept


def test_only_permissive_sets_of_one_colour_count(package):
  assert set(icon_sets.usable(package)) == {f'set{k}' for k in range(60)}


def test_pictures_arrive_and_load_by_name(package, tmp_path):
  counts, target = prepared(package, tmp_path)
  assert sum(counts.values()) == 60 * 10 * 2  # every designer is on one side
  designers = []
  for name in icons.NAMES:
    for split in ('train', 'test'):
      found = data.load(name, split, data_dir=target.parent)
      assert len(found) == counts[f'{name}/{split}'] and found.image_shape == (64, 64, 1)
      assert set(np.bincount(found.labels)) == {len(found) // 10}
      # A picture spells 100 * set + 2 * word (+ 1).
      numbers = (found.pixels[:, 40, :16, 0] // 255) @ (1 << np.arange(16))
      word = [WORDS[n % 100 // 2] for n in numbers]
      assert word == [icons.CONCEPTS[name][k] for k in found.labels]
      designers.append(set(numbers // 100))
  assert len(set.union(*designers)) == sum(map(len, designers)) == 60
  assert len(data.load('icons_unseen', 'all', data_dir=target.parent)) == 600
  credits = (target / 'CREDITS.md').read_text()
  assert 'designer7' in credits and 'Closed' not in credits and 'GPL' not in credits


def test_equal_pictures_and_blanks_are_dropped(package, tmp_path):
  def same(svg):
    picture = draw(svg)
    picture[40, 0] = 0  # both styles alike
    if 'd="M0"' in svg:
      picture[:] = 0
    return picture

  counts, _ = prepared(package, tmp_path, same)
  assert sum(counts.values()) in (600, 599)


def test_a_missing_class_is_named(package, tmp_path):
  def no_moons(svg):
    number = int(svg.split('d="M')[1].split('"')[0])
    return draw(svg) * (WORDS[number % 100 // 2] != 'moon')

  with pytest.raises(ValueError, match=r"icons_unseen/train: no picture of \['moon'\]"):
    prepared(package, tmp_path, no_moons)


def test_a_wide_icon_gets_a_square_box():
  svg = icon_sets._document({'body': '<g/>', 'height': 10}, {'width': 30})
  assert 'viewBox="0 -10 30 30"' in svg


def test_icons_of_other_rules_or_broken_files_are_refused(package, tmp_path, monkeypatch):
  _, target = prepared(package, tmp_path)
  (target / 'icons.npz').write_bytes(b'no zip')
  with pytest.raises(ValueError, match=r'damaged.*fetch icons'):
    icons.load('icons_train', 'train', target)
  monkeypatch.setattr(icons, 'SEED', 1)
  with pytest.raises(ValueError, match=r'other rules.*fetch icons'):
    icons.load('icons_train', 'train', target)


def test_absent_icons_say_how_to_bring_them(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"'icons_train' is not in .*fetch icons"):
    data.load('icons_train', data_dir=tmp_path)
  with pytest.raises(FileNotFoundError, match=r'stands for.*icons_unseen'):
    data.load('icons', data_dir=tmp_path)
  with pytest.raises(ValueError, match="Did you mean 'icons_train'"):
    catalog.check_name('icon_train', [tmp_path])


def test_fetch_draws_once_and_cleans_up(package, tmp_path, monkeypatch):
  calls = []

  def npm(name, staging):
    calls.append(name)
    place = staging / icon_sets.INSIDE
    place.parent.mkdir(parents=True)
    package.rename(place)

  made = icon_sets.prepare
  monkeypatch.setattr(installers, 'npm', npm)
  monkeypatch.setattr(icon_sets, 'prepare', lambda folder, target: made(folder, target, draw))
  root, lines = tmp_path / 'data', []
  for _ in range(2):
    assert fetch.fetch('icons', root, log=lines.append) == root / 'icons'
  assert calls == [icon_sets.PACKAGE] and 'nothing to do' in lines[-1]
  assert [p.name for p in root.iterdir()] == ['icons']
  assert len(data.load('icons_train', 'test', data_dir=root)) > 0
  with pytest.raises(ValueError, match='do not come via apt'):
    fetch.fetch('icons', root, via='apt')


def test_a_missing_renderer_says_what_to_install(package, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'resvg_py', None)
  with pytest.raises(ImportError, match='pip install resvg-py'):
    prepared(package, tmp_path, icon_sets.render)
