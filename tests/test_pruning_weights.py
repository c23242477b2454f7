"""Weight sources W0 to W5 and their losses: what each can and cannot learn."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pruning_toys as toys
import pytest

from dapt_jax import graph as graph_lib
from dapt_jax import pruning
from dapt_jax.pruning import losses, weights


def _ridge_problem(dtype):
  rng = np.random.default_rng(0)
  params = {'w': jnp.asarray(rng.normal(size=(5, 12)), dtype)}
  batch = {
    'image': jnp.asarray(rng.normal(size=(20, 5)), dtype),
    'label': jnp.asarray(rng.integers(0, 3, 20)),
  }
  features = lambda params, x: jnp.tanh(x @ params['w'])
  gates = jnp.asarray(rng.uniform(0.1, 0.9, 5), dtype)
  gated = lambda a: {'w': params['w'] * a[:, None]}
  return features, gated, gates, batch


def test_envelope_gradient_is_exact():
  """C11: with the readout held fixed the derivative is that of the refitted readout."""
  with jax.enable_x64(True):
    features, gated, gates, batch = _ridge_problem(jnp.float64)
    loss_fn = losses.ridge(features, 3, penalty=0.05)
    loss = jax.jit(lambda a: loss_fn(gated(a), batch))
    found = jax.jit(jax.grad(loss))(gates)

    def through_the_solve(a):
      hidden = features(gated(a), batch['image'])
      targets = jax.nn.one_hot(batch['label'], 3, dtype=hidden.dtype)
      readout = losses.ridge_readout(hidden, targets, 0.05)
      return jnp.mean(jnp.sum((hidden @ readout - targets) ** 2, -1)) + 0.05 * jnp.sum(readout**2)

    step = 1e-5
    numeric = [
      (loss(gates.at[i].add(step)) - loss(gates.at[i].add(-step))) / (2 * step) for i in range(5)
    ]
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, numeric, rtol=0, atol=1e-8)
    np.testing.assert_allclose(
      found, jax.jit(jax.grad(through_the_solve))(gates), rtol=0, atol=1e-12
    )
    assert np.abs(found).max() > 1e-3


def test_ridge_readout_minimises():
  features, gated, gates, batch = _ridge_problem(jnp.float32)
  hidden = features(gated(gates), batch['image'])
  targets = jax.nn.one_hot(batch['label'], 3)
  cost = lambda v: jnp.mean(jnp.sum((hidden @ v - targets) ** 2, -1)) + 0.1 * jnp.sum(v**2)
  best = jax.jit(losses.ridge_readout)(hidden, targets, 0.1)
  assert best.shape == (12, 3)
  value, slope = jax.jit(jax.value_and_grad(cost))(best)
  assert np.abs(slope).max() < 1e-5
  assert value < jax.jit(cost)(best * 1.02)


@pytest.mark.parametrize('penalty', [0.0, -1.0, float('nan')])
def test_ridge_needs_a_positive_penalty(penalty):
  with pytest.raises(ValueError, match='only for a positive one'):
    losses.ridge(lambda params, x: x, 3, penalty)


def test_cross_entropy_uses_the_batch_and_natural_logarithms():
  loss = losses.cross_entropy(lambda params, x: (jnp.zeros((len(x), 7)), {}))
  batch = {'image': jnp.zeros((4, 2)), 'label': jnp.zeros(4, jnp.int32)}
  assert float(loss({}, batch)) == pytest.approx(np.log(7))


def _inputs_toy():
  return toys.mlp(inputs=8, hidden=16, levels=('input',))


def _learn_inputs(source_name, label=None, steps=120, **settings):
  """Gates of 8 inputs, of which the first 3 matter; returns the logits."""
  graph, init, apply = _inputs_toy()
  source = weights.make(source_name, init, lifetime=30, inner_steps=2)
  inner = source.inner_steps
  made = toys.search(
    graph,
    toys.cross_entropy(apply),
    source,
    gate=optax.adam(0.1),
    weight=optax.adam(0.02),
    population=2,
    relaxation='gumbel_trapezoid',
    multiplier=0.15,
    warmup=15 if source_name == 'fresh' else 0,
    **settings,
  )
  batches = lambda step: toys.batch(step, inner=inner, label=label, inputs=8, size=48)
  state, metrics = toys.run_compiled(made, batches, steps)
  [theta] = state.shared.theta.values()
  return np.asarray(theta), metrics


@pytest.mark.parametrize('label', [None, 1])
def test_w5_prunes_everything_whatever_the_labels(label):
  """Proposition D: zero-mean weights anew at every step, readout included, say nothing."""
  theta, _ = _learn_inputs('every_step', label=label)
  assert (theta < 0).all()


def test_w1_on_the_same_toy_keeps_what_matters():
  theta, metrics = _learn_inputs('fresh', steps=300)
  assert (theta[:3] > 0).all()
  assert (theta[3:] < 0).all()
  assert metrics['loss'][-1] < np.log(toys.CLASSES)


def test_w2_toy_keeps_no_irrelevant_input():
  """E1, shortened: 30 inputs of which 6 matter, input gates, closed-form readout, r = 0.1."""
  inputs, relevant, features = 30, 6, 48

  def init(key):
    return {'w': jax.random.normal(key, (inputs, features)) / np.sqrt(relevant)}

  apply = lambda params, x: jax.nn.relu(x @ params['w'])
  shape = jax.ShapeDtypeStruct((1, inputs), jnp.float32)
  graph = graph_lib.trace(apply, jax.eval_shape(init, jax.random.key(0)), shape, levels=('input',))
  made = toys.search(
    graph,
    losses.ridge(apply, toys.CLASSES),
    weights.random_features(init),
    gate=optax.sgd(4.0),
    population=2,
    relaxation='two_temperature',
    multiplier=0.3,
    start=lambda key: graph.init_gates(key, std=0.01),
  )
  batches = lambda step: toys.batch(step, inner=0, inputs=inputs, relevant=relevant, size=128)
  state, metrics = toys.run_compiled(made, batches, 300)
  [theta] = state.shared.theta.values()
  assert (theta[relevant:] < 0).all()
  assert (theta[:relevant] > 0).sum() >= 3
  assert metrics['cost'][-1] < 0.3


def test_w3_learns_links_of_a_network_of_ones():
  """Class c is decided by two of six positive inputs; weights are 1, so only links can say so."""

  def apply(params, x):
    return x @ params['w']

  def examples(seed):
    x = np.abs(np.random.default_rng(seed).normal(size=(64, 6))).astype(np.float32)
    return {'image': x, 'label': x.reshape(-1, 3, 2).sum(-1).argmax(1).astype(np.int32)}

  init = lambda key: {'w': jax.random.normal(key, (6, 3))}
  graph = graph_lib.trace(
    apply,
    {'w': jax.ShapeDtypeStruct((6, 3), jnp.float32)},
    jax.ShapeDtypeStruct((1, 6), jnp.float32),
    levels=('link',),
  )
  made = toys.search(
    graph,
    toys.cross_entropy(apply),
    weights.ones(init),
    gate=optax.sgd(2.0),
    population=1,
    relaxation='two_temperature',
  )
  state, metrics = toys.run_compiled(made, lambda s: {'gates': examples(s)}, 300)
  assert (made.params(state)['w'] == 1).all()
  [theta] = state.shared.theta.values()
  wanted = np.kron(np.eye(3), np.ones((2, 1)))
  assert ((np.asarray(theta).reshape(6, 3) > 0) == wanted).all()
  assert metrics['loss'][-1] < 0.8 * metrics['loss'][0]


def test_w0_frozen_stays_and_trained_along_moves():
  graph, init, apply = toys.mlp()
  params = init(jax.random.key(5))
  for inner in (0, 2):
    made = toys.search(graph, toys.cross_entropy(apply), weights.given(params, inner))
    state, _ = toys.run(made, lambda s, inner=inner: toys.batch(s, inner=inner), 5)
    moved = [
      float(np.abs(new[0] - old).max())
      for new, old in zip(jax.tree.leaves(made.params(state)), jax.tree.leaves(params))
    ]
    assert max(moved) == 0 if inner == 0 else min(moved) > 1e-3
    # Both members start from the given network and see the same batches, but draw other gates.
    chex.assert_tree_shape_prefix(made.params(state), (2,))


def test_w4_draws_once_and_never_trains():
  graph, init, apply = toys.mlp()
  made = toys.search(graph, toys.cross_entropy(apply), weights.fixed(init))
  seen = []
  toys.run(made, toys.batch, 4, every=lambda step, state, _: seen.append(made.params(state)))
  chex.assert_trees_all_equal(seen[0], seen[3])
  assert (seen[0]['w0'][0] != seen[0]['w0'][1]).any()


@pytest.mark.parametrize(
  'name, lifetime, inner',
  [
    ('fresh', 7, 2),
    ('random_features', 7, 0),
    ('ones', 0, 0),
    ('fixed', 0, 0),
    ('every_step', 1, 0),
    ('given', 0, 2),
  ],
)
def test_make_knows_every_name(name, lifetime, inner):
  _, init, _ = toys.mlp()
  source = weights.make(name, init, lifetime=7, inner_steps=2, params=init(jax.random.key(0)))
  assert (source.name, source.lifetime, source.inner_steps) == (name, lifetime, inner)
  assert name in weights.NAMES and len(weights.NAMES) == 6
  drawn = [source.init(jax.random.key(k))['w0'] for k in (0, 1)]
  assert (drawn[0] == drawn[1]).all() == (name in ('ones', 'given'))


@pytest.mark.parametrize(
  'make, words',
  [
    (lambda init: weights.make('W1', init), "weights is 'W1'; allowed are"),
    (lambda init: weights.make('given', init), 'needs the params of a trained network'),
    (lambda init: weights.fresh(init, lifetime=0), 'lifetime is 0; it must be at least 1'),
    (lambda init: weights.fresh(init, inner_steps=0), 'inner_steps is 0; it must be at least 1'),
    (lambda init: weights.random_features(init, 0), 'lifetime is 0'),
    (lambda init: weights.given({}, -1), 'inner_steps is -1; it must be at least 0'),
  ],
)
def test_sources_refuse(make, words):
  with pytest.raises(ValueError, match=words):
    make(lambda key: {})


def test_settings_hold_the_documented_defaults():
  assert pruning.Settings().relaxation == 'gumbel_trapezoid'
  assert pruning.SearchState(None, 0) == pruning.STATE_AXES
