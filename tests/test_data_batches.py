"""Batches and splits: determinism, exactly-once epochs, disjoint balanced parts."""

import numpy as np
import pytest

from dapt_jax import data
from dapt_jax.data import augment, splits


def numbered(n, classes=3):
  """A data set whose picture i holds the value i."""
  images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1)
  return data.from_arrays(images, np.arange(n) % classes)


def seen(batcher, steps):
  images = np.concatenate([batcher(s)['image'] for s in steps])
  return np.rint(images * 255).astype(int).ravel()


@pytest.mark.parametrize('batch_size', [1, 4, 7, 20, 21, 50])
def test_every_example_comes_exactly_once_per_epoch(batch_size):
  n = 20
  batcher = data.make_batcher(numbered(n), batch_size, seed=3)
  stream = seen(batcher, range(2 * n))
  epochs = len(stream) // n
  assert epochs >= 2
  orders = stream[: epochs * n].reshape(epochs, n)
  np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(n), (epochs, 1)))
  assert len({tuple(order) for order in orders}) == epochs  # every epoch has its own order


def test_a_batch_is_a_pure_function_of_the_step():
  one = data.make_batcher(numbered(50), 8, seed=0)
  two = data.make_batcher(numbered(50), 8, seed=0)
  forward = [one(s) for s in range(40)]
  for s in [39, 0, 17, 6, 7]:  # a resumed run jumps straight to its step
    np.testing.assert_array_equal(two(s)['image'], forward[s]['image'])
    np.testing.assert_array_equal(two(s)['label'], forward[s]['label'])
  assert not np.array_equal(
    seen(one, range(6)), seen(data.make_batcher(numbered(50), 8, 1), range(6))
  )


def test_batches_have_the_promised_types_and_matching_labels():
  dataset = numbered(30)
  batch = data.make_batcher(dataset, 64, seed=0)(np.int64(3))
  assert batch['image'].shape == (64, 1, 1, 1)
  assert (batch['image'].dtype, batch['label'].dtype) == (np.float32, np.int32)
  index = np.rint(batch['image'].ravel() * 255).astype(int)
  np.testing.assert_array_equal(batch['label'], dataset.labels[index])
  assert data.make_batcher(dataset, 15, seed=0).epoch(3) == 1.5


@pytest.mark.parametrize(('n', 'batch_size'), [(20, 12), (7, 12), (50, 24), (5, 36)])
@pytest.mark.parametrize('count', [1, 2, 3, 4])
def test_shards_are_the_rows_of_the_one_batch(n, batch_size, count):
  dataset = numbered(n)
  whole = data.make_batcher(dataset, batch_size, seed=3)
  parts = [data.make_batcher(dataset, batch_size, 3, shard=(i, count)) for i in range(count)]
  for step in range(6):
    for name, rows in whole(step).items():
      np.testing.assert_array_equal(np.concatenate([part(step)[name] for part in parts]), rows)
  assert parts[-1].epoch(3) == whole.epoch(3)


def test_another_number_of_processes_in_mid_epoch_loses_and_repeats_nothing():
  n, size = 30, 12
  stream = []
  for step in range(10):  # one process until step 3, then three, then two
    count = 1 if step < 3 else 3 if step < 6 else 2
    shards = [data.make_batcher(numbered(n), size, 5, shard=(i, count)) for i in range(count)]
    stream.append(np.concatenate([seen(batcher, [step]) for batcher in shards]))
  epochs = np.concatenate(stream).reshape(4, n)
  np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(n), (4, 1)))


def test_augmentation_hangs_on_the_place_in_the_stream_alone():
  dataset = data.from_arrays(np.random.default_rng(0).random((20, 6, 5, 2), np.float32), [0] * 20)
  change = data.shift_and_flip(2)
  make = lambda size, shard=(0, 1): data.make_batcher(dataset, size, 4, shard=shard, augment=change)
  images = np.concatenate([make(12)(step)['image'] for step in range(5)])
  others = [make(20, (i, 4))(step)['image'] for step in range(3) for i in range(4)]
  np.testing.assert_array_equal(np.concatenate(others), images)
  plain = data.make_batcher(dataset, 20, 4)
  changed = [not np.array_equal(a, b) for a, b in zip(images[:20], plain(0)['image'])]
  assert np.mean(changed) > 0.8
  again = images[np.argsort(plain.indices(0))], images[20:40][np.argsort(plain.indices(1))]
  assert not np.array_equal(*again)  # the second epoch is changed in another way


def test_shift_and_flip_move_pixels_where_they_say():
  images = np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1) + 1
  moved = augment.shift(images, np.array([1, 0]), np.array([-1, 2]))
  np.testing.assert_array_equal(moved[0, 1:, :3], images[0, :2, 1:])
  np.testing.assert_array_equal(moved[1, :, 2:], images[1, :, :2])
  assert not moved[0, 0].any() and not moved[0, :, 3].any() and not moved[1, :, :2].any()
  mirrored = augment.flip(images, np.array([False, True]))
  np.testing.assert_array_equal(mirrored, np.stack([images[0], images[1][:, ::-1]]))
  uniform = augment.uniform(3, 100, 4000)
  assert uniform.shape == (4000, 8) and 0 <= uniform.min() < 0.001 and 0.999 < uniform.max() < 1
  assert np.abs(np.corrcoef(uniform.T) - np.eye(8)).max() < 0.08
  with pytest.raises(ValueError, match='pixels -1'):
    data.shift_and_flip(-1)


def test_bad_batcher_arguments_are_refused():
  with pytest.raises(ValueError, match=r'batch_size'):
    data.make_batcher(numbered(4), 0, 0)
  with pytest.raises(ValueError, match=r'seed'):
    data.make_batcher(numbered(4), 2, -1)
  with pytest.raises(ValueError, match=r'no examples'):
    data.make_batcher(numbered(4).subset([]), 2, 0)
  with pytest.raises(ValueError, match=r'step'):
    data.make_batcher(numbered(4), 2, 0)(-1)
  with pytest.raises(ValueError, match=r'batch_size 10 does not divide by 4 processes: make it'):
    data.make_batcher(numbered(4), 10, 0, shard=(0, 4))
  with pytest.raises(ValueError, match=r'shard \(2, 2\)'):
    data.make_batcher(numbered(4), 10, 0, shard=(2, 2))


def test_split_is_disjoint_balanced_and_complete():
  dataset = numbered(90)
  halves = data.split(dataset, (0.5, 0.5), seed=0)
  values = [part.pixels.ravel() for part in halves]
  assert [len(part) for part in halves] == [45, 45]
  np.testing.assert_array_equal(np.sort(np.concatenate(values)), np.arange(90))
  for part in halves:
    np.testing.assert_array_equal(np.bincount(part.labels), [15, 15, 15])
  assert [part.split for part in halves] == ['train[1/2]', 'train[2/2]']


def test_split_depends_on_the_seed_alone():
  dataset = numbered(90)
  first, again, other = (data.split(dataset, (0.7, 0.2), seed=s)[0] for s in (0, 0, 1))
  np.testing.assert_array_equal(first.pixels, again.pixels)
  assert not np.array_equal(first.pixels, other.pixels)


def test_uneven_classes_keep_their_proportions_and_sizes_are_exact():
  labels = np.repeat(np.arange(3), [10, 37, 101]).astype(np.int32)
  parts = splits.stratified(labels, [50, 31, 60], seed=4)
  assert [len(p) for p in parts] == [50, 31, 60]
  assert len(np.unique(np.concatenate(parts))) == 141
  for part in parts:
    expected = np.array([10, 37, 101]) * len(part) / 148
    assert np.all(np.abs(np.bincount(labels[part]) - expected) <= 2)


@pytest.mark.parametrize('fractions', [(), (0.5, 0.6), (0.5, 0.0), (-0.1, 0.5), (np.nan,)])
def test_bad_fractions_are_refused(fractions):
  with pytest.raises(ValueError, match=r'fractions'):
    data.split(numbered(30), fractions, seed=0)


def test_a_class_too_small_for_a_part_is_named():
  labels = np.array([0] * 20 + [1], np.int32)
  dataset = data.from_arrays(np.zeros((21, 2, 2), np.uint8), labels)
  with pytest.raises(ValueError, match=r'class 1 has 1 examples'):
    data.split(dataset, (0.5, 0.5), seed=0)
  with pytest.raises(ValueError, match=r'part sizes'):
    splits.stratified(labels, [20, 2], seed=0)
