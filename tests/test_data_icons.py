"""Icons out of a tiny package of sets: who is used, how pictures are made, where they go."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest

from dapt_jax import data
from dapt_jax.data import catalog, fetch, icon_sets, icons, installers

PAIR, FAMILY = icons.COLLECTIONS
WORDS = sorted({*PAIR.home, *FAMILY.home})
STEP = 2 * len(WORDS)


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


@pytest.fixture(scope='module')
def package(tmp_path_factory):
  """Sixty designers with every concept in two styles, and some sets that must stay out."""
  sets = {f'set{k}': said(f'designer{k}') for k in range(60)}
  sets |= {
    'closed': said('designer0', 'GPL-3.0'),
    'logos': said('designer1', category='Logos'),
    'coloured': said('designer2', palette=True),
  }
  folder = tmp_path_factory.mktemp('package')
  (folder / 'json').mkdir(parents=True)
  (folder / 'collections.json').write_text(json.dumps(sets))
  for number, prefix in enumerate(sets):
    bodies = {}
    for k, word in enumerate(WORDS):
      bodies[word] = icon(STEP * number + 2 * k)
      bodies[f'{word}-outline'] = icon(STEP * number + 2 * k + 1)
      bodies[f'{word}-off'] = icon(7)
    whole = {'prefix': prefix, 'icons': bodies, 'width': 24, 'height': 24}
    (folder / 'json' / f'{prefix}.json').write_text(json.dumps(whole))
  return folder


def number_in(svg):
  return int(svg.split('d="M')[1].split('"')[0])


def draw(svg, size):
  """A picture that spells the number in the body."""
  picture = np.zeros((size, size), np.uint8)
  picture[: size // 2] = 255
  picture[-1, :16] = [255 * (number_in(svg) >> bit & 1) for bit in range(16)]
  return picture


def prepared(package, root, draw=draw):
  target = root / icons.FETCH_NAME
  target.mkdir(parents=True)
  return icon_sets.prepare(package, target, draw), target


@pytest.fixture(scope='module')
def made(package, tmp_path_factory):
  """All pictures, made once: (counts, folder)."""
  return prepared(package, tmp_path_factory.mktemp('data'))


def test_the_deal_keeps_concepts_and_designers_apart():
  for collection in icons.COLLECTIONS:
    words = [word for found in collection.class_names.values() for word in found]
    assert len(words) == len(set(words)) == 10 * len(collection.names)
    names = [f'd{k}' for k in range(40)]
    dealt = collection.deal(names)
    assert dealt == collection.deal(names[::-1]) and set(dealt) == set(names)
    counts = [list(dealt.values()).count(hand) for hand in collection.shares]
    assert counts == [round(40 * share) for share in collection.shares.values()]


def test_where_a_picture_goes():
  assert PAIR.part('icons_train', 'icons_train/test') == ('icons_train', 'test')
  assert PAIR.part('icons_train', 'icons_unseen/test') is None
  assert FAMILY.part('icons/03', 'train') == ('icons/03', 'train')


@pytest.mark.parametrize(
  'name,concept',
  [
    ('home', 'home'),
    ('home-outline', 'home'),
    ('outline-home-24', 'home'),
    ('house', 'home'),
    ('alarm-clock-outline', 'alarm'),
    ('home-off', None),
    ('home-home', None),
    ('outline', None),
  ],
)
def test_names_without_words_of_style(name, concept):
  assert FAMILY.concepts.get(icon_sets.plain_name(name)) == concept


def test_no_name_means_two_concepts():
  names = [name for word in FAMILY.home for name in (word, *FAMILY.aliases.get(word, ()))]
  assert len(names) == len(set(names)) == len(FAMILY.concepts)
  assert set(FAMILY.aliases) <= set(FAMILY.home)
  assert all(icon_sets.plain_name(name) == name for name in names)


def test_only_permissive_sets_of_one_colour_count(package):
  assert set(icon_sets.usable(package)) == {f'set{k}' for k in range(60)}


def numbers(found):
  """What the pictures spell: STEP * set + 2 * word (+ 1)."""
  return (found.pixels[:, -1, :16, 0] // 255) @ (1 << np.arange(16))


@pytest.mark.parametrize('collection', icons.COLLECTIONS)
def test_pictures_arrive_and_load_by_name(made, collection):
  counts, target = made
  designers = {}
  for name in collection.names:
    for split in ('train', 'test'):
      found = data.load(name, split, data_dir=target.parent)
      assert len(found) == counts[f'{name}/{split}']
      assert found.image_shape == (collection.size, collection.size, 1)
      assert set(np.bincount(found.labels)) == {len(found) // 10}
      word = [WORDS[n % STEP // 2] for n in numbers(found)]
      assert word == [collection.class_names[name][k] for k in found.labels]
      designers[name, split] = frozenset(numbers(found) // STEP)
  parts = set(designers.values())
  assert len(frozenset.union(*parts)) == sum(map(len, parts)) == 60
  assert len(parts) == len(collection.shares)
  credits = (target / 'CREDITS.md').read_text()
  assert 'designer7' in credits and 'Closed' not in credits and 'GPL' not in credits


def test_the_whole_is_train_and_test(made):
  _, target = made
  assert len(data.load('icons_unseen', 'all', data_dir=target.parent)) == 600
  assert len(data.load('icons/00', 'all', data_dir=target.parent)) == 1200


def test_equal_pictures_and_blanks_are_dropped(package, made, tmp_path):
  def same(svg, size):
    picture = draw(svg, size)
    picture[-1, 0] = 0  # both styles alike
    return picture * (number_in(svg) not in (0, 1))  # the first word of the first set is blank

  halved = {part: number // 2 for part, number in made[0].items()}
  counts, _ = prepared(package, tmp_path, same)
  blank = {part: halved[part] - counts[part] for part in counts}
  assert {number for part, number in blank.items() if not part.startswith('icons/')} == {0}
  assert sorted(blank.values())[-2:] == [0, 1] and sum(blank.values()) == 1


def test_a_missing_class_is_named(package, tmp_path):
  def no_moons(svg, size):
    return draw(svg, size) * (WORDS[number_in(svg) % STEP // 2] != 'moon')

  with pytest.raises(ValueError, match=r"icons_unseen/train: no picture of \['moon'\]"):
    prepared(package, tmp_path, no_moons)


def test_a_wide_icon_gets_a_square_box():
  svg = icon_sets._document({'body': '<g/>', 'height': 10}, {'width': 30})
  assert 'viewBox="0 -10 30 30"' in svg


def test_icons_of_other_rules_or_broken_files_are_refused(made, tmp_path):
  target = shutil.copytree(made[1], tmp_path / 'icons')
  (target / 'icons.npz').write_bytes(b'no zip')
  with pytest.raises(ValueError, match=r'damaged.*fetch icons'):
    PAIR.load('icons_train', 'train', target)
  other = dataclasses.replace(PAIR, rules={**PAIR.rules, 'seed': 1})
  with pytest.raises(ValueError, match=r'other rules.*fetch icons'):
    other.load('icons_train', 'train', target)


def test_absent_icons_say_how_to_bring_them(tmp_path):
  for name in ('icons_train', 'icons/00'):
    with pytest.raises(FileNotFoundError, match=rf"'{name}' is not in .*fetch icons"):
      data.load(name, data_dir=tmp_path)
  with pytest.raises(FileNotFoundError, match=r'stands for.*icons_unseen.*icons/00'):
    data.load('icons', data_dir=tmp_path)
  with pytest.raises(ValueError, match="Did you mean 'icons_train'"):
    catalog.check_name('icon_train', [tmp_path])
  with pytest.raises(ValueError, match=r"unknown data set 'icons/99'.*Did you mean 'icons/0"):
    data.load('icons/99', data_dir=tmp_path)


def test_fetch_draws_once_and_cleans_up(package, tmp_path, monkeypatch):
  calls = []

  def npm(name, staging):
    calls.append(name)
    place = staging / icon_sets.INSIDE
    place.parent.mkdir(parents=True)
    shutil.copytree(package, place)

  made = icon_sets.prepare
  monkeypatch.setattr(installers, 'npm', npm)
  monkeypatch.setattr(icon_sets, 'prepare', lambda folder, target: made(folder, target, draw))
  root, lines = tmp_path / 'data', []
  for name in ('icons', 'icons_train', 'icons/01'):
    assert fetch.fetch(name, root, log=lines.append) == root / 'icons'
  assert calls == [icon_sets.PACKAGE] and 'nothing to do' in lines[-1]
  assert [p.name for p in root.iterdir()] == ['icons']
  assert len(data.load('icons_train', 'test', data_dir=root)) > 0
  with pytest.raises(ValueError, match='do not come via apt'):
    fetch.fetch('icons', root, via='apt')
  # Pictures of an earlier version, without the family, are made anew.
  (root / 'icons' / 'family.npz').unlink()
  fetch.fetch('icons', root, log=lines.append)
  assert len(calls) == 2 and len(data.load('icons/00', data_dir=root)) > 0


def test_a_missing_renderer_says_what_to_install(package, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'resvg_py', None)
  with pytest.raises(ImportError, match='pip install resvg-py'):
    prepared(package, tmp_path, icon_sets.render)
