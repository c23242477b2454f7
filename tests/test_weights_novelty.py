"""Whether samples are copies: distances, overlap of errors, noise, spread, ensembles."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights_toys
from scipy.spatial import distance as spatial

from dapt_jax.weights import distances, novelty, novelty_report

TASKS, ZOO, K = 10, 40, 3
KEY = jax.random.key(0)


def _networks(classes, count, seed):
  """`count` networks a task f32[T, count, size]: its classes' prototypes, and noise."""
  rng = np.random.default_rng(seed)
  kernel = np.eye(weights_toys.PIXELS)[classes].swapaxes(1, 2)[:, None]
  noise = 0.3 * rng.normal(size=(len(classes), count, *kernel.shape[2:]))
  return (kernel + noise).reshape(len(classes), count, -1).astype(np.float32)


@pytest.fixture(scope='module')
def problem():
  """(flat, zoo, fresh, base, images, tests, classes)."""
  flat, images, tests, _, classes = weights_toys.linear_problem(TASKS, noise=0.5)
  rng = np.random.default_rng(5)
  known = np.sort([rng.choice(weights_toys.PIXELS, 3, replace=False) for _ in range(ZOO)], axis=1)
  zoo = _networks(known, 1, seed=6)[:, 0]
  base = [(known[:, None] == own[None, :, None]).any(-1).sum(1).argmax() for own in classes]
  return flat, zoo, _networks(classes, K, seed=7), np.array(base), images, tests, classes


def _report(problem, samples, **options):
  flat, zoo, fresh, base, images, tests, _ = problem
  return novelty.report(flat, zoo, samples, fresh, base, images, tests, KEY, **options)


@pytest.mark.parametrize('group', [4, 256])
def test_nearest_is_what_scipy_finds(group):
  rng = np.random.default_rng(0)
  vectors, zoo = rng.normal(size=(11, 5)), rng.normal(size=(30, 5)).astype(np.float32)
  wanted = spatial.cdist(vectors, zoo)
  found = novelty.nearest(vectors.astype(np.float32), zoo, 4, group=group)
  np.testing.assert_array_equal(found.rows, wanted.argsort(1)[:, :4])
  np.testing.assert_allclose(found.distance, np.sort(wanted, 1)[:, :4], rtol=1e-5)
  # Within the zoo nobody is its own neighbour, also where only some of its rows are asked for.
  rows = np.array([7, 0, 29])
  inside = spatial.cdist(zoo[rows], zoo)
  inside[np.arange(3), rows] = np.inf
  found = novelty.nearest(zoo[rows], zoo, own=rows, group=group)
  np.testing.assert_array_equal(found.rows[:, 0], inside.argmin(1))


def test_copies_are_at_distance_zero():
  # Far from the origin, where the matrix product alone would lose the distance in rounding.
  zoo = 100.0 + np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
  found = novelty.nearest(zoo[[3, 9]], zoo)
  assert found.distance.tolist() == [[0.0], [0.0]] and found.rows.tolist() == [[3], [9]]
  twins = np.concatenate([zoo, zoo[:1]])
  found = novelty.nearest(twins[:1], twins, own=np.array([0]))
  assert found.distance[0, 0] == 0.0 and found.rows[0, 0] == 20


def test_weights_that_never_moved_do_not_count():
  zoo = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32) * [1.0, 20.0, 0.0, 1e-7]
  found = distances.standardise(jnp.asarray(zoo), jnp.asarray(zoo))
  np.testing.assert_allclose(found.std(0), [1.0, 1.0, 0.0, 0.0], atol=1e-5)
  np.testing.assert_allclose(found.mean(0), 0.0, atol=1e-5)


def test_overlap_of_errors(problem):
  flat, zoo, fresh, _, images, tests, _ = problem
  index = np.tile(np.arange(4), (TASKS, 1))
  found = novelty.overlap(flat, fresh[:, 0], jnp.asarray(zoo), index, images, tests)
  labels = np.repeat(np.arange(3), tests.shape[2])

  def wrong(vector, test):
    shown = np.asarray(images)[test.reshape(-1)].reshape(len(labels), -1)
    return set(np.flatnonzero((shown @ vector.reshape(8, 3)).argmax(1) != labels))

  for vector, test, row in zip(fresh[:, 0], tests, found.shared):
    mine = wrong(vector, test)
    theirs = [wrong(v, test) for v in zoo[:4]]
    wanted = [len(mine & t) / len(mine | t) for t in theirs]
    np.testing.assert_allclose(row, wanted, rtol=1e-6)
  own = novelty.overlap(flat, zoo[:TASKS], jnp.asarray(zoo), index[:, :1] * 0, images, tests)
  assert own.shared[0, 0] == own.excess[0, 0] == 1.0 and own.shared[1:].max() < 1.0
  # Two networks without an error share none: no number, which later means leave out.
  easy = weights_toys.linear_problem(2, noise=0.0)
  right = np.asarray(easy[3].swapaxes(1, 2).reshape(2, -1))
  rows = np.array([[0, 1], [1, 0]])
  found = novelty.overlap(flat, right, jnp.asarray(right), rows, easy[1], easy[2])
  assert np.isnan(found.shared[:, 0]).all() and np.isfinite(found.shared[:, 1]).all()


def test_errors_beyond_chance():
  """Random networks have independent errors, be they many or few: overlap grows, its excess not."""
  flat, _, _, _, _ = weights_toys.linear_problem(2)
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=(3000, 2, 4, 1)), jnp.float32)
  tests = np.arange(3000, dtype=np.int32).reshape(1, 3, 1000)
  labels = np.repeat(np.arange(3), 1000)
  # Pixels 0-2 and 3-5 hold the label with noise of their own; either network reads three.
  for noise in (0.4, 1.5):
    shown = noise * np.asarray(images).reshape(3000, 8)
    shown[:, :6] += np.tile(np.eye(3)[labels], 2)
    kernels = np.zeros((2, 8, 3), np.float32)
    kernels[0, :3] = kernels[1, 3:6] = np.eye(3)
    found = novelty.overlap(
      flat,
      kernels[:1].reshape(1, -1),
      kernels.reshape(2, -1),
      np.array([[0, 1]]),
      jnp.asarray(shown.reshape(3000, 2, 4, 1), jnp.float32),
      tests,
    )
    assert found.excess[0, 0] == 1.0 and abs(found.excess[0, 1]) < 0.04
    assert (found.shared[0, 1] > 0.25) == (noise == 1.5)


def test_spread_and_ensemble_by_hand():
  corners = 5.0 + np.stack([np.eye(4), 3 * np.eye(4), np.zeros((4, 4))])
  found = distances.spread(jnp.asarray(corners, jnp.float32))
  np.testing.assert_allclose(found, [np.sqrt(2), 3 * np.sqrt(2), 0.0], rtol=1e-4, atol=1e-3)
  flat, images, tests, conditions, _ = weights_toys.linear_problem(2, noise=0.0)
  right = conditions.swapaxes(1, 2).reshape(2, 1, -1)
  # Right but unsure, wrong and sure, right and sure: the mean of the softmax decides.
  parts = [0.1 * right, -1.0 * right, 10.0 * right]
  vectors = jnp.asarray(np.concatenate(parts, axis=1))
  assert novelty.accuracies(flat, vectors, images, tests).tolist() == [[1.0, 0.0, 1.0]] * 2
  assert novelty.ensemble(flat, vectors, images, tests).tolist() == [1.0, 1.0]
  assert novelty.ensemble(flat, vectors[:, :2], images, tests).tolist() == [0.0, 0.0]


def test_copies_are_found_as_copies(problem):
  _, zoo, _, base, *_ = problem
  found = _report(problem, np.repeat(zoo[base][:, None], K, axis=1), neighbours=1000)
  assert found.spaces['raw'].distance['samples'].max() == 0.0
  np.testing.assert_array_equal(found.spaces['raw'].overlap['samples'][:, 0], 1.0)
  assert found.spaces['raw'].overlap['samples'].shape == (TASKS, ZOO)  # all of the zoo
  assert found.verdict().startswith('copies')
  rows = {(r['measure'], r['of']): r for r in found.rows()}
  assert rows['largest error overlap', 'samples']['mean'] == 1.0
  assert rows['spread within a task', 'samples / fresh']['mean'] < 1e-3
  assert abs(rows[f'gain of an ensemble of {K}', 'samples']['mean']) < 1e-6
  # A stored network is no better than itself without noise.
  assert abs(rows['accuracy', 'samples - noise at their distance']['mean']) < 1e-6


def test_networks_of_their_own_are_new(problem):
  found = _report(problem, _networks(problem[-1], K, seed=8))
  assert found.verdict().startswith('new')
  rows = {(r['measure'], r['of']): r for r in found.rows()}
  assert 0.8 < rows['spread within a task', 'samples / fresh']['mean'] < 1.2
  assert rows[f'gain of an ensemble of {K}', 'samples']['low'] > 0
  assert rows['accuracy', 'samples - noise at their distance']['low'] > 0
  assert rows['distance to the zoo', 'zoo']['mean'] > 0
  json.dumps(found.rows(), allow_nan=False)


def test_shrinking_is_told_from_copying(problem):
  _, zoo, *_ = problem
  mean = zoo.mean(0)
  axes = np.linalg.svd(zoo - mean, full_matrices=False)[2][:8]
  through = lambda vectors: mean + (vectors - mean) @ axes.T @ axes  # a lossy linear autoencoder
  samples = through(_networks(problem[-1], K, seed=9))
  raw = _report(problem, samples)
  assert raw.verdict().startswith('near the zoo')
  corrected = _report(problem, samples, through=through)
  assert corrected.verdict().startswith('new')
  assert 'same tasks (corrected), distance' in corrected.verdict()
  rows = {(r['of'], r['space']): r for r in corrected.rows() if 'distance' in r['measure']}
  assert rows['samples - fresh', 'raw']['high'] < 0
  apart = rows['samples - fresh', 'corrected']
  assert apart['low'] < 0 < apart['high']
  assert rows['zoo', 'corrected']['mean'] < rows['zoo', 'raw']['mean']


def test_what_the_autoencoder_cannot_carry_is_not_corrected(problem):
  _, zoo, *_ = problem
  mean = zoo.mean(0)
  apart = lambda vectors: np.linalg.norm(vectors - mean, axis=1, keepdims=True)
  # Far from the zoo it knows nothing but the mean; linear networks of any length are as good.
  through = lambda vectors: np.where(apart(vectors) < 10, vectors, mean)
  found = _report(problem, 20.0 * _networks(problem[-1], K, seed=9), through=through)
  assert found.verdict().startswith('new: against networks trained on the same tasks (raw)')
  assert 'not corrected, since the autoencoder costs samples +0.' in found.verdict()
  accuracy = {(r['of'], r['space']): r['mean'] for r in found.rows() if r['measure'] == 'accuracy'}
  assert accuracy['samples', 'raw'] > accuracy['samples', 'corrected'] + 0.1
  assert accuracy['fresh', 'raw'] == accuracy['fresh', 'corrected']


def test_more_noise_is_farther_and_worse(problem):
  flat, zoo, _, base, images, tests, _ = problem
  sigmas = (0.0, 0.3, 1.0, 3.0)
  found = novelty.sweep(flat, jnp.asarray(zoo), base, images, tests, KEY, sigmas)
  assert found.distance.shape == (4, TASKS) and found.distance[0].max() == 0.0
  assert (np.diff(found.distance, axis=0) > 0).all()
  own = novelty.accuracies(flat, jnp.asarray(zoo)[base][:, None], images, tests)
  np.testing.assert_array_equal(found.accuracy[0], own[:, 0])
  assert found.accuracy[3].mean() < found.accuracy[0].mean() - 0.1
  line = novelty_report.Sweep(
    np.array([0.0, 1.0]), np.array([[0.0, 0.0], [2.0, 4.0]]), np.array([[1.0, 0.8], [0.5, 0.4]])
  )
  np.testing.assert_allclose(line.at(np.array([1.0, 9.0])), [0.75, 0.4])


def test_the_figure_has_points_and_the_line(problem):
  found = _report(problem, _networks(problem[-1], K, seed=8), sigmas=(0.0, 0.5))
  axes = novelty_report.figure({'toy': found}).axes[0]
  points = [c.get_offsets() for c in axes.collections]
  assert [len(p) for p in points] == [TASKS, TASKS]
  np.testing.assert_allclose(points[1][:, 1], found.spaces['raw'].accuracy['samples'].mean(1))
  np.testing.assert_allclose(axes.lines[0].get_ydata(), found.sweep.accuracy.mean(1))
  assert len(axes.get_legend().get_texts()) == 3 and axes.get_title() == 'toy'


def test_bad_input(problem):
  flat, zoo, fresh, base, images, tests, _ = problem
  with pytest.raises(ValueError, match='between 1 and the 39 networks'):
    novelty.nearest(zoo, zoo, 40, own=np.arange(40))
  with pytest.raises(ValueError, match=r'must be \[networks, size\]'):
    novelty.nearest(zoo[:, 1:], zoo)
  with pytest.raises(ValueError, match='samples has shape'):
    _report(problem, fresh[:, :1])
  with pytest.raises(ValueError, match='one of the 40 networks'):
    novelty.report(flat, zoo, fresh, fresh, base + 40, images, tests, KEY)
