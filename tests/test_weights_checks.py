"""Bootstrap tables, and tests of whether a generator listens to its condition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights_toys

from dapt_jax.weights import bootstrap, checks

TASKS, KEY = 12, jax.random.key(0)


@pytest.fixture(scope='module')
def problem():
  return weights_toys.linear_problem(TASKS)


def _listens(conditions, key):
  """The best linear network: every label's kernel is the prototype of its class, and some noise."""
  kernel = conditions.reshape(len(conditions), weights_toys.LINEAR_CLASSES, -1).swapaxes(1, 2)
  return (kernel + 0.05 * jax.random.normal(key, kernel.shape)).reshape(len(conditions), -1)


def _deaf(conditions, key):
  """A network for the classes 0, 1 and 2, whatever is asked for."""
  wanted = jnp.eye(weights_toys.LINEAR_CLASSES, weights_toys.PIXELS)
  return _listens(jnp.broadcast_to(wanted, conditions.shape), key)


def _ignores_order(conditions, key):
  """Knows which classes there are, and puts them in the order of their numbers."""
  slots = conditions.reshape(len(conditions), weights_toys.LINEAR_CLASSES, -1)
  order = jnp.argsort(slots.argmax(-1), axis=1)
  ordered = jnp.take_along_axis(slots, order[:, :, None], axis=1)
  return _listens(ordered.reshape(conditions.shape), key)


def _run(problem, sample, **options):
  flat, images, tests, conditions, _ = problem
  return checks.run(sample, conditions, flat, images, tests, KEY, draws=2, **options)


def _passed(found):
  return {row['check']: row['verdict'] == 'passed' for row in found.verdicts()}


def test_a_generator_that_listens_passes(problem):
  found = _run(problem, _listens, unconditional=lambda c, key: _listens(0.0 * c, key))
  assert _passed(found) == dict.fromkeys(
    ('condition is used', 'label order is followed', 'old labels are left', 'condition helps'), True
  )
  mean = {name: values.mean() for name, values in found.accuracy.items()}
  assert min(mean['own'], mean['permuted']) > 0.95
  # All classes of a permutation move, so a network that follows it is never right by old labels.
  assert mean['permuted, old labels'] < 0.05
  assert mean['shuffled'] < 0.6 and abs(mean['unconditional'] - found.chance) < 0.15
  rows = {row['method']: row for row in found.rows()}
  assert rows['own']['verdict'] == 'reference' and rows['shuffled']['verdict'] == 'loss'
  assert all('95%' in row['rule'] for row in found.verdicts())


def test_a_generator_that_ignores_its_condition_fails(problem):
  found = _run(problem, _deaf, unconditional=_deaf)
  passed = _passed(found)
  assert not passed['condition is used'] and not passed['condition helps']
  np.testing.assert_array_equal(found.accuracy['shuffled'], found.accuracy['own'])


def test_a_generator_without_slots_fails_the_label_order(problem):
  found = _run(problem, _ignores_order)
  # Labels of the toy come in the order of the classes' numbers: that alone looks well.
  assert found.accuracy['own'].mean() > 0.95
  assert _passed(found) == {
    'condition is used': True,
    'label order is followed': False,
    'old labels are left': False,
  }


def test_what_is_told_and_what_is_shared(problem):
  flat, images, tests, conditions, _ = problem
  seen = []

  def sample(told, key):
    seen.append((np.asarray(told).reshape(conditions.shape), jax.random.key_data(key).tolist()))
    return _listens(told, key)

  checks.run(sample, conditions, flat, images, tests, KEY, draws=2)
  (own, first), (_, second), (shuffled, third), _, (permuted, _), _ = seen
  assert first == third != second
  np.testing.assert_array_equal(own, conditions)
  assert sorted(shuffled.sum((1, 2)).tolist()) == sorted(conditions.sum((1, 2)).tolist())
  rows = lambda x: [a.tobytes() for a in x]
  # Nothing stays: no task keeps its condition, no class its slot, and none is lost.
  for mine, theirs in zip(own, permuted):
    assert sorted(rows(mine)) == sorted(rows(theirs))
    assert not any(a == b for a, b in zip(rows(mine), rows(theirs)))
  # Sets of images are exchanged like rows.
  once, seen[:] = np.asarray(permuted), []
  pairs = conditions.reshape(*conditions.shape[:2], 2, -1)
  checks.run(lambda c, key: sample(c, key), pairs, flat, images, tests, KEY, draws=1)
  np.testing.assert_array_equal(seen[2][0], once)


def test_bad_input_of_the_checks(problem):
  flat, images, tests, conditions, _ = problem
  with pytest.raises(ValueError, match='of the same tasks and classes'):
    checks.run(_listens, conditions[:, :2], flat, images, tests, KEY)
  with pytest.raises(ValueError, match='two tasks and two classes'):
    checks.run(_listens, conditions[:1], flat, images, tests[:1], KEY)
  with pytest.raises(ValueError, match='one network a condition'):
    checks.run(lambda c, key: _listens(c, key)[None], conditions, flat, images, tests, KEY)


def _covered(tables, truth=0.0):
  found = [bootstrap.interval(t, seed=i, draws=400) for i, t in enumerate(tables)]
  return np.mean([f.low <= truth <= f.high for f in found])


def test_intervals_cover_the_truth():
  rng = np.random.default_rng(0)
  assert 0.91 < _covered(rng.normal(size=(300, 40))) < 0.98
  # Skewed, as accuracies near their ceiling are.
  assert 0.89 < _covered(rng.exponential(size=(300, 40)), truth=1.0) < 0.98


def test_intervals_cover_with_tasks_that_seeds_share():
  rng = np.random.default_rng(1)
  effects = lambda *shape: rng.normal(size=(200, *shape))
  shared = 0.5 * effects(8, 1) + effects(1, 30) + 0.5 * effects(8, 30)
  assert 0.90 < _covered(shared) < 0.99
  flat = [table.reshape(-1) for table in shared[:100]]  # as if all were independent
  assert _covered(flat) < 0.6


def test_tables_of_methods():
  rng = np.random.default_rng(2)
  hard = rng.normal(size=60)  # tasks differ far more than methods do
  noise = lambda: 0.05 * rng.normal(size=60)
  table = {'a': hard + noise(), 'b': hard + noise() + 0.1, 'c': hard + noise(), 'd': hard - 0.2}
  rows = bootstrap.compare(table, 'a')
  assert [r['method'] for r in rows] == [*'abcd']
  assert [r['verdict'] for r in rows] == ['reference', 'win', 'tie', 'loss']
  b = rows[1]
  assert b['difference_low'] < 0.1 < b['difference_high']
  np.testing.assert_allclose(b['difference'], b['mean'] - rows[0]['mean'])
  # Paired: the difference is known far better than either mean.
  assert b['difference_high'] - b['difference_low'] < 0.15 * (b['high'] - b['low'])
  assert bootstrap.compare(table, 'a') == rows
  theory = 1.96 * table['a'].std() / np.sqrt(60)
  np.testing.assert_allclose((rows[0]['high'] - rows[0]['low']) / 2, theory, rtol=0.06)


def test_one_seed_is_a_table_of_one_row_and_repeated_seeds_widen():
  values = np.random.default_rng(3).normal(size=(5, 20))
  assert bootstrap.interval(values[0]) == bootstrap.interval(values[:1])
  width = lambda x: np.ptp(bootstrap.interval(x)[1:])
  assert width(values + 3.0 * np.arange(5)[:, None]) > 3 * width(values)


@pytest.mark.parametrize(
  ('table', 'reference', 'message'),
  [
    ({'a': np.ones(3)}, 'b', r"'b' is not among the methods \['a'\]"),
    ({'a': np.ones(3), 'b': np.ones(4)}, 'a', 'on the same tasks and seeds'),
    ({'a': np.ones(1)}, 'a', 'two tasks or more'),
    ({'a': np.array([0.5, np.nan])}, 'a', "'a' has 1 values that are not finite"),
  ],
)
def test_bad_tables(table, reference, message):
  with pytest.raises(ValueError, match=message):
    bootstrap.compare(table, reference)
