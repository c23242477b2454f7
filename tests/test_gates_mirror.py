"""The mirror map, its inverse, the optax transformation and step sizes."""

import chex
import gates_problems
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dapt_jax import gates
from dapt_jax.gates import mirror


@pytest.mark.parametrize('soft', [0.01, 1.0, 7.0])
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_inverse_is_accurate_to_rounding(dtype, soft):
  with gates_problems.float64():
    u = np.concatenate([-np.geomspace(1e-20, 70, 500), [0], np.geomspace(1e-20, 70, 500)])
    theta = jnp.asarray(u * soft, dtype)
    back = jax.jit(lambda t: gates.mirror_inverse(gates.mirror_map(t, soft), soft))(theta)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, theta, rtol=8 * jnp.finfo(dtype).eps, atol=0)


def test_inverse_is_odd_monotone_and_finite():
  y = jnp.asarray(np.geomspace(1e-30, 3e38, 400), jnp.float32)
  theta = gates.mirror_inverse(y)
  np.testing.assert_allclose(gates.mirror_inverse(-y), -theta, rtol=1e-6)
  assert np.all(np.isfinite(theta))
  assert np.all(np.diff(theta) >= 0)
  assert np.all(np.diff(theta[::20][:-1]) > 0)
  assert np.all(np.isfinite(gates.mirror_inverse(jnp.array([jnp.inf, -jnp.inf]))))
  assert np.all(np.isfinite(gates.mirror_map(jnp.array([1e4, -1e4, 3e38]))))


def test_derivative_of_the_inverse_is_the_slope_of_the_gate():
  theta = jnp.linspace(-4, 4, 17)
  y = gates.mirror_map(theta)
  slope = jax.vmap(jax.grad(gates.mirror_inverse))(y)
  gate_slope = jax.vmap(jax.grad(lambda t: gates.two_temperature(t, 0.1, 1.0)))(theta)
  np.testing.assert_allclose(slope, gate_slope, rtol=1e-4)


def test_equation_4_by_hand_over_a_tree():
  theta = {'a': jnp.array([0.3, -1.0]), 'b': jnp.array([2.0])}
  pull = {'a': jnp.array([0.5, -0.25]), 'b': jnp.array([1.0])}
  loss = lambda t: gates.complexity(gates.two_temperature(t, 0.1, 1.0), pull)
  optimiser = gates.mirror_descent(0.2)
  updates, state = optimiser.update(jax.grad(loss)(theta), optimiser.init(theta), theta)
  dual = jax.tree.map(lambda y, g: y - 0.2 * g, gates.mirror_map(theta), pull)
  chex.assert_trees_all_close(state.dual, dual, rtol=1e-5)
  new = optax.apply_updates(theta, updates)
  chex.assert_trees_all_close(gates.mirror_map(new), dual, rtol=1e-4)
  assert int(state.step) == 1


def test_small_steps_agree_with_euler():
  """Variants A and M are two discretisations of one flow: they differ by O(rate)."""
  with gates_problems.float64():
    rng = np.random.default_rng(0)
    problem = tuple(x[0] for x in gates_problems.quadratics(rng, 'convex', 1, 4))
    theta = jnp.asarray(rng.normal(size=4) * 0.1)
    rates = jnp.array([0.1, 0.05])

    @jax.jit
    def ends(rate):
      path = lambda mirror: gates_problems.descend(theta, problem, 0.3, 1.0, rate, 80, mirror)
      return path(True) - path(False)

    difference = jnp.abs(jax.vmap(ends)(rates)).max(-1)
    gap = difference[0, 40], difference[1, 80]
    assert gap[1] < 0.02
    np.testing.assert_allclose(gap[0] / gap[1], 2, rtol=0.15)


def test_saturated_gates_stay_finite_and_can_return():
  optimiser = gates.mirror_descent(1.0)
  theta = jnp.array([1e4, -1e4, 60.0, 5.0])
  state = optimiser.init(theta)
  gradient = jax.grad(lambda t: gates.two_temperature(t).sum())

  @jax.jit
  def step(theta, state):
    updates, state = optimiser.update(gradient(theta), state, theta)
    return optax.apply_updates(theta, updates), state

  for _ in range(200):
    theta, state = step(theta, state)
    assert np.all(np.isfinite(theta))
    assert np.all(np.isfinite(state.dual))
  assert theta[3] < 0


def test_learning_rate_may_be_a_schedule_under_jit():
  optimiser = optax.chain(
    optax.identity(), gates.mirror_descent(optax.linear_schedule(1.0, 0.0, 2))
  )

  @jax.jit
  @chex.assert_max_traces(n=1)
  def step(theta, state):
    gradient = jax.grad(lambda t: gates.two_temperature(t).sum())(theta)
    updates, state = optimiser.update(gradient, state, theta)
    return optax.apply_updates(theta, updates), state

  theta, path = jnp.zeros(1), []
  state = optimiser.init(theta)
  for _ in range(4):
    theta, state = step(theta, state)
    path.append(float(gates.mirror_map(theta)[0]))
  np.testing.assert_allclose(path, [-1.0, -1.5, -1.5, -1.5], rtol=1e-5)


@pytest.mark.parametrize('kind', ['convex', 'indefinite', 'multilinear'])
def test_power_iteration_finds_the_spectral_norm(kind):
  with gates_problems.float64():
    (Q,), (h,) = gates_problems.quadratics(np.random.default_rng(1), kind, 1, 6)
    phi = lambda a: gates_problems.phi(jnp.concatenate([a['x'], a['y']]), (Q, h))
    half = {'x': jnp.full(4, 0.5), 'y': jnp.full(2, 0.5)}
    estimate = jax.jit(lambda k: gates.lipschitz_by_power_iteration(phi, half, k, iterations=400))(
      jax.random.key(0)
    )
    np.testing.assert_allclose(estimate, gates_problems.lipschitz(Q), rtol=1e-3)


def test_power_iteration_of_a_linear_objective_is_zero():
  half = jnp.full(3, 0.5)
  assert gates.lipschitz_by_power_iteration(jnp.sum, half, jax.random.key(0)) == 0


def test_max_stable_learning_rate():
  np.testing.assert_allclose(gates.max_stable_learning_rate(0.1, 2.0, 4.0), 0.8, rtol=1e-6)


def test_bad_input_is_named():
  with pytest.raises(ValueError, match=r'learning_rate is -1\.0; it must be positive'):
    gates.mirror_descent(-1.0)
  with pytest.raises(ValueError, match=r'soft temperature is 0\.0'):
    gates.mirror_descent(0.1, soft=0.0)
  with pytest.raises(ValueError, match=r'update\(gradient, state, theta\)'):
    optimiser = mirror.mirror_descent(0.1)
    optimiser.update(jnp.zeros(1), optimiser.init(jnp.zeros(1)))
  with pytest.raises(ValueError, match=r'lipschitz is 0\.0'):
    gates.max_stable_learning_rate(0.1, 1.0, 0.0)
  with pytest.raises(ValueError, match='iterations is 0'):
    gates.lipschitz_by_power_iteration(jnp.sum, jnp.ones(2), jax.random.key(0), iterations=0)
