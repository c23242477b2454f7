"""Complexity control: multiplier, penalty path, exact budget; schedules and the concave term."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax import gates
from dapt_jax.gates import schedules

GAIN = {'a': jnp.array([0.9, 0.1, 0.4]), 'b': jnp.array([0.3, 0.05])}
COST = {'a': jnp.array([0.3, 0.1, 0.3]), 'b': jnp.array([0.1, 0.2])}


def solve(theta, multiplier, steps=300, rate=2.0):
  """Descent on the separable objective -gain.a + lambda cost.a, with its loss and complexity."""

  def loss(t):
    a = gates.two_temperature(t, 0.1, 1.0)
    return multiplier * gates.complexity(a, COST) - gates.complexity(a, GAIN)

  step = lambda t, _: (jax.tree.map(lambda x, g: x - rate * g, t, jax.grad(loss)(t)), None)
  theta = jax.lax.scan(step, theta, None, length=steps)[0]
  a = gates.two_temperature(theta, 0.1, 1.0)
  return theta, -gates.complexity(a, GAIN), gates.complexity(a, COST)


ZERO = jax.tree.map(jnp.zeros_like, GAIN)


@pytest.mark.parametrize('multiplier', [0.0, 0.5, 1.2, 2.0, 4.0])
def test_separable_gate_is_kept_iff_its_gain_exceeds_its_price(multiplier):
  theta, _, _ = jax.jit(solve)(ZERO, multiplier)
  expected = jax.tree.map(lambda g, c: np.asarray(g > multiplier * c), GAIN, COST)
  chex.assert_trees_all_equal(gates.threshold(theta), expected)


def test_penalty_path_is_warm_started_and_monotone():
  starts = []

  @jax.jit
  @chex.assert_max_traces(n=1)
  def solver(theta, multiplier):
    return solve(theta, multiplier)

  def recorded(theta, multiplier):
    starts.append(theta)
    return solver(theta, multiplier)

  grid = gates.log_grid(0.1, 8.0, 7)
  np.testing.assert_allclose(grid[1:] / grid[:-1], 80 ** (1 / 6), rtol=1e-5)
  path = gates.penalty_path(recorded, grid, ZERO)
  assert path.losses.shape == path.complexities.shape == (7,)
  assert path.thetas['a'].shape == (7, 3)
  assert np.all(np.diff(path.complexities) <= 1e-3)
  assert np.all(np.diff(path.losses) >= -1e-3)
  for i in range(1, 7):
    chex.assert_trees_all_equal(starts[i], jax.tree.map(lambda x, i=i: x[i - 1], path.thetas))


def test_dual_ascent_rule():
  control = gates.dual_ascent(rho=2.0, target=0.25)
  multiplier = control.init()
  multiplier = jax.jit(control.update)(multiplier, jnp.float32(0.5))
  np.testing.assert_allclose(multiplier, 0.5)
  np.testing.assert_allclose(control.update(multiplier, jnp.float32(0.125)), 0.25)
  assert control.update(multiplier, jnp.float32(-1.0)) == 0


def test_dual_ascent_reaches_a_complexity_inside_a_strictly_convex_problem():
  control = gates.dual_ascent(rho=1.0, target=0.3)
  gain, cost = jnp.linspace(0.2, 0.8, 8), jnp.full(8, 1 / 8)

  def step(carry, _):
    theta, multiplier = carry

    def loss(t):
      a = gates.two_temperature(t, 0.2, 1.0)
      return jnp.sum(0.5 * (a - gain) ** 2) + multiplier * gates.complexity(a, cost)

    theta = theta - 2.0 * jax.grad(loss)(theta)
    reached = gates.complexity(gates.two_temperature(theta, 0.2, 1.0), cost)
    return (theta, control.update(multiplier, reached)), reached

  (_, multiplier), reached = jax.lax.scan(step, (jnp.zeros(8), control.init()), None, length=2000)
  assert multiplier > 0
  np.testing.assert_allclose(reached[-1], 0.3, atol=1e-3)


def test_decide_budget_opens_in_order_then_fills():
  theta = {'a': jnp.array([3.0, 1.0]), 'b': jnp.array([2.0, -1.0])}
  costs = {'a': jnp.array([0.3, 0.1]), 'b': jnp.array([0.5, 0.1])}
  decision = gates.decide_budget(theta, costs, 0.5)
  # 3.0 opens, 2.0 does not fit, 1.0 and then -1.0 fill what is left: 0.3 + 0.1 + 0.1.
  np.testing.assert_array_equal(decision.mask['a'], [True, True])
  np.testing.assert_array_equal(decision.mask['b'], [False, True])
  np.testing.assert_allclose([decision.cost, decision.gap], [0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize('seed', range(8))
def test_decide_budget_against_a_plain_loop(seed):
  rng = np.random.default_rng(seed)
  theta = {'x': rng.normal(size=(4, 5)).round(1), 'y': rng.normal(size=7)}
  costs = {'x': rng.uniform(0, 1, (4, 5)), 'y': rng.uniform(0, 1, 7)}
  budget = rng.uniform(0.5, 12)
  scores = np.concatenate([theta['x'].ravel(), theta['y']])
  prices = np.concatenate([costs['x'].ravel(), costs['y']])
  opened, spent = np.zeros(27, bool), 0.0
  for i in np.lexsort((np.arange(27), -scores)):
    if spent + prices[i] <= budget:
      opened[i], spent = True, spent + prices[i]
  decision = gates.decide_budget(theta, costs, budget)
  np.testing.assert_array_equal(decision.mask['x'], opened[:20].reshape(4, 5))
  np.testing.assert_array_equal(decision.mask['y'], opened[20:])
  np.testing.assert_allclose([decision.cost, decision.gap], [spent, budget - spent])


def test_decide_budget_at_its_ends():
  tiny = gates.decide_budget(GAIN, COST, 1e-3)
  assert not any(m.any() for m in tiny.mask.values())
  assert tiny.cost == 0
  np.testing.assert_allclose(tiny.gap, 1e-3)
  whole = gates.decide_budget(GAIN, COST, 1.0)
  assert all(m.all() for m in whole.mask.values())
  # A float32 tenth of ten gates: rounding must not close the last one of an exact budget.
  tenths = gates.decide_budget(jnp.arange(10.0), jnp.full(10, 0.1), 0.3)
  assert tenths.mask.sum() == 3


def test_bad_budgets_are_named():
  with pytest.raises(ValueError, match=r'budget is -0\.1; it must be positive'):
    gates.decide_budget(GAIN, COST, -0.1)
  with pytest.raises(ValueError, match='they must agree'):
    gates.decide_budget(GAIN, {'a': COST['a']}, 0.5)
  with pytest.raises(ValueError, match='one cost to each gate'):
    gates.decide_budget({'a': jnp.zeros(2)}, {'a': jnp.ones(3)}, 0.5)
  with pytest.raises(ValueError, match='the search has diverged'):
    gates.decide_budget({'a': jnp.array([jnp.nan])}, {'a': jnp.ones(1)}, 0.5)
  with pytest.raises(ValueError, match='costs have values'):
    gates.decide_budget({'a': jnp.zeros(1)}, {'a': -jnp.ones(1)}, 0.5)
  with pytest.raises(ValueError, match='rho is 0'):
    gates.dual_ascent(0.0, 0.5)
  with pytest.raises(ValueError, match=r'target is -0\.5'):
    gates.dual_ascent(1.0, -0.5)
  with pytest.raises(ValueError, match='multiplier is -1'):
    gates.dual_ascent(1.0, 0.5).init(-1.0)
  with pytest.raises(ValueError, match='log grid from 0'):
    gates.log_grid(0.0, 1.0, 5)
  with pytest.raises(ValueError, match='multipliers are'):
    gates.penalty_path(solve, [], ZERO)


@pytest.mark.parametrize('name', ['linear', 'exponential', 'cosine'])
@pytest.mark.parametrize('start,end', [(1.0, 0.1), (0.1, 1.0), (0.3, 0.3)])
def test_schedules_at_their_boundaries(name, start, end):
  schedule = getattr(schedules, name)(start, end, 10)
  values = np.array([schedule(i) for i in range(15)])
  np.testing.assert_allclose(values[0], start, rtol=1e-6)
  np.testing.assert_allclose(values[10:], end, rtol=1e-6)
  assert np.all(np.diff(values) * np.sign(end - start) >= 0)
  assert np.all((values > 0) & (values <= np.float32(1.0)))
  middle = {
    'linear': (start + end) / 2,
    'exponential': np.sqrt(start * end),
    'cosine': (start + end) / 2,
  }
  np.testing.assert_allclose(values[5], middle[name], rtol=1e-5)


def test_constant_schedule():
  assert float(schedules.constant(0.25)(7)) == 0.25


def test_annealing_does_not_retrace():
  schedule = schedules.exponential(1.0, 0.05, 20)

  @jax.jit
  @chex.assert_max_traces(n=1)
  def step(theta, i):
    return theta - jax.grad(lambda t: gates.two_temperature(t, schedule(i), 1.0).sum())(theta)

  @jax.jit
  @chex.assert_max_traces(n=1)
  def outside(theta, hard):
    return gates.two_temperature(theta, hard, 1.0)

  theta = jnp.zeros(3)
  for i in range(4):
    theta = step(theta, i)
    outside(theta, schedule(i))


def test_bad_schedules_are_named():
  with pytest.raises(ValueError, match=r'hard temperature 2\.0 exceeds soft temperature 1\.0'):
    schedules.linear(2.0, 0.1, 10)
  with pytest.raises(ValueError, match=r'hard temperature is 0\.0'):
    schedules.exponential(1.0, 0.0, 10)
  with pytest.raises(ValueError, match='steps is 0'):
    schedules.cosine(1.0, 0.1, 0)
  with pytest.raises(ValueError, match=r'hard temperature is -1\.0'):
    schedules.constant(-1.0)


def test_concave_term_vanishes_exactly_at_decisions():
  a = {'x': jnp.array([0.0, 0.5, 1.0]), 'y': jnp.array([0.25])}
  terms = gates.concave_per_gate(a, 2.0)
  np.testing.assert_allclose(terms['x'], [0, 0.5, 0])
  np.testing.assert_allclose(gates.concave(a, 2.0), 0.5 + 2 * 0.25 * 0.75)
  weights = {'x': jnp.array([1.0, 2.0, 3.0]), 'y': jnp.array([4.0])}
  np.testing.assert_allclose(gates.concave(a, weights), 2 * 0.25 + 4 * 0.25 * 0.75)
  np.testing.assert_allclose(jax.grad(gates.concave)(a, 2.0)['x'], [2, 0, -2])


def test_bad_penalties_are_named():
  a = {'x': jnp.ones(2)}
  with pytest.raises(ValueError, match=r'mu has the smallest value -1\.0'):
    gates.concave(a, -1.0)
  with pytest.raises(ValueError, match='they must agree'):
    gates.concave(a, {'z': 1.0})
  with pytest.raises(ValueError, match='gradient_bound is -1'):
    gates.certificate(lambda t: t['x'].sum(), a, -1.0)
