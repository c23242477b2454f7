"""Laws of the data set itself: resizing, subsets, classes, standardisation."""

import dataclasses

import jax
import numpy as np
import pytest

from dapt_jax import data
from dapt_jax.data import pixels as pixels_lib


@pytest.fixture
def random_bytes():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (30, 12, 10, 3), dtype=np.uint8)
  return data.from_arrays(images, np.arange(30) % 3, class_names=['a', 'b', 'c'])


def test_images_are_floats_in_the_unit_interval(random_bytes):
  assert random_bytes.images.dtype == np.float32
  assert random_bytes.images.shape == (30, 12, 10, 3)
  np.testing.assert_allclose(random_bytes.images * 255, random_bytes.pixels, atol=1e-4)
  assert random_bytes.labels.dtype == np.int32
  assert random_bytes.images is random_bytes.images


def test_dataset_is_frozen_and_short_to_print(random_bytes):
  with pytest.raises(dataclasses.FrozenInstanceError):
    random_bytes.name = 'other'
  assert repr(random_bytes) == (
    'Dataset(arrays/train: 30 images 12x10x3, 3 classes, from arrays in memory)'
  )


@pytest.mark.parametrize('size', [(6, 5), (4, 10), (5, 3), (7, 9), (1, 1)])
def test_area_average_preserves_the_mean_of_every_picture(random_bytes, size):
  small = random_bytes.resize(size).images
  assert small.shape == (30, *size, 3)
  np.testing.assert_allclose(
    small.mean(axis=(1, 2)), random_bytes.images.mean(axis=(1, 2)), atol=1e-6
  )


def test_halving_is_the_mean_of_two_by_two_blocks(random_bytes):
  blocks = random_bytes.images.reshape(30, 6, 2, 5, 2, 3).mean(axis=(2, 4))
  np.testing.assert_allclose(random_bytes.resize((6, 5)).images, blocks, atol=1e-6)


@pytest.mark.parametrize(('n_in', 'n_out'), [(8, 14), (8, 8), (28, 14), (28, 8), (3, 7), (1, 5)])
def test_axis_weights_are_convex(n_in, n_out):
  weights = pixels_lib.axis_weights(n_in, n_out)
  assert weights.shape == (n_out, n_in)
  assert weights.min() >= 0
  np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
  if n_out <= n_in:
    np.testing.assert_allclose(weights.sum(axis=0), n_out / n_in, atol=1e-6)


def test_growing_reproduces_a_linear_ramp_between_the_outer_centres():
  ramp = np.arange(8) + 0.5  # value at a pixel centre is its position
  position = (np.arange(14) + 0.5) * 8 / 14
  expected = np.clip(position, 0.5, 7.5)
  np.testing.assert_allclose(pixels_lib.axis_weights(8, 14) @ ramp, expected, atol=1e-5)


def test_constant_pictures_stay_constant_and_same_size_is_the_same_object(random_bytes):
  flat = data.from_arrays(np.full((2, 8, 8), 0.3, np.float32), [0, 1])
  np.testing.assert_allclose(flat.resize((14, 5)).images, 0.3, atol=1e-6)
  assert random_bytes.resize((12, 10)) is random_bytes


@pytest.mark.parametrize('size', [0, -3, (3,), (3, 4, 5), 2.5, (2, 2.5)])
def test_a_bad_size_is_refused(random_bytes, size):
  with pytest.raises(ValueError, match=r'image size'):
    random_bytes.resize(size)


def test_large_sets_resize_in_chunks_like_one_by_one():
  images = np.random.default_rng(1).random((5000, 4, 4), dtype=np.float32)
  whole = pixels_lib.resize(images[..., None], 2)
  single = pixels_lib.resize(images[4500:4501, ..., None], 2)
  np.testing.assert_allclose(whole[4500:4501], single, atol=1e-7)


def test_subset_keeps_order_and_classes(random_bytes):
  part = random_bytes.subset([7, 2, 2], split='few')
  np.testing.assert_array_equal(part.pixels, random_bytes.pixels[[7, 2, 2]])
  assert part.labels.tolist() == [1, 2, 2]
  assert (part.num_classes, part.split, len(part)) == (3, 'few', 3)
  assert len(random_bytes.subset([])) == 0


@pytest.mark.parametrize('indices', [[30], [-1], [0.5], [[1]], np.ones(30, bool)])
def test_bad_indices_are_refused(random_bytes, indices):
  with pytest.raises(ValueError, match=r'indices'):
    random_bytes.subset(indices)


def test_classes_are_renumbered_in_the_order_given(random_bytes):
  part = random_bytes.classes(['c', 0])
  assert part.class_names == ('c', 'a')
  old = np.where(part.labels == 0, 2, 0)
  keep = np.flatnonzero(random_bytes.labels != 1)
  np.testing.assert_array_equal(old, random_bytes.labels[keep])
  np.testing.assert_array_equal(part.pixels, random_bytes.pixels[keep])


@pytest.mark.parametrize('keep', [[], [3], ['z'], [0, 'a'], [-1]])
def test_bad_classes_are_refused(random_bytes, keep):
  with pytest.raises(ValueError, match=r'class'):
    random_bytes.classes(keep)


def test_concatenate_joins_in_order_and_refuses_strangers(random_bytes):
  one, two = random_bytes.subset(range(10)), random_bytes.subset(range(10, 30))
  whole = data.concatenate([one, two])
  np.testing.assert_array_equal(whole.pixels, random_bytes.pixels)
  assert whole.split == 'all'
  with pytest.raises(ValueError, match=r'cannot join'):
    data.concatenate([one, two.resize(5)])
  with pytest.raises(ValueError, match=r'no parts'):
    data.concatenate([])


def test_direct_construction_is_checked(random_bytes):
  bad = {
    'rank': {'pixels': random_bytes.pixels[0]},
    'dtype': {'pixels': random_bytes.pixels.astype(np.float64)},
    'length': {'labels': random_bytes.labels[:5]},
    'label dtype': {'labels': random_bytes.labels.astype(np.int64)},
    'label range': {'num_classes': 2, 'class_names': ('a', 'b')},
    'names': {'class_names': ('a',)},
  }
  for change in bad.values():
    with pytest.raises(ValueError, match=r'data set'):
      dataclasses.replace(random_bytes, **change)


def test_standardizer_gives_zero_mean_unit_variance_per_channel(random_bytes):
  standardizer = data.Standardizer.fit(random_bytes)
  out = standardizer(random_bytes.images)
  assert out.dtype == np.float32
  np.testing.assert_allclose(out.mean(axis=(0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(out.std(axis=(0, 1, 2)), 1, atol=1e-5)
  np.testing.assert_allclose(standardizer.inverse(out), random_bytes.images, atol=1e-6)


def test_standardizer_works_under_jit(random_bytes):
  standardizer = data.Standardizer.fit(random_bytes)
  jitted = jax.jit(standardizer.__call__)(random_bytes.images)
  np.testing.assert_allclose(jitted, standardizer(random_bytes.images), atol=1e-5)


def test_standardizer_refuses_constant_channels_and_other_channel_counts(random_bytes):
  flat = data.from_arrays(np.full((2, 4, 4), 0.1, np.float32), [0, 1])
  with pytest.raises(ValueError, match=r'positive'):
    data.Standardizer.fit(flat)
  with pytest.raises(ValueError, match=r'no examples'):
    data.Standardizer.fit(flat.subset([]))
  with pytest.raises(ValueError, match=r'3 channels'):
    data.Standardizer.fit(random_bytes)(flat.images)
