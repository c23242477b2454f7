"""The three-way split: nothing held out can be read by accident."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights_toys

from dapt_jax.tasks import Bank, Split, Task, splits, task, warps


def test_names_of_tasks_read_back():
  one = Task('emnist/letters', 'rot90+inverted', (3, 0, 4))
  assert one.name == 'emnist/letters/rot90+inverted/3-0-4'
  assert Task.parse(one.name) == one
  for text in ('mnist', 'mnist/rot45/1-2', 'mnist/rot90/1-x', '/rot90/1-2'):
    with pytest.raises(ValueError, match='is no task'):
      Task.parse(text)


def test_transforms():
  image = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)[None, ..., None]
  turned = task.transform(image, 'rot90')[0, ..., 0]
  np.testing.assert_array_equal(turned, [[0.25, 1.0], [0.0, 0.5]])
  np.testing.assert_array_equal(
    task.transform(image, 'rot180+inverted')[0, ..., 0], [[0, 0.5], [0.75, 1]]
  )
  again = task.transform(task.transform(image, 'rot270'), 'rot90')
  np.testing.assert_array_equal(again, image)
  with pytest.raises(ValueError, match='choose one of'):
    task.transform(image, 'mirror')
  with pytest.raises(ValueError, match='squares'):
    task.transform(np.zeros((1, 2, 3, 1)), 'rot90')


def test_every_task_belongs_to_one_part():
  split = weights_toys.split()
  assert len(split.held_classes) == 3
  seen = dict.fromkeys(splits.PARTS, 0)
  for view in (*split.views, *split.held_views):
    for classes in itertools.permutations(range(5), 3):
      found = split.part(Task(*view, classes))
      seen[found] += 1
      new_view = view == ('b', 'rot180')
      new_classes = tuple(sorted(classes)) in split.held_classes
      assert found == ('zoo', 'new_classes', 'new_view', 'new_both')[new_classes + 2 * new_view]
  assert seen == {'zoo': 3 * 42, 'new_classes': 3 * 18, 'new_view': 42, 'new_both': 18}


@pytest.mark.parametrize('part', splits.PARTS)
def test_draws_keep_to_their_part(part):
  split = weights_toys.split()
  drawn = split.draw(part, 60, seed=1)
  split.require(drawn, part)
  assert drawn == split.draw(part, 60, seed=1) != split.draw(part, 60, seed=2)
  assert len(set(drawn)) > 10
  # Labels mean nothing by themselves: a set of classes comes in several orders.
  assert any(list(t.classes) != sorted(t.classes) for t in drawn)
  other = [p for p in splits.PARTS if p != part]
  for wrong in other:
    with pytest.raises(ValueError, match='must not be read here'):
      split.require(drawn, wrong)


def test_a_whole_source_may_be_held_out():
  split = weights_toys.split(held_views=[('b', '*')])
  assert split.views == (('a', 'rot0'), ('a', 'rot180'))
  assert split.part(Task('b', 'rot0', (0, 1, 2))) in ('new_view', 'new_both')


def test_what_is_alike_is_on_one_side():
  names = ('glyphs/lao', 'glyphs/thai', 'mnist')
  make = lambda held, **options: splits.make(
    names, held_views=held, num_classes=2, num_held_sets=1, transforms=('rot0', 'rot90'), **options
  )
  for apart in ('glyphs/lao', 'glyphs/thai'):
    with pytest.raises(ValueError, match=rf"\['{apart}'\] are held out.*put all of them on one"):
      make([(apart, '*')])
  both = make([('glyphs/lao', '*'), ('glyphs/thai', '*')])
  assert {s for s, _ in both.views} == {'mnist'}
  make([('glyphs/lao', 'rot90')])  # the zoo sees the same letters, turned, on purpose


def test_a_part_may_be_narrowed_to_a_family():
  split = splits.make(
    ('a/1', 'a/2', 'b'), held_views=[('a/1', '*'), ('b', 'rot0')], num_classes=2, num_held_sets=1
  )
  near = split.draw('new_view/a', 20, 0)
  assert {t.source for t in near} == {'a/1'} and {t.family for t in near} == {'a'}
  far = split.draw('new_view/b', 20, 0)
  assert {t.view for t in far} == {'b/rot0'}
  split.require(near, 'new_view/a')
  split.require([*near, *far], 'new_view')
  with pytest.raises(ValueError, match="not to 'new_view/b'"):
    split.require(near, 'new_view/b')
  with pytest.raises(ValueError, match='holds nothing out'):
    split.draw('new_view/c', 1, 0)


def test_splits_that_sources_come_with_are_kept():
  split = weights_toys.split(train_share=None)
  pairs = {n: (weights_toys.dataset(n, i), weights_toys.dataset(n, 9)) for i, n in enumerate('ab')}
  bank = Bank(split, pairs, (7, 4))
  assert bank.images.shape == (4 * 5 * (7 + 4), 4, 4, 1)
  assert np.array_equal(bank.images, Bank(split, pairs, (7, 4)).images)
  tasks = split.draw('zoo', 12, 0)
  known = {n: [2 * d.images - 1 for d in pair] for n, pair in pairs.items()}
  for side, (name, most) in enumerate(zip(('train', 'test'), (7, 4))):
    rows = bank.draw(tasks, 'zoo', name, most, 0)
    for t, own in zip(tasks, rows):
      turned = task.transform(known[t.source][side], t.transform)
      apart = np.abs(turned[None] - bank.images[own.reshape(-1)][:, None]).max((2, 3, 4))
      labels = pairs[t.source][side].labels[apart.argmin(1)]
      assert apart.min(1).max() < 1e-5  # every image is one of this split
      np.testing.assert_array_equal(
        labels.reshape(own.shape), np.array(t.classes)[:, None] + 0 * own
      )
    with pytest.raises(ValueError, match=f'has {most} {name} images'):
      bank.draw(tasks, 'zoo', name, most + 1, 0)
  with pytest.raises(ValueError, match=r'give \(training, test\)'):
    Bank(split, {n: pair[0] for n, pair in pairs.items()})
  with pytest.raises(ValueError, match='give all images as one'):
    Bank(weights_toys.split(), pairs)
  some = Bank(weights_toys.split(), {n: pair[0] for n, pair in pairs.items()}, (0, 3))
  assert len(some.images) == 4 * 5 * (14 + 3)


def test_training_and_test_images_are_disjoint_in_every_view():
  bank = weights_toys.make_bank()
  assert bank.images.shape == (4 * 100, 4, 4, 1)
  number = lambda rows: set((np.ravel(rows) % 100).tolist())  # of the image, whatever the view
  for part in ('zoo', 'new_view'):
    tasks = bank.split.draw(part, 20, 0)
    train = bank.draw(tasks, part, 'train', 10, 0)
    test = bank.draw(tasks, part, 'test', 5, 0)
    for one, other in ((train, test),):
      sources = {t.source: (set(), set()) for t in tasks}
      for t, a, b in zip(tasks, one, other):
        sources[t.source][0].update(number(a))
        sources[t.source][1].update(number(b))
      assert all(not (a & b) and a and b for a, b in sources.values())


def test_labels_are_the_order_of_the_classes():
  bank = weights_toys.make_bank()
  ordered = Task('a', 'rot180', (4, 0, 2))
  if bank.split.part(ordered) != 'zoo':
    ordered = Task('a', 'rot180', (4, 0, 3))
  part = bank.split.part(ordered)
  rows = bank.draw([ordered], part, 'train', 6, 3)[0]
  original = weights_toys.dataset('a', 0)
  turned = (task.transform(original.images, 'rot180') - 0.5) / 0.5
  for label, source_class in enumerate(ordered.classes):
    for row in rows[label]:
      match = np.flatnonzero((np.abs(turned - bank.images[row]) < 1e-6).all((1, 2, 3)))
      assert original.labels[match].tolist() == [source_class]


def test_classes_of_a_mixed_task_come_from_views_of_the_part():
  bank = weights_toys.make_bank()
  tasks = bank.split.draw('zoo', 30, 0)
  rows = bank.mix(tasks, 'zoo', 'train', 6, 1)
  train = {
    (v, c): set(bank.draw([Task(*v, c)], 'zoo', 'train', 14, 0)[0].ravel().tolist())
    for v in bank.split.views
    for c in {t.classes for t in tasks}
  }
  found = [
    [[v for v in bank.split.views if set(slot.tolist()) <= train[v, t.classes]] for slot in own]
    for t, own in zip(tasks, rows)
  ]
  assert all(len(views) == 1 for own in found for views in own)
  assert sum(len({views[0] for views in own}) > 1 for own in found) > 10
  with pytest.raises(ValueError, match='must not be read here'):
    bank.mix(tasks, 'new_view', 'train', 2, 0)


def test_a_warp_resamples_all_images_of_a_task_alike():
  size, apply = 5, jax.jit(warps.apply)
  images = np.random.default_rng(0).random((3, 2, 4, size, size, 1)).astype(np.float32)
  pixels = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing='ij')).reshape(2, -1)
  same = apply(warps.bilinear(jnp.asarray(pixels), size, size), images)
  np.testing.assert_allclose(same, images, atol=1e-5)
  turned = apply(warps.bilinear(jnp.asarray(-pixels), size, size), images)
  np.testing.assert_allclose(
    turned,
    task.transform(images.reshape(-1, size, size, 1), 'rot180').reshape(images.shape),
    atol=1e-5,
  )
  flat = images.reshape(3, 8, size, size, 1)
  one, other = jax.jit(lambda k, *x: warps.of_tasks(k, 0.5, *x))(jax.random.key(0), images, flat)
  np.testing.assert_allclose(one.reshape(flat.shape), other, atol=1e-6)
  moved = np.abs(one - images).max((1, 2, 3, 4, 5)) > 1e-3
  assert 0 < moved.sum() < 3
  assert images.min() - 1e-5 <= one.min() and one.max() <= images.max() + 1e-5


def test_bad_input():
  split = weights_toys.split()
  with pytest.raises(ValueError, match='knows no view'):
    split.part(Task('c', 'rot0', (0, 1, 2)))
  for classes in ((0, 1), (0, 1, 1), (0, 1, 7)):
    with pytest.raises(ValueError, match='3 different classes'):
      split.part(Task('a', 'rot0', classes))
  with pytest.raises(ValueError, match='holds nothing out'):
    weights_toys.split(num_held_sets=0).draw('new_classes', 1, 0)
  with pytest.raises(ValueError, match='choose one of'):
    split.draw('test', 1, 0)
  with pytest.raises(ValueError, match='no views of'):
    weights_toys.split(held_views=[('z', '*')])
  with pytest.raises(ValueError, match='there are 10 sets'):
    weights_toys.split(num_held_sets=10)
  with pytest.raises(ValueError, match='put each on one side'):
    Split((('a', 'rot0'),), (('a', 'rot0'),), frozenset(), 3)
  with pytest.raises(ValueError, match='train_share'):
    dataclasses.replace(split, train_share=1.0)
  sources = {n: weights_toys.dataset(n, 0) for n in 'ab'}
  with pytest.raises(ValueError, match="views of 'b'"):
    Bank(split, {'a': sources['a']})
  with pytest.raises(ValueError, match=r'Dataset\.classes'):
    Bank(split, {**sources, 'b': sources['b'].classes([0, 1, 2])})
  with pytest.raises(ValueError, match='one size'):
    Bank(split, {**sources, 'b': sources['b'].resize(5)})
  bank = Bank(split, sources)
  tasks = split.draw('zoo', 2, 0)
  with pytest.raises(ValueError, match='per_class is 15'):
    bank.draw(tasks, 'zoo', 'train', 15, 0)
  with pytest.raises(ValueError, match="side 'valid'"):
    bank.draw(tasks, 'zoo', 'valid', 2, 0)
  with pytest.raises(ValueError, match='must not be read here'):
    bank.draw(tasks, 'new_view', 'test', 2, 0)
