"""The interface that all relaxations share, and the peers behind it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax import gates
from dapt_jax.gates import peers

BINARY = ('gumbel_trapezoid', 'straight_through')
NOISY = ('gumbel_raw', 'gumbel_trapezoid', 'hard_concrete')


@pytest.mark.parametrize('variant', [lambda f: f, jax.jit], ids=['eager', 'jit'])
@pytest.mark.parametrize('name', gates.NAMES)
def test_every_relaxation_keeps_the_contract(name, variant):
  chosen = gates.get(name)
  assert chosen.name == name
  theta = {'stem': jnp.linspace(-2, 2, 7), 'links': jnp.ones((2, 3)) * 0.1}
  key = jax.random.key(0)

  @variant
  def everything(theta, hard):
    sampled, pull = jax.vjp(lambda t: chosen.sample(t, key, hard, 1.0), theta)
    return sampled, chosen.expected(theta, hard, 1.0), pull(theta)[0]

  for hard in (0.05, 2 / 3, 1.0):
    sampled, expected, slopes = everything(theta, hard)
    for tree in (sampled, expected, slopes):
      assert {k: v.shape for k, v in tree.items()} == {'stem': (7,), 'links': (2, 3)}
      assert all(v.dtype == jnp.float32 and np.all(np.isfinite(v)) for v in tree.values())
    for tree in (sampled, expected):
      assert all(np.all((v >= 0) & (v <= 1)) for v in tree.values())
    if name in BINARY:
      assert set(np.unique(np.concatenate([v.ravel() for v in sampled.values()]))) <= {0.0, 1.0}


@pytest.mark.parametrize('name', gates.NAMES)
def test_the_cost_grows_with_every_logit(name):
  slopes = jax.grad(lambda t: gates.get(name).expected(t, 0.5, 1.0).sum())(jnp.linspace(-2, 2, 9))
  assert np.all(slopes > 0)


@pytest.mark.parametrize('name', gates.NAMES)
def test_only_noisy_relaxations_use_the_key(name):
  chosen, theta = gates.get(name), jnp.zeros(64)
  first, second = (chosen.sample(theta, jax.random.key(k), 0.5, 1.0) for k in (0, 1))
  assert np.array_equal(first, second) == (name not in NOISY)


@pytest.mark.parametrize('name,hard', [('gumbel_raw', 1e-6), ('gumbel_trapezoid', 0.5)])
def test_expected_is_the_mean_of_the_samples(name, hard):
  chosen = gates.get(name)
  theta = jnp.repeat(jnp.array([-1.0, 0.5])[:, None], 20_000, axis=1)
  mean = chosen.sample(theta, jax.random.key(5), hard, 1.0).mean(1)
  np.testing.assert_allclose(mean, chosen.expected(theta[:, 0], hard, 1.0), atol=0.02)


@pytest.mark.parametrize('hard', [0.2, 2 / 3, 1.0])
def test_hard_concrete_expected_l0(hard):
  theta = jnp.repeat(jnp.array([-2.0, 0.0, 1.0])[:, None], 20_000, axis=1)
  z = gates.hard_concrete(theta, jax.random.key(0), hard, 1.0)
  l0 = gates.hard_concrete_expected_l0(theta[:, 0], hard, 1.0)
  np.testing.assert_allclose((z != 0).mean(1), l0, atol=5 * 0.5 / np.sqrt(20_000))
  assert np.all((z == 1).mean(1) > 0)
  # By symmetry a gate is exactly 1 as often as its mirror image is exactly 0.
  np.testing.assert_allclose((z[1] == 1).mean(), 1 - l0[1], atol=0.02)


def test_hard_concrete_closed_form_of_the_source():
  log_alpha, beta, (gamma, zeta) = 0.3, 2 / 3, peers.STRETCH
  expected = 1 / (1 + np.exp(-(log_alpha - beta * np.log(-gamma / zeta))))
  np.testing.assert_allclose(
    gates.hard_concrete_expected_l0(jnp.float32(log_alpha), beta, 1.0), expected, rtol=1e-6
  )


def test_hard_concrete_derivative_is_the_true_one():
  theta, key, step = jnp.linspace(-1, 1, 50), jax.random.key(2), 1e-2
  function = jax.jit(lambda t: gates.hard_concrete(t, key, 2 / 3, 1.0))
  slopes = jax.grad(lambda t: function(t).sum())(theta)
  numeric = (function(theta + step) - function(theta - step)) / (2 * step)
  smooth = (function(theta - 2 * step) > 0) & (function(theta + 2 * step) < 1)
  np.testing.assert_allclose(slopes[smooth], numeric[smooth], rtol=2e-3, atol=1e-4)
  assert np.any(smooth)
  assert np.any(slopes == 0)


def test_straight_through_is_the_limit_of_two_temperatures():
  theta = jnp.array([-1.0, -0.2, 0.3, 2.0])
  pair = lambda f: jax.jvp(f, (theta,), (jnp.ones(4),))
  for limit, small in zip(
    pair(gates.straight_through), pair(lambda t: gates.two_temperature(t, 1e-3, 1.0))
  ):
    np.testing.assert_allclose(limit, small, rtol=1e-6)


def test_one_temperature_is_two_equal_ones():
  theta = jnp.linspace(-3, 3, 13)
  pair = lambda f: jax.jvp(f, (theta,), (jnp.ones(13),))
  for one, two in zip(
    pair(gates.one_temperature), pair(lambda t: gates.two_temperature(t, 1.0, 1.0))
  ):
    np.testing.assert_allclose(one, two, rtol=1e-5)


def test_unknown_name_lists_the_allowed_ones():
  with pytest.raises(ValueError, match=r"'sparsemax'; it must be one of two_temperature, gumbel"):
    gates.get('sparsemax')
