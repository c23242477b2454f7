"""Retraining: learns, stops, refreshes statistics, never sees test labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transfer_toys as toys

from dapt_jax.transfer import draws, retrain, structures

RECIPE = retrain.Recipe(steps=60, batch_size=16, learning_rate=0.02, chunk=20, stop_loss=0.0)


@pytest.fixture(scope='module')
def task():
  return toys.images()


@pytest.fixture(scope='module')
def support(task):
  return draws.supports(task[1], (1, 10), 2)


def go(structure, task, support, recipe=RECIPE, key=0, **options):
  return retrain.retrain(
    structure,
    task[0],
    task[1],
    support,
    task[2],
    task[3],
    recipe=recipe,
    key=jax.random.key(key),
    **options,
  )


@pytest.fixture(scope='module')
def trained(task, support):
  return go(toys.structure(), task, support)


def test_learns_a_separable_task(trained, support):
  assert trained.accuracy.shape == trained.loss.shape == (4,)
  many = support.shots == 10
  assert trained.accuracy[many].min() > 0.9
  assert trained.accuracy[many].mean() >= trained.accuracy[~many].mean() > 0.4
  assert trained.loss.max() < 0.3
  assert trained.steps.tolist() == [60] * 4


def test_test_labels_never_influence_training(trained, task, support):
  wrong = (*task[:3], (task[3] + 1) % toys.CLASSES)
  other = go(toys.structure(), wrong, support)
  assert (toys.flat(other.params) == toys.flat(trained.params)).all()
  assert other.accuracy.max() < 0.5


def test_only_the_support_set_influences_training(trained, task, support):
  used = np.unique(support.index)
  images = np.array(task[0])
  images[np.setdiff1d(np.arange(len(images)), used)] = 1e3
  other = go(toys.structure(), (images, *task[1:]), support)
  assert (toys.flat(other.params) == toys.flat(trained.params)).all()


def test_statistics_come_from_the_whole_support_set(trained, task, support):
  made = toys.model()
  for run in range(4):
    params = jax.tree.map(lambda x, run=run: x[run], trained.params)
    own = task[0][support.index[run]]
    fresh = made.apply_train(params, own)[1]['batch_stats']
    np.testing.assert_allclose(toys.flat(params['batch_stats']), toys.flat(fresh), rtol=1e-5)
    logits = made.apply(params, task[2])
    assert (logits.argmax(-1) == task[3]).mean() == pytest.approx(trained.accuracy[run])


def test_refresh_leaves_networks_without_statistics_alone(task):
  structure = toys.linear()
  params = structure.init(jax.random.key(0))
  assert retrain.refresh_statistics(structure, params, task[0]) is params


def test_early_stopping_freezes_a_run_and_saves_steps(task, support):
  recipe = retrain.Recipe(steps=300, batch_size=16, learning_rate=0.01, chunk=3, stop_loss=0.15)
  seen = []
  out = go(
    toys.structure(),
    task,
    support,
    recipe,
    on_chunk=lambda done, active, loss: seen.append((done, active)),
  )
  assert (out.loss < 0.15).all()
  assert (out.steps % 3 == 0).all() and out.steps.max() < 300
  # The program ends with its last run; earlier ones stood still.
  assert seen[-1] == (out.steps.max(), 0)
  for done, active in seen:
    assert active == (out.steps > done).sum()
  assert out.steps.min() < out.steps.max()
  # A run does not depend on how many others there are, nor on how long they take. Alone it is
  # another program, and Adam makes steps of rounding where a gradient is zero; weights are those of
  # the same program, in which all take as long as it.
  run = int(out.steps.argmin())
  alone = draws.Support(*[a[run : run + 1] for a in support])
  single = go(toys.structure(), task, alone, recipe)
  assert single.steps[0] == out.steps[run]
  np.testing.assert_allclose(single.loss[0], out.loss[run], rtol=1e-3)
  np.testing.assert_array_equal(single.accuracy[0], out.accuracy[run])
  same = draws.Support(*[np.repeat(a, len(support.shots), axis=0) for a in alone])
  again = go(toys.structure(), task, same, recipe)
  assert (again.steps == out.steps[run]).all()
  mine = jax.tree.map(lambda x: x[run], out.params)
  for i in range(len(again.steps)):
    found = jax.tree.map(lambda x, i=i: x[i], again.params)
    np.testing.assert_allclose(toys.flat(found), toys.flat(mine), atol=1e-5)


def test_steps_that_no_chunk_divides(task, support):
  seen = []
  recipe = retrain.Recipe(steps=7, batch_size=4, chunk=3, stop_loss=0.0)
  out = go(toys.linear(), task, support, recipe, on_chunk=lambda done, *_: seen.append(done))
  assert seen == [3, 6, 7]
  assert out.steps.tolist() == [7] * 4


def test_runs_of_one_draw_share_first_weights_and_other_draws_do_not(task, support):
  recipe = retrain.Recipe(steps=1, learning_rate=1e-9, weight_decay=0.0)
  kernel = go(toys.structure(), task, support, recipe).params['params']['dense1']['kernel']
  np.testing.assert_allclose(kernel[0], kernel[2], atol=1e-6)
  np.testing.assert_allclose(kernel[1], kernel[3], atol=1e-6)
  assert np.abs(kernel[0] - kernel[1]).max() > 0.1
  other = go(toys.structure(), task, support, recipe, key=1).params['params']['dense1']['kernel']
  assert np.abs(kernel[0] - other[0]).max() > 0.1


def test_frozen_leaves_stay_with_readout_only(task, support):
  made = toys.model()
  source = made.init(jax.random.key(9))
  structure = structures.dense_pretrained(made, source, readout_only=True, head='head')
  out = go(structure, task, support)
  for run in range(4):
    params = jax.tree.map(lambda x, run=run: x[run], out.params['params'])
    assert (toys.flat(params['dense1']) == toys.flat(source['params']['dense1'])).all()
    assert (toys.flat(params['bn1']) == toys.flat(source['params']['bn1'])).all()
    first = structure.init(
      jax.random.fold_in(jax.random.fold_in(jax.random.key(0), support.draw[run]), 0)
    )['params']['head']
    assert np.abs(toys.flat(params['head']) - toys.flat(first)).max() > 0.05
  assert out.accuracy[support.shots == 10].min() > 0.8
  tuned = go(
    structures.dense_pretrained(made, source, readout_only=False, head='head'), task, support
  )
  moved = np.asarray(tuned.params['params']['dense1']['kernel'][0])
  assert np.abs(moved - source['params']['dense1']['kernel']).max() > 0.01


def test_divergence_is_an_error(task, support):
  broken = (task[0] * jnp.nan, *task[1:])
  with pytest.raises(FloatingPointError, match=r'4 of 4 runs .* lower learning_rate \(now 0.02\)'):
    go(toys.linear(), broken, support)


@pytest.mark.parametrize(
  'field, value',
  [
    ('steps', 0),
    ('batch_size', 0),
    ('chunk', 0),
    ('learning_rate', 0.0),
    ('weight_decay', -1.0),
    ('stop_loss', -1.0),
  ],
)
def test_recipe_refuses(field, value):
  with pytest.raises(ValueError, match=field):
    retrain.Recipe(**{field: value})
