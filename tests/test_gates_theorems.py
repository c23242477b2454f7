"""Theorems about the deterministic two-temperature dynamics of `docs/gates.md`.

All in float64 and vectorised over random problems; the code under test is the package's own gates,
transformation, step size, penalty and certificate.
"""

import functools

import gates_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from dapt_jax import gates

KINDS = ['convex', 'indefinite', 'multilinear']
KAPPA0 = 0.223872
# One batch of problems in most tests: the same shapes compile once.
COUNT, D = 60, 5


@pytest.fixture(autouse=True)
def _float64():
  with gates_problems.float64():
    yield


def temperatures(rng, count):
  """Ratios from 1e-3 to 1 and scales of a factor of 9."""
  soft = rng.uniform(1 / 3, 3, count)
  return soft * 10 ** rng.uniform(-3, 0, count), soft


def logits(rng, hard, soft, d):
  """Undecided and saturated gates at both temperatures."""
  scale = np.where(rng.random((len(hard), d)) < 0.5, hard[:, None], soft[:, None])
  return rng.normal(size=(len(hard), d)) * 2 * scale


batched_phi = jax.jit(jax.vmap(gates_problems.phi))
batched_gradient = jax.jit(jax.vmap(jax.grad(gates_problems.phi)))
batched_direction = jax.jit(jax.vmap(gates_problems.direction))
batched_gates = jax.jit(jax.vmap(gates.two_temperature))


@functools.partial(jax.jit, static_argnames=('steps', 'mirror'))
def run(theta, problems, hard, soft, rate, steps, mirror=False):
  """Logits f64[batch, steps + 1, d] of one variant on a batch of problems."""
  one = lambda t, q, h, s, r: gates_problems.descend(t, q, h, s, r, steps, mirror)
  return jax.vmap(one)(theta, problems, hard, soft, rate)


@jax.jit
def along(theta, problems, hard, soft):
  """Gates and objective f64[batch, steps + 1] along paths of logits."""
  a = jax.vmap(gates.two_temperature)(theta, hard, soft)
  return a, jax.vmap(jax.vmap(gates_problems.phi, (0, None)))(a, problems)


def test_lemma_0_scale():
  """Scaling logits and temperatures by 4, the rate by 16, is exact: powers of two do not round."""
  rng = np.random.default_rng(0)
  problems = gates_problems.quadratics(rng, 'indefinite', COUNT, D)
  hard, soft, theta = np.full(COUNT, 0.2), np.ones(COUNT), rng.normal(size=(COUNT, D))
  rate = 16 * hard / gates_problems.lipschitz(problems[0])
  a, _ = along(run(theta, problems, hard, soft, rate, 200), problems, hard, soft)
  scaled = run(4 * theta, problems, 4 * hard, 4 * soft, 16 * rate, 200)
  b, _ = along(scaled, problems, 4 * hard, 4 * soft)
  np.testing.assert_array_equal(a, b)
  assert np.abs(a[:, -1] - a[:, 0]).max() > 0.1


@pytest.mark.parametrize('kind', KINDS)
def test_t1_direction_is_a_preconditioned_hard_gradient(kind):
  """C1: g = P grad Phi_h against central differences, P >= hard / soft, equal at theta = 0."""
  rng = np.random.default_rng(1)
  count, d = COUNT, D
  problems = gates_problems.quadratics(rng, kind, count, d)
  hard, soft = temperatures(rng, count)
  hard = np.maximum(hard, 0.02 * soft)
  theta = rng.normal(size=(count, d)) * hard[:, None]
  theta[:, 0] = 0
  g = batched_direction(theta, problems, hard, soft)
  steep = jax.jit(jax.vmap(jax.vmap(jax.grad(gates.one_temperature), (0, None, None))))
  flat_slope, hard_slope = steep(theta, soft, soft), steep(theta, hard, hard)
  P = flat_slope / hard_slope
  ratio = hard / soft
  assert np.min(P / ratio[:, None]) >= 1 - 1e-12
  np.testing.assert_allclose(P[:, 0], ratio, rtol=1e-12)
  numeric = np.empty_like(theta)
  for i in range(d):
    shift = np.zeros((count, d))
    shift[:, i] = 1e-4 * hard
    high, low = (
      batched_phi(batched_gates(theta + s, hard, soft), problems) for s in (shift, -shift)
    )
    numeric[:, i] = (high - low) / (2 * shift[:, i])
  error = np.linalg.norm(g - P * numeric, axis=1) / np.linalg.norm(g, axis=1)
  assert error.max() < 1e-6
  inner, squared = (g * numeric).sum(1), (numeric**2).sum(1)
  assert np.all(inner >= ratio * squared * (1 - 1e-6))


@pytest.mark.parametrize('kind', KINDS)
def test_t2_monotone_descent(kind):
  """C2: the sufficient decrease of one step at the largest guaranteed rate, and below."""
  rng = np.random.default_rng(2)
  count, d = 600, 6
  problems = gates_problems.quadratics(rng, kind, count, d)
  hard, soft = temperatures(rng, count)
  theta = logits(rng, hard, soft, d)
  largest = jax.vmap(gates.max_stable_learning_rate)(
    hard, soft, gates_problems.lipschitz(problems[0])
  )
  rate = largest * np.where(rng.random(count) < 0.5, 1, rng.random(count))
  a = batched_gates(theta, hard, soft)
  moved = theta - rate[:, None] * batched_direction(theta, problems, hard, soft)
  delta = batched_gates(moved, hard, soft) - a
  promised = 0.5 * (np.abs(batched_gradient(a, problems)) * np.abs(delta)).sum(1)
  decrease = batched_phi(a, problems) - batched_phi(a + delta, problems)
  assert np.all(decrease >= promised - 1e-12)
  assert promised.max() > 0.01


def test_t2_threshold_is_sharp_up_to_two():
  """C2: in one dimension at theta near 0 descent holds at 1.9 and fails at 2.1 times the rate."""
  L, hard, soft = 3.0, 0.2, 1.0
  problem = (jnp.array([[L]]), jnp.array([-L / 2]))
  theta = jnp.array([1e-3 * hard])
  value = jax.jit(lambda t: gates_problems.phi(gates.two_temperature(t, hard, soft), problem))
  after = lambda c: value(
    theta
    - c
    * gates.max_stable_learning_rate(hard, soft, L)
    * gates_problems.direction(theta, problem, hard, soft)
  )
  assert after(1.9) < value(theta) < after(2.1)


@pytest.mark.parametrize('c', [1.0, 0.4])
@pytest.mark.parametrize('kind', KINDS)
def test_t2_rate(kind, c):
  """C2b: smallest weighted gradient against the bound, for every horizon.

  The lowest value of the path stands in for the minimum over the cube: a stronger statement,
  which the proof gives as well.
  """
  rng = np.random.default_rng(3)
  count, d, steps = COUNT, D, 200
  problems = gates_problems.quadratics(rng, kind, count, d)
  L, G = gates_problems.lipschitz(problems[0]), gates_problems.gradient_bound(*problems)
  hard, soft = temperatures(rng, count)
  rate = 16 * c * hard * soft / L
  theta = run(logits(rng, hard, soft, d) / 2, problems, hard, soft, rate, steps)
  a, values = along(theta, problems, hard, soft)
  gate = jax.jit(jax.vmap(lambda t, s: gates.one_temperature(t, s, s)))
  slope = lambda s: gate(theta, s) * gate(-theta, s)
  weights = 16 * slope(hard) * slope(soft)
  gradient = np.einsum('bij,btj->bti', problems[0], a) + problems[1][:, None]
  smallest = np.minimum.accumulate((weights * gradient**2).sum(2)[:, :-1], axis=1)
  drop = values[:, 0] - np.min(values, axis=1)
  bound = (2 * L * np.exp(4 * c * G / L) / c * np.asarray(drop))[:, None] / np.arange(1, steps + 1)
  assert np.all(smallest <= bound * (1 + 1e-9) + 1e-15)


def test_t3_constants():
  """C3: kappa0 and the largest distance of the two sigmoids at four ratios."""
  u = np.linspace(-30, 30, 600_001)
  flat = gates.one_temperature(u, 1.0, 1.0)
  slope = flat * gates.one_temperature(-u, 1.0, 1.0)
  np.testing.assert_allclose(np.max(u * slope), KAPPA0, atol=1e-6)
  for ratio, expected in ((0.9, 0.0236), (0.5, 0.1501), (0.1, 0.3844), (0.01, 0.4825)):
    distance = np.abs(gates.two_temperature(u, ratio, 1.0) - flat).max()
    np.testing.assert_allclose(distance, expected, atol=6e-5)
    assert distance <= min(0.5, KAPPA0 * np.log(1 / ratio) + 1e-7)


@pytest.mark.parametrize('kind', KINDS)
def test_t3_bias_against_the_soft_gradient(kind):
  """C3: both bounds of the bias, and the bound of the mean squared soft gradient."""
  rng = np.random.default_rng(4)
  count, d, steps = COUNT, D, 200
  problems = gates_problems.quadratics(rng, kind, count, d)
  L, G = gates_problems.lipschitz(problems[0]), gates_problems.gradient_bound(*problems)
  hard, soft = temperatures(rng, count)
  smoothness = (L / 16 + G / (6 * np.sqrt(3))) / soft**2
  theta = run(logits(rng, hard, soft, d), problems, hard, soft, 1 / smoothness, steps)

  def both(t, problem, h, s):
    soft_phi = lambda x: gates_problems.phi(gates.one_temperature(x, s, s), problem)
    value, gradient = jax.value_and_grad(soft_phi)(t)
    bias = gates_problems.direction(t, problem, h, s) - gradient
    gap = gates.two_temperature(t, h, s) - gates.one_temperature(t, s, s)
    return value, jnp.sum(gradient**2), jnp.linalg.norm(bias), jnp.linalg.norm(gap)

  everywhere = jax.jit(jax.vmap(jax.vmap(both, (0, None, None, None))))
  values, squared, bias, gap = everywhere(theta, problems, hard, soft)
  beta = L * np.sqrt(d) / (4 * soft) * np.minimum(0.5, KAPPA0 * np.log(soft / hard))
  first = (L / (4 * soft))[:, None] * gap
  assert np.all(bias <= first * (1 + 1e-9) + 1e-14)
  assert np.all(first <= beta[:, None] * (1 + 1e-5) + 1e-14)
  mean = squared[:, :-1].mean(1)
  drop = values[:, 0] - values.min(1)
  assert np.all(mean <= 2 * drop * smoothness / steps + beta**2 + 1e-14)


def test_t3_prime_stochastic_gradients():
  """Mean of S_t over steps and 64 noise sequences, against the bound with the second moment V."""
  rng = np.random.default_rng(5)
  d, steps, draws, hard, soft, noise = 4, 150, 64, 0.3, 1.0, 0.5
  problem = tuple(x[0] for x in gates_problems.quadratics(rng, 'indefinite', 1, d))
  L, G = gates_problems.lipschitz(problem[0]), gates_problems.gradient_bound(*problem)
  V = d * (G**2 + noise**2)
  smoothness = (L / 16 + G / (6 * np.sqrt(3))) / hard**2
  rate = 0.3 / (smoothness * np.sqrt(steps))

  def path(kicks):
    def step(theta, kick):
      a = gates.two_temperature(theta, hard, soft)
      gradient = jax.grad(gates_problems.phi)(a, problem)
      slope = lambda s: jax.grad(lambda t: gates.one_temperature(t, s, s).sum())(theta)
      S = jnp.sum(slope(hard) * slope(soft) * gradient**2)
      noisy = (problem[0], problem[1] + kick)
      return theta - rate * gates_problems.direction(theta, noisy, hard, soft), S

    return jax.lax.scan(step, jnp.zeros(d), kicks)[1]

  kicks = noise * rng.choice([-1.0, 1.0], (draws, steps, d))
  mean = jax.jit(jax.vmap(path))(kicks).mean()
  lowest = gates_problems.corner_values(problem[0][None], problem[1][None]).min()
  start = gates_problems.phi(np.full(d, 0.5), problem)
  # Corners bound the minimum over the cube from above: a stronger test.
  assert mean <= (start - lowest) / (rate * steps) + rate * smoothness * V / (32 * soft**2)
  assert mean > 0


@pytest.mark.parametrize('soft', [0.5, 1.0, 2.0])
def test_t4_mirror_map_is_the_integral_of_the_inverse_slope(soft):
  """C4: against adaptive quadrature of 1 / s_soft'."""
  slope = jax.jit(jax.grad(lambda t: gates.two_temperature(t, 0.1 * soft, soft)))
  for theta in (0.3, 1.0, 4.0, -2.5):
    quadrature, _ = integrate.quad(lambda t: 1 / float(slope(t)), 0, theta, epsabs=0, epsrel=1e-13)
    np.testing.assert_allclose(gates.mirror_map(jnp.float64(theta), soft), quadrature, rtol=1e-12)


@pytest.mark.parametrize('mirror', [True, False], ids=['M', 'A'])
def test_t4_global_rate_for_convex_objectives(mirror):
  """C4: the bound at every horizon. Proved for M; for A an observation, never seen to fail."""
  rng = np.random.default_rng(6)
  count, d, steps = COUNT, D, 200
  problems, _, minimum = gates_problems.with_known_minimum(rng, count, d)
  hard, soft = temperatures(rng, count)
  hard = np.minimum(hard, 0.95 * soft)
  L = gates_problems.lipschitz(problems[0])
  rate = 16 * hard * soft / L * np.where(np.arange(count) % 2, 1.0, 0.2)
  theta = run(np.zeros((count, d)), problems, hard, soft, rate, steps, mirror)
  _, values = along(theta, problems, hard, soft)
  geometry = 2 * d * hard * soft * (np.log(2) + 1 / (1 - (hard / soft) ** 2))
  bound = (geometry / rate)[:, None] / np.arange(1, steps + 1)
  gap = values[:, 1:] - minimum[:, None]
  assert np.all(gap >= -1e-10)
  assert np.all(gap <= bound)


def test_c8_two_temperatures_close_the_gap_where_one_does_not():
  """C8: convex objectives with a binary optimum, 500 steps at the largest guaranteed rate."""
  count, d, steps = COUNT, D, 500
  problems, _, minimum = gates_problems.with_known_minimum(
    np.random.default_rng(7), count, d, vertex=True
  )
  L = gates_problems.lipschitz(problems[0])

  def gap(hard, soft):
    hard, soft = np.full(count, hard), np.full(count, soft)
    rate = 16 * hard * soft / L
    theta = run(np.zeros((count, d)), problems, hard, soft, rate, steps)
    last = batched_gates(theta[:, -1], hard, soft)
    return float((batched_phi(last, problems) - minimum).mean())

  one, other_scale, two = gap(1.0, 1.0), gap(0.1, 0.1), gap(0.1, 1.0)
  np.testing.assert_allclose(one, other_scale, rtol=1e-8)
  assert one > 1e-4
  assert two < 1e-3 * one


def test_t5_i_binary_limits_of_convex_problems_are_optimal():
  """C7a: brute force over all corners, wherever the deterministic variant ended binary."""
  rng = np.random.default_rng(8)
  count, d = COUNT, D
  problems = gates_problems.least_squares(rng, count, d, penalty=1.0)
  hard, soft = np.full(count, 0.1), np.ones(count)
  rate = 16 * hard / gates_problems.lipschitz(problems[0])
  theta = run(rng.normal(size=(count, d)) * 0.01, problems, hard, soft, rate, 3000)[:, -1]
  a = batched_gates(theta, hard, soft)
  ended = np.all(np.minimum(a, 1 - a) < 1e-3, axis=1)
  assert ended.sum() >= 5
  values = gates_problems.corner_values(*problems)
  reached = values[np.arange(count), gates_problems.corner_index(np.asarray(gates.binary(theta)))]
  np.testing.assert_allclose(reached[ended], values.min(1)[ended], atol=1e-12)
  # And a small temperature alone does not binarise: most limits are fractional.
  assert ended.sum() < count / 2


def test_t5_limits_are_kkt_points():
  rng = np.random.default_rng(9)
  count, d = COUNT, D
  problems, best, _ = gates_problems.with_known_minimum(rng, count, d, strict=0.3)
  hard, soft = np.full(count, 0.2), np.ones(count)
  rate = 16 * hard / gates_problems.lipschitz(problems[0])
  theta = run(np.zeros((count, d)), problems, hard, soft, rate, 3000)[:, -1]
  a = batched_gates(theta, hard, soft)
  gradient = batched_gradient(a, problems)
  assert np.abs(np.where((best > 0) & (best < 1), gradient, 0)).max() < 0.02
  assert np.all(np.where(best == 1, gradient < 0, True))
  assert np.all(np.where(best == 0, gradient > 0, True))


def test_t5_iii_certificate():
  """C7a: no violation at arbitrary points of the cube, and tight at binary optima."""
  rng = np.random.default_rng(10)
  count, d = COUNT, D
  problems = gates_problems.quadratics(rng, 'convex', count, d)
  G = gates_problems.gradient_bound(*problems)
  a = batched_gates(rng.normal(size=(count, d)), np.full(count, 0.3), np.ones(count))
  one = lambda x, q, g: gates.certificate(lambda y: gates_problems.phi(y, q), x, g)
  certify = jax.jit(jax.vmap(one))
  rounded, bound = certify(a, problems, G)
  lowest = gates_problems.corner_values(*problems).min(1)
  assert np.all(batched_phi(rounded, problems) - lowest <= bound + 1e-12)
  vertex, best, _ = gates_problems.with_known_minimum(rng, count, d, vertex=True)
  exact = certify(best, vertex, gates_problems.gradient_bound(*vertex))
  np.testing.assert_array_equal(exact.rounded, best)
  np.testing.assert_allclose(exact.bound, 0, atol=1e-12)


def test_t6_exact_recovery_under_a_strong_signal():
  """C7c: any temperatures, any rate, any start; |h_i| > sum_j |Q_ij| decides every gate."""
  rng = np.random.default_rng(11)
  count, d = COUNT, D
  Q, _ = gates_problems.quadratics(rng, 'indefinite', count, d)
  signs = rng.choice([-1.0, 1.0], (count, d))
  h = signs * (np.abs(Q).sum(2) + rng.uniform(0.5, 1, (count, d)))
  hard, soft = temperatures(rng, count)
  theta = rng.uniform(-2, 2, (count, d)) * soft[:, None]
  rate = soft**2 * 10 ** rng.uniform(-1, 1.5, count)
  last = run(theta, (Q, h), hard, soft, rate, 500)[:, -1]
  np.testing.assert_array_equal(gates.binary(last), signs < 0)


@pytest.mark.parametrize('ratio', [1, 2, 4])
def test_t6_exponent_of_binarisation(ratio):
  """C5: 1 - a falls like t^(-soft / hard), within 3%, and below the bound at every step."""
  hard, steps = 1 / ratio, 10_000
  problem = (jnp.zeros((1, 1)), -jnp.ones(1))
  path = jax.jit(
    lambda: gates_problems.descend(jnp.zeros(1), problem, hard, 1.0, 1.0, steps)[:, 0]
  )()
  # The gate of -theta is 1 - a without cancellation.
  rest = gates.two_temperature(-path, hard, 1.0)
  slope = np.log(rest[steps] / rest[steps // 10]) / np.log(10)
  np.testing.assert_allclose(slope, -ratio, rtol=0.03)
  assert np.all(rest <= (1 + np.arange(steps + 1) / 4) ** -float(ratio))
