import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from diffusion_toys import ALL

from dapt_jax.diffusion import denoisers, sampler, train
from dapt_jax.training import loop, repeated, runner

MODES = jnp.array([[[2.0, 0.0], [-2.0, 0.0]], [[0.0, 2.0], [0.0, -2.0]]])  # [condition, mode, 2]


def linear(params, x, t, condition, drop):
  """A model small enough to check by hand."""
  return params['w'] * x + jnp.where(drop[:, None], params['null'], params['c'] * condition)


START = {'w': 0.5, 'c': 1.0, 'null': -1.0}
BATCH = jnp.arange(24.0).reshape(8, 3) / 10, jnp.ones((8, 1))


def make(predict_fn=linear, optimizer=None, **options):
  init_fn = lambda key: jax.tree.map(jnp.float32, START)
  return train.make_training(init_fn, predict_fn, ALL['v'], optimizer or optax.sgd(0.1), **options)


def test_the_average_is_the_bias_corrected_one():
  training = make(ema_decay=0.8)
  state, seen = training.init(jax.random.key(0)), []
  np.testing.assert_array_equal(state.ema['w'], state.params['w'])
  update = jax.jit(training.update)
  for count in range(1, 7):
    state, _ = update(state, BATCH)
    seen.append(float(state.params['w']))
    weights = 0.2 * 0.8 ** np.arange(count)[::-1] / (1 - 0.8**count)
    assert float(state.ema['w']) == pytest.approx(float(weights @ seen), rel=1e-5)
  assert int(state.step) == 6 and len(set(seen)) == 6


def test_a_penalty_acts_on_the_predicted_data():
  asked = []

  def penalty(params, x0, condition, drop):
    asked.append((x0.shape, condition.shape, drop.shape))
    return 100.0 * jnp.square(x0).mean(-1)

  plain, bound = make(drop_rate=0.0), make(drop_rate=0.0, penalty=penalty)
  _, metrics = jax.jit(plain.update)(plain.init(jax.random.key(0)), BATCH)
  _, seen = jax.jit(bound.update)(bound.init(jax.random.key(0)), BATCH)
  assert asked[0] == ((8, 3), (8, 1), (8,))
  np.testing.assert_allclose(seen['error'], metrics['loss'], rtol=1e-6)
  np.testing.assert_allclose(seen['loss'], seen['error'] + seen['penalty'], rtol=1e-6)
  # Predicting v = (alpha x - x_0) / sigma: data near 0 ask for w > 0 and c = 0.
  optimizer = optax.adam(0.05)
  bound = make(drop_rate=0.0, penalty=penalty, optimizer=optimizer)
  state = bound.init(jax.random.key(0))
  state, ends = jax.jit(repeated.repeated(bound.update, lambda data, key: data, 300))(state, BATCH)
  assert float(ends['penalty']) < 0.9 * float(seen['penalty'])
  assert abs(float(state.params['c'])) < 0.5


def test_no_average_with_decay_zero():
  training = make(ema_decay=0.0)
  state, _ = jax.jit(training.update)(training.init(jax.random.key(0)), BATCH)
  np.testing.assert_allclose(state.ema['w'], state.params['w'])


@pytest.mark.parametrize('rate', [0.0, 0.25, 1.0])
def test_the_stated_share_of_conditions_is_dropped(rate):
  dropped = []

  def spying(params, x, t, condition, drop):
    jax.debug.callback(lambda d: dropped.append(np.asarray(d)), drop)
    return linear(params, x, t, condition, drop)

  training = make(spying, drop_rate=rate)
  state, batch = training.init(jax.random.key(0)), (jnp.ones((500, 3)), jnp.ones((500, 1)))
  update = jax.jit(training.update)
  for _ in range(4):
    state, _ = update(state, batch)
  jax.effects_barrier()
  assert np.mean(dropped) == pytest.approx(rate, abs=0.05)
  assert len(dropped) == 4 and (rate in (0.0, 1.0) or not np.array_equal(*dropped[:2]))
  # Nothing of a condition that is always dropped is learned, and no null one that is never used.
  assert (float(state.params['c']) == START['c']) == (rate == 1.0)
  assert (float(state.params['null']) == START['null']) == (rate == 0.0)


def test_every_update_has_noise_of_its_own_and_the_same_state_the_same():
  training = make(optimizer=optax.set_to_zero())
  update, state = jax.jit(training.update), training.init(jax.random.key(0))
  later, first = update(state, BATCH)
  assert update(state, BATCH)[1] == first
  assert update(later, BATCH)[1] != first
  other = training.init(jax.random.key(1))
  assert update(other, BATCH)[1] != first


def test_the_loss_of_a_perfect_prediction_is_zero():
  """A network that is told the data knows the noise."""

  def knowing(params, x, t, condition, drop):
    alpha, sigma = (a[:, None] for a in ALL['v'].process.at(t))
    return ALL['v'].target(condition, (x - alpha * condition) / sigma, t) + 0 * params['w']

  training = make(knowing)
  state = training.init(jax.random.key(0))
  _, metrics = jax.jit(training.update)(state, (BATCH[0], BATCH[0]))
  assert float(metrics['loss']) < 1e-4


@pytest.mark.parametrize('name', ['v', 'flow'])
def test_a_mixture_is_learned_and_each_condition_gets_its_modes(name):
  goal = ALL[name]

  def draw(data, key):
    of_rows, of_noise = jax.random.split(key)
    rows = jax.random.randint(of_rows, (2, 64), 0, 2)
    x0 = data[rows[0], rows[1]] + 0.1 * jax.random.normal(of_noise, (64, 2))
    return x0, jax.nn.one_hot(rows[0], 2)

  example = draw(MODES, jax.random.key(0))
  module = denoisers.ResidualMLP(width=32, blocks=2)
  init_fn, predict_fn = denoisers.functions(module, *example)
  training = train.make_training(init_fn, predict_fn, goal, optax.adam(5e-3), ema_decay=0.99)
  mapped = runner.make_update(repeated.repeated(training.update, draw, 250), kind='jit')
  start = training.init(jax.random.key(1))
  result = loop.run(mapped, start, lambda i: MODES, num_steps=3, progress=False)
  assert int(result.state.step) == 750

  kinds = jnp.arange(400) % 2
  bound = lambda *args: predict_fn(result.state.ema, *args)
  drawn = jax.jit(
    lambda c, key: sampler.sample(
      bound, goal, c, (2,), key, method='dpm_solver', num_steps=20, guidance=1.5
    )
  )(jax.nn.one_hot(kinds, 2), jax.random.key(2))
  distance = jnp.linalg.norm(drawn[:, None] - MODES[kinds], axis=-1)
  assert float(jnp.mean(distance.min(1) < 0.6)) > 0.95
  assert 0.3 < float(jnp.mean(distance.argmin(1))) < 0.7


def test_several_updates_in_one_call_are_the_single_ones():
  training = make(optimizer=optax.sgd(0.01))
  draw = lambda data, key: (data[jax.random.randint(key, (4,), 0, 8)], jnp.ones((4, 1)))
  state = training.init(jax.random.key(0))
  three, metrics = jax.jit(repeated.repeated(training.update, draw, 3))(state, BATCH[0])
  one, losses = jax.jit(repeated.repeated(training.update, draw, 1)), []
  for _ in range(3):
    state, last = one(state, BATCH[0])
    losses.append(float(last['loss']))
  assert float(metrics['loss']) == pytest.approx(np.mean(losses), rel=1e-5)
  assert float(three.params['w']) == pytest.approx(float(state.params['w']), rel=1e-5)
  assert len(set(losses)) == 3


def test_two_devices_give_what_one_gives():
  root = pathlib.Path(__file__).parent.parent
  done = subprocess.run(
    [sys.executable, str(root / 'tests/diffusion_devices.py')],
    env={**os.environ, 'PYTHONPATH': str(root), 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=240,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout.splitlines()[-1])
  assert found['devices'] == 2 and found['step'] == 20 and found['moved'] > 0.05
  assert found['params'] < 1e-6 and found['ema'] < 1e-6 and found['loss'] < 1e-5


def test_bad_input():
  with pytest.raises(ValueError, match=r'ema_decay=1\.0 must be in \[0, 1\)'):
    make(ema_decay=1.0)
  with pytest.raises(ValueError, match=r'drop_rate=-0\.1 must be in \[0, 1\]'):
    make(drop_rate=-0.1)
  with pytest.raises(ValueError, match='num_steps=0: a call needs at least 1'):
    repeated.repeated(make().update, None, 0)
  training = make()
  state = training.init(jax.random.key(0))
  with pytest.raises(ValueError, match=r'a batch is a pair .x0, condition., got dict'):
    training.update(state, {'x0': BATCH[0]})
  with pytest.raises(ValueError, match=r'x0 has shape \(8, 3\).*have \[\(7, 1\)\]'):
    training.update(state, (BATCH[0], jnp.ones((7, 1))))
  shorter = make(lambda params, x, t, c, d: x[:, :2] * params['w'])
  with pytest.raises(ValueError, match=r'returned shape \(8, 2\) for data of shape \(8, 3\)'):
    shorter.update(state, BATCH)
