"""The search's mechanics: draws, ages, paths, prices, traces, devices, errors."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pruning_toys as toys
import pytest

from dapt_jax import gates as gates_lib
from dapt_jax import graph as graph_lib
from dapt_jax import pruning
from dapt_jax.gates import schedules
from dapt_jax.pruning import vectors

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def net():
  return toys.mlp()


def test_update_traces_once(net):
  graph, init, apply = net
  made = toys.search(
    graph,
    toys.cross_entropy(apply),
    pruning.weights.fresh(init, lifetime=3, inner_steps=2),
    gate=optax.adam(0.1),
    weight=optax.adam(0.01),
    hard=schedules.exponential(1.0, 0.05, 5),
    budget=0.5,
    damping=0.5,
    ramp=4,
    concave=0.1,
    warmup=1,
    hold=2,
  )
  chex.clear_trace_counter()
  update = jax.jit(chex.assert_max_traces(made.update, n=1))
  state = made.init(jax.random.key(0))
  seen = []
  for step in range(8):
    state, metrics = update(state, toys.batch(step, inner=2))
    seen.append({k: float(v) for k, v in metrics.items()})
  state = state._replace(shared=state.shared._replace(multiplier=jnp.float32(3.0)))
  state, metrics = update(state, toys.batch(9, inner=2))
  assert float(metrics['multiplier']) > 2.5
  assert [m['hard'] for m in seen[:6]] == pytest.approx(np.geomspace(1.0, 0.05, 6).tolist())
  assert [m['target'] for m in seen[:6]] == pytest.approx([*np.geomspace(1, 0.5, 5), 0.5])
  assert int(state.shared.step) == 9


@pytest.mark.parametrize('lifetime, size', [(1, 3), (2, 5), (5, 1), (6, 4), (150, 4)])
def test_ages_are_staggered(lifetime, size):
  steps = 3 * lifetime + 2
  age_of = jax.vmap(
    lambda step: jax.vmap(lambda m: pruning.age(m, step, lifetime, size))(jnp.arange(size))
  )
  ages, generations = (np.asarray(x) for x in age_of(jnp.arange(steps)))
  assert (ages[0] == 0).all() and (generations[0] == 0).all()
  for member in range(size):
    draws = np.flatnonzero(ages[:, member] == 0)
    # After the first, every draw is `lifetime` updates after the one before, and a new one.
    assert (np.diff(draws[1:]) == lifetime).all()
    assert 1 <= draws[1] <= lifetime
    assert generations[draws, member].tolist() == list(range(len(draws)))
    since = np.arange(steps) - draws[np.searchsorted(draws, np.arange(steps), side='right') - 1]
    assert (ages[:, member] == since).all()
  # From the second round on the population holds ages spread evenly over the lifetime.
  later = np.sort(ages[2 * lifetime])
  assert len(set(later)) == min(lifetime, size)
  assert np.diff(later).max(initial=0) <= -(-lifetime // size)


def test_no_lifetime_draws_once():
  ages = [pruning.age(jnp.int32(1), jnp.int32(s), 0, 4) for s in (0, 1, 500)]
  assert [(int(a), int(g)) for a, g in ages] == [(0, 0), (1, 0), (500, 0)]


def test_weights_are_redrawn_when_their_life_ends(net):
  graph, init, apply = net
  made = toys.search(
    graph, toys.cross_entropy(apply), pruning.weights.random_features(init, 4), population=2
  )
  weights = []
  toys.run(
    made,
    toys.batch,
    9,
    every=lambda step, state, _: weights.append(np.asarray(made.params(state)['w0'])),
  )
  changed = [(weights[s] != weights[s - 1]).any(axis=(1, 2)).tolist() for s in range(1, 9)]
  # Member 1 is half a lifetime ahead.
  assert changed == [
    [False, False],
    [False, True],
    [False, False],
    [True, False],
    [False, False],
    [False, True],
    [False, False],
    [True, False],
  ]
  assert (weights[0][0] != weights[0][1]).any()


def test_same_key_same_search_and_other_key_another(net):
  graph, init, apply = net
  made = toys.search(
    graph, toys.cross_entropy(apply), pruning.weights.fresh(init, 3), relaxation='gumbel_raw'
  )
  thetas = [toys.run(made, toys.batch, 4, key=k)[0].shared.theta for k in (0, 0, 1)]
  chex.assert_trees_all_equal(thetas[0], thetas[1])
  [name] = thetas[0]
  assert np.abs(thetas[0][name] - thetas[2][name]).max() > 1e-3


def test_hold_and_warmup_keep_gates_and_multiplier(net):
  graph, init, apply = net
  made = toys.search(
    graph,
    toys.cross_entropy(apply),
    pruning.weights.fresh(init, lifetime=5),
    gate=optax.adam(0.1),
    population=1,
    budget=0.3,
    hold=4,
    warmup=2,
  )
  states = [made.init(jax.random.key(0))]
  toys.run(made, toys.batch, 12, every=lambda step, state, _: states.append(state))
  theta = [np.concatenate(list(s.shared.theta.values())) for s in states]
  moved = [bool((a != b).any()) for a, b in itertools.pairwise(theta)]
  # Ages are 0 1 2 3 4 0 1 2 3 4 0 1.
  assert moved == [False] * 4 + [True] + [False] * 2 + [True] * 3 + [False] * 2
  prices = [float(s.shared.multiplier) for s in states]
  assert [a != b for a, b in itertools.pairwise(prices)] == moved
  counts = [int(s.shared.optimizer[0].count) for s in states]
  assert counts[-1] == sum(moved)


def test_weights_never_train_on_the_batch_of_the_gates(net):
  graph, init, apply = net
  made = toys.search(
    graph, toys.cross_entropy(apply), pruning.weights.fresh(init, 50, inner_steps=2)
  )
  state = made.init(jax.random.key(0))
  one = toys.batch(0, inner=2)
  other = {**one, 'gates': toys.examples(77)}
  update = jax.jit(made.update)
  (first, seen), (second, also) = (update(state, b) for b in (one, other))
  chex.assert_trees_all_equal(first.population, second.population)
  [name] = first.shared.theta
  assert (first.shared.theta[name] != second.shared.theta[name]).any()
  assert seen['loss'] != also['loss'] and seen['train_loss'] == also['train_loss']


def test_gradient_is_the_mean_over_the_population(net):
  """SGD on theta moves by minus the mean of the members' own gradients."""
  graph, init, apply = net
  loss = toys.cross_entropy(apply)
  made = toys.search(
    graph, loss, pruning.weights.fixed(init), population=3, relaxation='two_temperature'
  )
  state, _ = toys.run(made, toys.batch, 1)
  start = made.init(jax.random.key(0)).shared.theta
  data = toys.batch(0)['gates']

  def of_member(theta, number):
    gates = gates_lib.two_temperature(theta, 0.1, 1.0)
    params = jax.tree.map(lambda x: x[number], made.params(state))
    return loss(graph.apply_gates(params, gates), data)

  mean = lambda theta: sum(of_member(theta, i) for i in range(3)) / 3
  expected = jax.tree.map(lambda t, g: t - g, start, jax.jit(jax.grad(mean))(start))
  chex.assert_trees_all_close(state.shared.theta, expected, atol=1e-6)


def _branched(levels=('channel', 'branch'), open_sum=False):
  def apply(params, x):
    first = jax.nn.relu(x @ params['a']) @ params['b']
    second = jax.nn.relu(x @ params['c']) @ params['d']
    total = first + second + (x if open_sum else 0.0)
    return jnp.tanh(total) @ params['e']

  shape = lambda m, n: jax.ShapeDtypeStruct((m, n), jnp.float32)
  params = {
    'a': shape(4, 5),
    'b': shape(5, 4),
    'c': shape(4, 3),
    'd': shape(3, 4),
    'e': shape(4, 2),
  }
  return graph_lib.trace(apply, params, shape(1, 4), levels=levels)


def _kept(graph, gates, theta):
  join = lambda tree: vectors.join({n: np.asarray(g) for n, g in tree.items()})
  joined = jax.jit(lambda a, t: vectors.keep_paths(graph, a, t))(join(gates), join(theta))
  return vectors.split(np.asarray(joined), theta)


@pytest.mark.parametrize('open_sum', [False, True])
def test_keep_paths_opens_the_likeliest_gate(open_sum):
  graph = _branched(open_sum=open_sum)
  rng = np.random.default_rng(0)
  theta = {n: rng.normal(size=len(t)) for n, t in graph.init_gates().items()}
  closed = jax.tree.map(np.zeros_like, theta)
  kept = _kept(graph, closed, theta)
  branches = [n for n in theta if n.startswith('branch')]
  assert len(branches) == 2
  likely = max(branches, key=lambda n: float(theta[n][0]))
  for name in branches:
    wanted = 1.0 if name == likely and not open_sum else 0.0
    assert kept[name].tolist() == [wanted]
  for name in set(theta) - set(branches):
    assert kept[name].tolist() == np.eye(len(theta[name]))[theta[name].argmax()].tolist()
  # A draw with a path through is left alone.
  opened = jax.tree.map(np.ones_like, theta)
  chex.assert_trees_all_equal(_kept(graph, opened, theta), opened)
  half = {n: np.arange(len(g)) >= min(len(g) - 1, 1) for n, g in opened.items()}
  chex.assert_trees_all_equal(_kept(graph, half, theta), half)


def test_keep_paths_opens_layers_narrower_than_their_group():
  """The second half of a shared axis feeds a layer of its own."""

  def apply(params, x):
    h = jax.nn.relu(x @ params['a'])
    return jnp.tanh(h @ params['b']) + jnp.tanh(h[:, 3:] @ params['c'])

  shape = lambda m, n: jax.ShapeDtypeStruct((m, n), jnp.float32)
  params = {'a': shape(4, 6), 'b': shape(6, 2), 'c': shape(3, 2)}
  graph = graph_lib.trace(apply, params, shape(1, 4), levels=('channel',))
  [name] = graph.gated_groups
  theta = {name: jnp.array([3.0, 2.0, 1.0, 0.0, 0.5, 0.2])}
  gates = {name: jnp.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])}
  kept = _kept(graph, gates, theta)
  assert kept[name].tolist() == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def test_damping_and_ramp_reach_the_budget():
  budget = 0.25
  graph, init, apply = toys.mlp(inputs=6, hidden=24, levels=('channel',), depth=2)
  made = toys.search(
    graph,
    toys.cross_entropy(apply),
    pruning.weights.fresh(init, 40),
    gate=optax.adam(0.03),
    relaxation='gumbel_trapezoid',
    start=lambda key: graph.init_gates(key, mean=2.0),
    budget=budget,
    rho=0.005,
    damping=4.0,
    ramp=150,
  )
  _, metrics = toys.run_compiled(made, toys.batch, 400)
  assert np.mean(metrics['cost'][-30:]) == pytest.approx(budget, rel=0.08)
  assert metrics['cost'][0] > 0.7
  falling = np.asarray(metrics['target'])
  assert falling[0] == 1.0 and falling[150] == pytest.approx(budget)
  assert (np.diff(falling) <= 1e-7).all()


def test_own_batches_train_each_network_on_its_own(net):
  graph, init, apply = net
  source = pruning.weights.fresh(init, 50)
  shared, own = (
    toys.search(graph, toys.cross_entropy(apply), source, own_batches=b) for b in (False, True)
  )
  start = shared.init(jax.random.key(0))
  one, other = toys.batch(0), toys.examples(77)
  pair = lambda a, b: {**one, 'weights': jax.tree.map(lambda x, y: np.stack([x, y]), a, b)}
  update = jax.jit(own.update)
  same, _ = update(start, pair(one['weights'], one['weights']))
  plain, _ = jax.jit(shared.update)(start, one)
  parts = lambda state: (state.population, state.shared.theta)
  chex.assert_trees_all_close(parts(same), parts(plain), rtol=1e-5, atol=1e-7)
  mixed, _ = update(start, pair(one['weights'], other))
  chex.assert_trees_all_equal(mixed.population.params[0], same.population.params[0])
  assert (mixed.population.params[1] != same.population.params[1]).any()


@pytest.mark.parametrize('redraw', [1, 3])
def test_a_draw_of_gates_is_kept(net, redraw):
  """With weights, logits and batch at rest, the loss moves only when gates are drawn."""
  graph, init, apply = net
  made = toys.search(
    graph,
    toys.cross_entropy(apply),
    pruning.weights.random_features(init, 6),
    gate=optax.set_to_zero(),
    relaxation='gumbel_trapezoid',
    population=1,
    redraw=redraw,
  )
  losses = []
  toys.run(made, lambda step: toys.batch(0), 12, every=lambda s, _, m: losses.append(m['loss']))
  changed = [bool(a != b) for a, b in itertools.pairwise(losses)]
  assert changed == [(step % 6) % redraw == 0 for step in range(1, 12)]


def test_price_of_branches_moves_branches_only():
  graph = _branched()
  init = lambda key: jax.tree.map(lambda s: jnp.ones(s.shape), graph.tree.param_shapes)
  nothing = lambda params, batch: 0.0 * sum(x.sum() for x in jax.tree.leaves(params))
  source = pruning.weights.fixed(init)
  falls = []
  for price in (0.0, 0.5):
    settings = {'branch_price': price, 'multiplier': 2.0, 'relaxation': 'gumbel_trapezoid'}
    made = toys.search(graph, nothing, source, **settings)
    state = made.init(jax.random.key(0))
    after, _ = jax.jit(made.update)(state, {'gates': toys.examples(0)})
    falls.append({n: np.asarray(t - after.shared.theta[n]) for n, t in state.shared.theta.items()})
  for name, fall in falls[0].items():
    # The expected gate is sigmoid(theta) in this relaxation: its slope at 0 is a quarter.
    extra = 0.5 * 0.25 if name.startswith('branch') else 0.0
    np.testing.assert_allclose(falls[1][name] - fall, extra, atol=2e-3)


def test_damping_is_nothing_without_a_budget(net):
  graph, init, apply = net
  thetas = [
    toys.run(
      toys.search(
        graph,
        toys.cross_entropy(apply),
        pruning.weights.fixed(init),
        population=1,
        multiplier=0.5,
        damping=damping,
      ),
      toys.batch,
      2,
    )[0].shared.theta
    for damping in (0.0, 5.0)
  ]
  chex.assert_trees_all_equal(*thetas)


def test_sharp_cost_is_that_of_the_decision(net):
  """Gates that are rarely drawn count in the expected cost, not in the sharp one."""
  graph, init, apply = net
  start = lambda key: {n: jnp.where(jnp.arange(8) < 4, 2.0, -2.0) for n in graph.init_gates()}
  costs = []
  for sharp in (False, True):
    made = toys.search(
      graph,
      toys.cross_entropy(apply),
      pruning.weights.fixed(init),
      relaxation='gumbel_trapezoid',
      start=start,
      sharp_cost=sharp,
      multiplier=1.0,
    )
    state = made.init(jax.random.key(0))
    after, metrics = jax.jit(made.update)(state, toys.batch(0, inner=0))
    costs.append(float(metrics['cost']))
    assert all((t != after.shared.theta[n]).all() for n, t in state.shared.theta.items())
  decided = graph.decide(start(None)).costs['macs']['share']
  assert costs[1] == pytest.approx(decided, abs=1e-6)
  assert costs[0] == pytest.approx(0.5, abs=1e-6)


_GATES = {
  'adam': optax.adam(0.05),
  'sgd': optax.sgd(0.5),
  'mirror': gates_lib.mirror_descent(0.5),
}


@pytest.mark.parametrize(
  'relaxation, optimizer',
  [
    *[(n, 'adam') for n in gates_lib.NAMES],
    ('two_temperature', 'sgd'),
    ('two_temperature', 'mirror'),
    ('gumbel_raw', 'mirror'),
  ],
)
def test_every_relaxation_and_optimizer_obeys_the_price(net, relaxation, optimizer):
  """A high price closes gates whatever the relaxation; every number stays finite."""
  graph, init, apply = net
  made = toys.search(
    graph,
    toys.cross_entropy(apply),
    pruning.weights.fixed(init),
    gate=_GATES[optimizer],
    relaxation=relaxation,
    population=1,
    multiplier=5.0,
    start=lambda key: graph.init_gates(key, mean=0.3),
  )
  state, metrics = toys.run_compiled(made, toys.batch, 30)
  assert all(np.isfinite(v).all() for v in metrics.values())
  assert metrics['cost'][-1] < 0.9 * metrics['cost'][0]
  [theta] = state.shared.theta.values()
  assert theta.mean() < 0.3


def test_devices_do_not_change_the_result(tmp_path):
  env = {**os.environ, 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(
    [sys.executable, str(ROOT / 'tests' / 'pruning_devices.py')],
    env=env,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  out = json.loads(done.stdout.splitlines()[-1])
  assert out['devices'] == 4
  assert out['theta'] < 1e-5 and out['weights'] < 1e-5 and out['metrics'] < 1e-5
  assert out['moved'] > 1e-2


@pytest.mark.parametrize(
  'change, words',
  [
    ({'population': 0}, ['population is 0', 'at least 1']),
    ({'budget': 0.0}, ['budget is 0.0', '(0, 1]']),
    ({'budget': 1.5}, ['budget is 1.5', '(0, 1]']),
    ({'rho': 0.0}, ['rho is 0.0', 'positive']),
    ({'rho': float('nan')}, ['rho is nan']),
    ({'multiplier': -1.0}, ['multiplier is -1.0', 'negative']),
    ({'damping': -0.1}, ['damping is -0.1']),
    ({'concave': -0.1}, ['concave is -0.1']),
    ({'branch_price': -0.1}, ['branch_price is -0.1']),
    ({'redraw': 0}, ['redraw is 0', 'at least 1']),
    ({'ramp': -1}, ['ramp is -1']),
    ({'warmup': -1}, ['warmup is -1']),
    ({'hold': -1}, ['hold is -1']),
    ({'warmup': 5}, ['warmup is 5', 'live for 5 updates']),
    ({'relaxation': 'hard'}, ["'hard'", 'two_temperature']),
    ({'unit': 'flops'}, ["'flops'", 'macs']),
    ({'hard': lambda step: jnp.float32(2.0)}, ['2.0', 'soft temperature 1.0']),
    ({'soft': 0.0}, ['soft temperature is 0.0']),
  ],
)
def test_settings_out_of_range(net, change, words):
  graph, init, apply = net
  with pytest.raises(ValueError) as error:
    toys.search(graph, toys.cross_entropy(apply), pruning.weights.fresh(init, 5), **change)
  assert all(word in str(error.value) for word in words)


def test_trained_weights_need_an_optimizer(net):
  graph, init, apply = net
  with pytest.raises(ValueError, match='weight_optimizer is None'):
    pruning.make_search(
      graph, toys.cross_entropy(apply), pruning.weights.fresh(init), gate_optimizer=optax.sgd(0.1)
    )


def test_batches_of_the_wrong_shape(net):
  graph, init, apply = net
  made = toys.search(graph, toys.cross_entropy(apply), pruning.weights.fresh(init, 5, 2))
  with pytest.raises(ValueError, match='leading axis of inner_steps=2'):
    made.update(made.init(jax.random.key(0)), toys.batch(0, inner=1))
