"""Propositions D and S: what gates can learn when weights are drawn afresh."""

import itertools

import gates_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax import gates

CLASSES = 4


@pytest.fixture(autouse=True)
def _float64():
  with gates_problems.float64():
    yield


@jax.jit
def network(a, W, x):
  """Two hidden layers of gated ReLU units, no bias."""
  hidden = a['first'][None] * jax.nn.relu(x @ W['first'])
  return (a['second'][None] * jax.nn.relu(hidden @ W['second'])) @ W['readout']


def cross_entropy(logits, labels):
  return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))


def integer_problem(rng, widths=(5, 6)):
  """Weights and inputs of small integers: sums are exact, so equality can be exact."""
  first, second = widths
  shapes = {'first': (3, first), 'second': (first, second), 'readout': (second, CLASSES)}
  W = {k: jnp.asarray(rng.integers(-3, 4, s), jnp.float64) for k, s in shapes.items()}
  return W, jnp.asarray(rng.integers(-3, 4, (8, 3)), jnp.float64)


def permute(W, a, first, second):
  moved = {
    'first': W['first'][:, first],
    'second': W['second'][first][:, second],
    'readout': W['readout'][second],
  }
  return moved, {'first': a['first'][first], 'second': a['second'][second]}


@pytest.mark.parametrize('seed', range(5))
def test_prop_s_relabelling_hidden_units_changes_nothing(seed):
  """f(pi a; pi W) = f(a; W), exactly; and not so when the gates move without the weights."""
  rng = np.random.default_rng(seed)
  W, x = integer_problem(rng)
  theta = {k: jnp.asarray(rng.normal(size=n)) for k, n in (('first', 5), ('second', 6))}
  a = gates.binary(theta)
  a['first'] = a['first'].at[0].set(1).at[1].set(0)
  moved, moved_a = permute(W, a, rng.permutation(5), np.roll(np.arange(6), 2))
  np.testing.assert_array_equal(network(a, W, x), network(moved_a, moved, x))
  shifted = {'first': a['first'][jnp.array([1, 0, 2, 3, 4])], 'second': jnp.ones(6)}
  assert not np.array_equal(network(shifted, W, x), network({**a, 'second': jnp.ones(6)}, W, x))


def test_prop_s_the_relaxation_is_equivariant():
  theta = jnp.asarray(np.random.default_rng(0).normal(size=16))
  order = np.random.default_rng(1).permutation(16)
  for name in ('two_temperature', 'one_temperature', 'straight_through'):
    function = lambda t, n=name: gates.get(n).sample(t, None, 0.1, 1.0)
    value, slope = jax.jvp(function, (theta,), (jnp.ones(16),))
    moved, moved_slope = jax.jvp(function, (theta[order],), (jnp.ones(16),))
    np.testing.assert_allclose(moved, value[order], rtol=1e-14)
    np.testing.assert_allclose(moved_slope, slope[order], rtol=1e-14)


def test_prop_s_symmetric_gates_stay_equal_for_ever():
  """The average over all relabellings is permutation invariant: descent never tells units apart."""
  rng = np.random.default_rng(2)
  W, x = integer_problem(rng, (3, 3))
  W = {k: v / 4 for k, v in W.items()}
  labels = jnp.asarray(rng.integers(0, CLASSES, 8))
  one = {'first': jnp.ones(3), 'second': jnp.ones(3)}
  orders = [np.array(o) for o in itertools.permutations(range(3))]
  drawn = [permute(W, one, p, q)[0] for p, q in itertools.product(orders, orders)]
  stacked = jax.tree.map(lambda *w: jnp.stack(w), *drawn)

  def average(theta, weights):
    a = gates.two_temperature(theta, 0.2, 1.0)
    return jax.vmap(lambda w: cross_entropy(network(a, w, x), labels))(weights).mean()

  @jax.jit
  def end(weights):
    step = lambda t, _: (
      jax.tree.map(lambda v, g: v - 2 * g, t, jax.grad(average)(t, weights)),
      None,
    )
    start = {'first': jnp.full(3, 0.05), 'second': jnp.full(3, 0.02)}
    return jax.lax.scan(step, start, None, length=60)[0]

  spread = lambda theta: max(float(np.ptp(v)) for v in theta.values())
  together = end(stacked)
  assert spread(together) < 1e-12
  assert abs(float(together['second'][0]) - 0.02) > 1e-3
  assert spread(end(jax.tree.map(lambda w: w[None], W))) > 1e-2


def random_features(seed, draws=400, width=24):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(32, 8))
  h = np.maximum(x @ rng.normal(size=(8, width)) / np.sqrt(8), 0)
  V = rng.normal(size=(draws, width, CLASSES)) / np.sqrt(width)
  return jnp.asarray(h), jnp.asarray(V), rng


@jax.jit
def mean_loss(a, h, V, labels):
  """Mean cross-entropy over readouts and their negatives: a sample of exactly zero mean."""
  loss = lambda v: cross_entropy((a[None] * h) @ v, labels)
  return 0.5 * (jax.vmap(loss)(V) + jax.vmap(loss)(-V)).mean()


def test_prop_d_pruning_everything_is_optimal_under_fresh_readouts():
  """C10: log K at the empty architecture, more with every density."""
  h, V, rng = random_features(0)
  labels = jnp.asarray(rng.integers(0, CLASSES, 32))
  losses = []
  for density in (0.0, 0.25, 0.5, 1.0):
    theta = jnp.where(np.arange(24) < density * 24, 1e4, -1e4)
    losses.append(float(mean_loss(gates.two_temperature(theta), h, V, labels)))
  np.testing.assert_allclose(losses[0], np.log(CLASSES), rtol=1e-12)
  assert np.all(np.diff(losses) > 0.005)
  # Jensen holds for every pair of readouts, not only in the mean, and for any gates.
  a = gates.two_temperature(jnp.asarray(rng.normal(size=24)))
  pairs = jax.jit(jax.vmap(lambda v: mean_loss(a, h, v[None], labels)))(V)
  assert np.all(pairs >= np.log(CLASSES))


def test_prop_d_every_gate_is_pushed_shut():
  h, V, rng = random_features(1)
  labels = jnp.asarray(rng.integers(0, CLASSES, 32))
  theta = jnp.asarray(rng.normal(size=24) * 0.1)
  loss = lambda t: mean_loss(gates.two_temperature(t, 0.5, 1.0), h, V, labels)
  slope = jax.jit(jax.grad(loss))(theta)
  assert np.all(slope >= 0)
  assert np.mean(slope > 1e-6) > 0.8


def test_prop_d_labels_do_not_matter():
  """C10: with rows of the readout exchanged over all cyclic shifts, any labels give one loss."""
  h, V, rng = random_features(2, draws=50)
  V = jnp.concatenate([jnp.roll(V, k, axis=2) for k in range(CLASSES)])
  a = gates.two_temperature(jnp.asarray(rng.normal(size=24)))
  losses = [float(mean_loss(a, h, V, jnp.asarray(rng.integers(0, CLASSES, 32)))) for _ in range(3)]
  np.testing.assert_allclose(losses, losses[0], rtol=1e-12)
