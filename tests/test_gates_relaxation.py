"""Laws of the relaxations: values, derivatives, limits, noise, tracing and bad input."""

import chex
import gates_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax import gates
from dapt_jax.gates import relaxation

TEMPERATURES = [(0.01, 1.0), (0.1, 1.0), (1.0, 1.0), (0.5, 3.0)]
EXTREMES = np.array([-1e4, -100.0, -1.0, -1e-30, 0.0, 1e-30, 1.0, 100.0, 1e4], np.float32)


def sigmoid(x):
  return 0.5 * (1 + np.tanh(np.asarray(x, np.float64) / 2))


@pytest.mark.parametrize('variant', [lambda f: f, jax.jit], ids=['eager', 'jit'])
@pytest.mark.parametrize('hard,soft', TEMPERATURES)
def test_equation_2_value_and_derivative(hard, soft, variant):
  theta = jnp.linspace(-3, 3, 41)
  function = variant(lambda t: gates.two_temperature(t, hard, soft))
  value, derivative = jax.jvp(function, (theta,), (jnp.ones_like(theta),))
  p = sigmoid(theta / soft)
  np.testing.assert_allclose(value, sigmoid(theta / hard), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(derivative, p * (1 - p) / soft, rtol=1e-5)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', gates.NAMES)
def test_finite_at_extremes(name, dtype):
  chosen, theta = gates.get(name), jnp.asarray(EXTREMES, dtype)
  key = jax.random.key(0)
  both = jax.jit(lambda t: (chosen.sample(t, key, 0.001, 1.0), chosen.expected(t, 0.001, 1.0)))
  for value, derivative in zip(*jax.jvp(both, (theta,), (jnp.ones_like(theta),))):
    assert value.dtype == derivative.dtype == dtype
    assert np.all(np.isfinite(value.astype(jnp.float32)))
    assert np.all(np.isfinite(derivative.astype(jnp.float32)))
    assert np.all(derivative >= 0)


def test_limits_of_the_temperatures():
  theta = jnp.array([-2.0, -0.1, 0.1, 2.0])
  np.testing.assert_array_equal(gates.two_temperature(theta, 1e-4, 1.0), gates.binary(theta))
  np.testing.assert_allclose(
    gates.two_temperature(theta, 1.0, 1.0), gates.probability(theta), rtol=1e-6
  )
  np.testing.assert_allclose(gates.two_temperature(theta, 1e4, 1e4), 0.5, atol=1e-4)


def test_complement_and_monotonicity():
  theta = jnp.linspace(-1, 1, 101)
  a = gates.two_temperature(theta)
  np.testing.assert_allclose(a + gates.two_temperature(-theta), 1, atol=1e-6)
  assert np.all(np.diff(a) >= 0)


def test_vmap_over_temperatures_and_gates():
  theta = jnp.linspace(-1, 1, 5)
  hards = jnp.array([0.1, 0.5, 1.0])
  together = jax.vmap(gates.two_temperature, (None, 0, None))(theta, hards, 1.0)
  single = jnp.stack([gates.two_temperature(theta, float(h), 1.0) for h in hards])
  np.testing.assert_allclose(together, single, rtol=1e-6)
  slopes = jax.vmap(jax.grad(gates.two_temperature), (0, None, None))(theta, 0.1, 1.0)
  np.testing.assert_allclose(slopes, sigmoid(theta) * sigmoid(-theta), rtol=1e-5)


def test_derivative_with_respect_to_temperatures_is_zero():
  slopes = jax.grad(lambda h, s: gates.two_temperature(jnp.float32(0.3), h, s), (0, 1))(0.1, 1.0)
  assert slopes == (0.0, 0.0)


@pytest.mark.parametrize('name', gates.NAMES)
def test_changing_temperatures_does_not_retrace(name):
  chosen = gates.get(name)
  chex.clear_trace_counter()

  @jax.jit
  @chex.assert_max_traces(n=1)
  def step(theta, key, hard, soft):
    loss = lambda t: chosen.sample(t, key, hard, soft).sum() + chosen.expected(t, hard, soft).sum()
    return jax.grad(loss)(theta)

  for i, hard in enumerate((1.0, 0.5, 0.1)):
    step(jnp.zeros(3), jax.random.key(i), hard, 1.0 + i)


@pytest.mark.parametrize('estimator,hard', [('trapezoid', 1.0), ('raw', 1e-6), ('raw', 0.5)])
def test_probability_of_an_open_gate(estimator, hard):
  theta = jnp.repeat(jnp.array([-2.0, -0.5, 0.0, 1.0])[:, None], 20_000, axis=1)
  soft = 1.5
  z = gates.gumbel_gates(theta, jax.random.key(0), hard, soft, estimator)
  p = gates.probability(theta[:, 0], soft)
  # Five standard errors; P(z > 1/2) = sigma(theta / soft) whatever the hard temperature.
  np.testing.assert_allclose((z > 0.5).mean(1), p, atol=5 * 0.5 / np.sqrt(20_000))
  if estimator == 'trapezoid':
    assert set(np.unique(z)) == {0.0, 1.0}


def test_moments_of_the_noise():
  noise = gates.logistic_noise(jnp.zeros(100_000), jax.random.key(1))
  assert abs(float(noise.mean())) < 5 * np.pi / np.sqrt(3e5)
  np.testing.assert_allclose(noise.var(), np.pi**2 / 3, rtol=0.03)
  assert np.all(np.isfinite(noise))


def test_equations_5_and_6_derivatives():
  theta, noise = jnp.array([0.7, 0.7, -1.0, -1.0]), jnp.array([3.0, -3.0, 3.0, -3.0])
  p = sigmoid(theta / 2.0)
  slope = lambda estimator: jax.vjp(
    lambda t: gates.noisy_gates(t, noise, 0.1, 2.0, estimator), theta
  )[1](jnp.ones(4))[0]
  np.testing.assert_allclose(slope('raw'), p * (1 - p) / 2, rtol=1e-5)
  expected = np.array([1 - p[0], p[1], 1 - p[2], p[3]]) / 4
  np.testing.assert_allclose(slope('trapezoid'), expected, rtol=1e-5)


def test_noise_is_a_function_of_key_and_sorted_names():
  first = {'b': jnp.zeros(3), 'a': jnp.zeros(3)}
  second = {'a': jnp.zeros(3), 'b': jnp.zeros(3)}
  key = jax.random.key(3)
  chex.assert_trees_all_equal(gates.gumbel_gates(first, key), gates.gumbel_gates(second, key))
  noise = gates.logistic_noise(first, key)
  assert not np.allclose(noise['a'], noise['b'])
  assert not np.allclose(noise['a'], gates.logistic_noise(first, jax.random.key(4))['a'])


def test_binary_needs_no_temperature():
  theta = {'a': jnp.array([-1.0, 0.0, 1e-30, 5.0])}
  np.testing.assert_array_equal(gates.binary(theta)['a'], [0, 0, 1, 1])
  np.testing.assert_array_equal(gates.threshold(theta)['a'], [False, False, True, True])


@pytest.mark.parametrize('hard,soft', [(-0.1, 1.0), (0.0, 1.0), (2.0, 1.0), (float('nan'), 1.0)])
@pytest.mark.parametrize('name', gates.NAMES)
def test_bad_temperatures_are_named(name, hard, soft):
  chosen = gates.get(name)
  for call in (
    lambda: chosen.sample(jnp.zeros(2), jax.random.key(0), hard, soft),
    lambda: chosen.expected(jnp.zeros(2), hard, soft),
    lambda: jax.jit(lambda t: chosen.expected(t, hard, soft))(jnp.zeros(2)),
  ):
    with pytest.raises(ValueError, match=rf'{hard}.*0 < hard <= soft: '):
      call()


def test_other_bad_input_is_named():
  with pytest.raises(ValueError, match=r'soft temperature is -1\.0'):
    gates.probability(jnp.zeros(2), -1.0)
  with pytest.raises(ValueError, match=r'shape \(2,\); it must be a scalar'):
    gates.two_temperature(jnp.zeros(2), np.array([0.1, 0.2]), 1.0)
  with pytest.raises(TypeError, match=r'int32; they must be floating point'):
    gates.two_temperature({'a': jnp.zeros(2, jnp.int32)})
  with pytest.raises(ValueError, match=r"'heun'; it must be one of raw, trapezoid"):
    gates.gumbel_gates(jnp.zeros(2), jax.random.key(0), estimator='heun')
  with pytest.raises(ValueError, match='needs a random key'):
    gates.gumbel_gates(jnp.zeros(2), None)


def test_equal_temperatures_pass_in_any_precision():
  gates.check_temperatures(jnp.float32(0.1), 0.1)
  gates.check_temperatures(0.1, jnp.float32(0.1))


def test_float64_keeps_its_precision():
  with gates_problems.float64():
    theta = jnp.asarray(np.linspace(-2, 2, 9))
    a = gates.two_temperature(theta, jnp.float64(0.3), 1.0)
    assert a.dtype == jnp.float64
    np.testing.assert_allclose(a, 1 / (1 + np.exp(-np.linspace(-2, 2, 9) / 0.3)), rtol=1e-13)


def test_second_derivatives_exist():
  second = jax.grad(jax.grad(lambda t: relaxation.two_temperature(t, 0.1, 1.0)))(0.5)
  p = sigmoid(0.5)
  np.testing.assert_allclose(second, p * (1 - p) * (1 - 2 * p), rtol=1e-4)
