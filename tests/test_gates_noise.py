"""Theorem T7 by enumeration, convergence with noise, and what makes gates binary."""

import functools

import gates_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax import gates


@pytest.fixture(autouse=True)
def _float64():
  with gates_problems.float64():
    yield


def enumerated(phi, theta, soft, estimator):
  """Exact mean of an estimator, and the exact gradient of E Phi(b), over all corners.

  Logistic noise of +-1e6 drives each gate of the package to the corner in question.
  """
  bits = jnp.asarray(gates_problems.corners(theta.shape[0]))
  p = gates.probability(theta, soft)
  weights = jnp.prod(jnp.where(bits > 0, p, 1 - p), axis=1)

  def estimate(noise):
    return jax.grad(lambda t: phi(gates.noisy_gates(t, noise, 0.5 * soft, soft, estimator)))(theta)

  mean = weights @ jax.vmap(estimate)(1e6 * (2 * bits - 1))
  values = jax.vmap(phi)(bits)

  def expectation(t):
    q = gates.probability(t, soft)
    return jnp.prod(jnp.where(bits > 0, q, 1 - q), axis=1) @ values

  return mean, jax.grad(expectation)(theta)


@functools.partial(jax.jit, static_argnames=('phi', 'estimator'))
def biases(phi, theta, problems, soft, estimator):
  """|mean - gradient| of every gate of a batch of problems."""
  one = lambda t, q, s: enumerated(lambda a: phi(a, q), t, s, estimator)
  mean, exact = jax.vmap(one)(theta, problems, soft)
  return jnp.abs(mean - exact)


def cubic(a, problem):
  Q, h, k = problem
  return gates_problems.phi(a, (Q, h)) + k @ a**3


@pytest.mark.parametrize(
  'kind,estimator',
  [('multilinear', 'raw'), ('multilinear', 'trapezoid'), ('indefinite', 'trapezoid')],
)
def test_t7_i_and_iii_unbiased(kind, estimator):
  """C6, C12: (5) for multilinear objectives, (6) for any quadratic in each gate."""
  rng = np.random.default_rng(0)
  problems = gates_problems.quadratics(rng, kind, 20, 5)
  theta, soft = rng.normal(size=(20, 5)) * 2, rng.uniform(0.3, 3, 20)
  assert biases(gates_problems.phi, theta, problems, soft, estimator).max() < 1e-12


def test_t7_ii_bias_of_the_raw_estimator():
  """C6: at most max |d_ii Phi| / (8 soft) per gate, and not zero."""
  rng = np.random.default_rng(1)
  Q, h = gates_problems.quadratics(rng, 'indefinite', 40, 5)
  k, theta, soft = rng.normal(size=(40, 5)), rng.normal(size=(40, 5)), rng.uniform(0.3, 3, 40)
  diagonal = np.diagonal(Q, axis1=1, axis2=2)
  curvature = np.maximum(np.abs(diagonal), np.abs(diagonal + 6 * k))
  bias = biases(cubic, theta, (Q, h, k), soft, 'raw')
  assert np.all(bias <= curvature / (8 * soft[:, None]) + 1e-12)
  assert bias.max() > 0.01


def test_t7_iii_bias_of_the_trapezoid_estimator():
  """At most max |d_iii Phi| / (48 soft) per gate: 6 |k| / 48 for k a^3, reached at theta = 0."""
  rng = np.random.default_rng(2)
  Q, h = gates_problems.quadratics(rng, 'indefinite', 40, 5)
  k, theta, soft = rng.normal(size=(40, 5)), rng.normal(size=(40, 5)), rng.uniform(0.3, 3, 40)
  theta[:, 0] = 0
  bias = biases(cubic, theta, (Q, h, k), soft, 'trapezoid')
  bound = 6 * np.abs(k) / (48 * soft[:, None])
  assert np.all(bias <= bound + 1e-12)
  np.testing.assert_allclose(bias[:, 0], bound[:, 0], rtol=1e-9)


def midpoints(count):
  """Midpoints of `count` equally likely slices of the logistic distribution."""
  u = (np.arange(count) + 0.5) / count
  return jnp.asarray(np.log(u) - np.log1p(-u))


@pytest.mark.parametrize('ratio,expected', [(0.5, 0.1534), (0.1, 0.0344), (0.02, 0.0069)])
def test_t7_iv_softness_of_the_gates(ratio, expected):
  """C6: E|z - b| at theta = 0, and its bound (ln 2 / 2) hard / soft at any theta."""
  noise = midpoints(200_000)
  for theta in (0.0, 0.7, -2.0):
    z = gates.noisy_gates(jnp.full_like(noise, theta), noise, ratio, 1.0, 'raw')
    b = gates.noisy_gates(jnp.full_like(noise, theta), noise, ratio, 1.0, 'trapezoid')
    distance = np.abs(z - b).mean()
    assert distance <= np.log(2) / 2 * ratio
    if theta == 0:
      np.testing.assert_allclose(distance, expected, atol=6e-5)


def test_t7_iv_bias_is_linear_in_the_ratio():
  """Two gates, a grid of noise: the bias that hard > 0 adds to (5), against its bound."""
  rng = np.random.default_rng(3)
  (Q,), (h,) = gates_problems.quadratics(rng, 'multilinear', 1, 2)
  theta, soft = jnp.array([0.4, -0.3]), 1.0
  axis = midpoints(400)
  noise = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)

  @jax.jit
  def mean(hard):
    sample = lambda t, e: gates_problems.phi(gates.noisy_gates(t, e, hard, soft, 'raw'), (Q, h))
    return jax.vmap(jax.grad(sample), (None, 0))(theta, noise).mean(0)

  limit = mean(1e-9)
  for ratio in (0.5, 0.1):
    bound = np.abs(Q).sum(1) / (4 * soft) * np.log(2) / 2 * ratio
    assert np.all(np.abs(mean(ratio * soft) - limit) <= bound + 1e-4)


def test_t7_v_no_integrality_gap():
  """Gates fixed one by one at the better end of E Phi: never worse, and never below the minimum."""
  rng = np.random.default_rng(4)
  count, d = 50, 5
  Q, h = gates_problems.quadratics(rng, 'indefinite', count, d)
  values, bits = gates_problems.corner_values(Q, h), gates_problems.corners(d)
  mean = lambda p: (np.prod(np.where(bits, p[:, None], 1 - p[:, None]), -1) * values).sum(1)
  p = np.array(gates.probability(jnp.asarray(rng.normal(size=(count, d)))))
  previous = mean(p)
  for i in range(d):
    ends = []
    for bit in (0.0, 1.0):
      p[:, i] = bit
      ends.append(mean(p))
    p[:, i] = (ends[1] < ends[0]).astype(float)
    current = mean(p)
    assert np.all(current <= previous + 1e-12)
    previous = current
  assert np.all(previous >= values.min(1) - 1e-12)
  np.testing.assert_allclose(
    previous, values[np.arange(count), gates_problems.corner_index(p)], atol=1e-12
  )


@functools.partial(jax.jit, static_argnames='estimator')
def noisy(theta, noise, problems, rate, estimator):
  one = lambda t, n, q, r: gates_problems.descend_with_noise(t, n, q, 1.0, r, estimator)
  return jax.vmap(one)(theta, noise, problems, rate)


def test_t5_ii_multilinear_limits_are_locally_optimal():
  """C7b: Bernoulli gates end where no single flip helps; a few restarts find the optimum."""
  rng = np.random.default_rng(5)
  count, d, restarts = 20, 6, 5
  Q, h = gates_problems.quadratics(rng, 'multilinear', count, d)
  problems = tuple(np.repeat(x, restarts, axis=0) for x in (Q, h))
  total = count * restarts
  theta = rng.normal(size=(total, d)) * 0.1
  noise = rng.logistic(size=(total, 1500, d))
  rate = np.ones(total) * 0.5
  last = noisy(theta, noise, problems, rate, 'trapezoid')
  bits = np.asarray(gates.binary(last))
  gradient = np.einsum('bij,bj->bi', problems[0], bits) + problems[1]
  flip = gradient * (1 - 2 * bits)
  assert np.mean(np.all(flip >= 0, axis=1)) >= 0.95
  reached = gates_problems.corner_values(*problems)[
    np.arange(total), gates_problems.corner_index(bits)
  ]
  best = gates_problems.corner_values(Q, h).min(1)
  optimal = np.abs(reached.reshape(count, restarts) - best[:, None]) < 1e-9
  assert optimal.mean() >= 0.75
  assert optimal.any(1).mean() >= 0.9


@functools.partial(jax.jit, static_argnames='steps')
def concave(theta, problems, mu, rate, steps):
  """Deterministic descent at r = 0.1 on the objective plus the concave term."""

  def objective(a, packed):
    problem, weights = packed
    return gates_problems.phi(a, problem) + gates.concave(a, weights)

  one = lambda t, q, m, r: gates_problems.descend(
    t, (q, m), 0.1, 1.0, r, steps, objective=objective
  )[-1]
  return jax.vmap(one)(theta, problems, mu, rate)


def test_c9_what_makes_gates_binary():
  """C9: with least squares, (6) or the concave term end at 0 or 1; (5) or neither do not."""
  rng = np.random.default_rng(6)
  count, d, steps = 60, 6, 4000
  problems = gates_problems.least_squares(rng, count, d)
  L = gates_problems.lipschitz(problems[0])
  theta = rng.normal(size=(count, d)) * 0.01
  noise = rng.logistic(size=(count, steps, d))
  values = gates_problems.corner_values(*problems)

  def outcome(last, hard):
    a = gates.two_temperature(last, hard, 1.0)
    binary = np.all(np.minimum(a, 1 - a) < 0.1, axis=1).mean()
    reached = values[np.arange(count), gates_problems.corner_index(np.asarray(gates.binary(last)))]
    return binary, np.mean(np.abs(reached - values.min(1)) < 1e-9)

  mu = np.diagonal(problems[0], axis1=1, axis2=2) / 2
  rate = 16 * 0.1 / L
  plain, _ = outcome(concave(theta, problems, 0 * mu, rate, steps), 0.1)
  helped, helped_best = outcome(concave(theta, problems, mu, rate, steps), 0.1)
  raw, _ = outcome(noisy(theta, noise, problems, 8 / L, 'raw'), 1.0)
  trapezoid, trapezoid_best = outcome(noisy(theta, noise, problems, 8 / L, 'trapezoid'), 1.0)
  assert plain < 0.5 < 0.85 <= helped
  assert raw < 0.5 < 0.7 <= trapezoid
  assert min(helped_best, trapezoid_best) >= 0.85
