"""Baselines: equal cost, reproducible, and doing what their names say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax import graph as graph_lib
from dapt_jax.models import model as model_lib
from dapt_jax.pruning import baselines, criteria

BUDGET = 0.3
EXACT = ('random', 'uniform', 'shuffled')


def _trace(levels, name, **config):
  model = model_lib.create(name, input_shape=(8, 8, 1), num_classes=10, lowering='lax', **config)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
  return model, graph_lib.trace(model.apply, shapes, image, levels=levels)


@pytest.fixture(scope='module')
def plain():
  return _trace(('channel',), 'mlp', widths=(40, 30), batch_norm=True)


@pytest.fixture(scope='module')
def branched():
  return _trace(
    ('channel', 'branch'),
    'multibranch',
    cells=2,
    widths=(16, 16),
    operators=('conv1x1', 'conv3x3', 'conv5x5', 'skip'),
    reductions=(2,),
    inner=8,
  )


def _make(name, case, key=0, seed=4, **options):
  _, graph = case
  theta = graph.init_gates(jax.random.key(seed), std=1.0)
  return baselines.make(
    name,
    graph,
    budget=BUDGET,
    key=jax.random.key(key),
    theta=theta,
    **options,
  )


@pytest.mark.parametrize('unit', ['macs', 'params'])
@pytest.mark.parametrize('name', EXACT)
@pytest.mark.parametrize('which', ['plain', 'branched'])
def test_cost_is_the_budget(request, which, name, unit):
  arch = _make(name, request.getfixturevalue(which), unit=unit)
  share = arch.costs[unit]['share']
  assert 0.98 * BUDGET <= share <= BUDGET * (1 + 1e-6)
  assert arch.provenance['method'] == name
  assert arch.provenance['decision']['budget'] == BUDGET


def test_dense_keeps_everything(branched):
  arch = _make('dense', branched)
  assert all(len(arch.kept[n]) == w for n, w in arch.widths.items())
  assert arch.costs['macs']['share'] == pytest.approx(1)


@pytest.mark.parametrize('name', baselines.NAMES)
def test_the_key_decides(branched, name):
  first, again, other = (_make(name, branched, key=k).fingerprint() for k in (0, 0, 1))
  assert first == again
  assert (first != other) == (name in ('random', 'same_counts', 'shuffled'))


def test_same_counts_keeps_the_counts_of_every_layer(plain):
  _, graph = plain
  theta = graph.init_gates(jax.random.key(4), std=1.0)
  learned = graph.decide(theta, budget=BUDGET)
  mixed = _make('same_counts', plain)
  assert {n: len(k) for n, k in mixed.kept.items()} == {n: len(k) for n, k in learned.kept.items()}
  assert mixed.fingerprint() != learned.fingerprint()
  assert mixed.costs['macs']['kept'] == learned.costs['macs']['kept']


@pytest.mark.parametrize('seed', range(6))
def test_same_counts_of_branches(branched, seed):
  """As many branches in each sum; operators that come alive bring the inner width they need."""
  _, graph = branched
  theta = graph.init_gates(jax.random.key(seed), std=1.0)
  learned = graph.decide(theta, budget=BUDGET)
  mixed = _make('same_counts', branched, key=seed, seed=seed)
  for names in graph.sums:
    kept = lambda arch, names=names: sum(len(arch.kept[n]) for n in names)
    assert kept(mixed) == kept(learned) > 0


def test_shuffle_is_a_permutation_within_layers(branched):
  _, graph = branched
  theta = graph.init_gates(jax.random.key(0), std=1.0)
  mixed = baselines.shuffle(graph, theta, jax.random.key(1))
  assert list(mixed) == list(theta) or set(mixed) == set(theta)
  join = lambda tree, names: np.concatenate([np.asarray(tree[n]) for n in names])
  changed = 0
  for names in criteria.layers(graph):
    assert sorted(join(theta, names)) == sorted(join(mixed, names))
    changed += (join(theta, names) != join(mixed, names)).any()
  assert changed > 3
  covered = [n for names in criteria.layers(graph) for n in names]
  assert sorted(covered) == sorted(graph.gated_groups)


def test_shuffled_meets_the_budget_with_the_learned_logits(plain):
  """In one layer a shuffle keeps as many channels, of the same logits, at other places."""
  _, graph = _trace(('channel',), 'mlp', widths=(60,))
  theta = graph.init_gates(jax.random.key(4), std=1.0)
  arch = baselines.make('shuffled', graph, budget=0.5, theta=theta, key=jax.random.key(0))
  learned = graph.decide(theta, budget=0.5)
  [name] = arch.kept
  assert len(arch.kept[name]) == len(learned.kept[name]) == 30
  assert set(arch.kept[name]) != set(learned.kept[name])


def test_uniform_keeps_the_same_share_everywhere(plain):
  arch = _make('uniform', plain)
  shares = [len(k) / arch.widths[n] for n, k in arch.kept.items()]
  assert max(shares) - min(shares) < 0.07


def test_random_varies_widths_between_layers():
  """Layers get other shares from key to key, and none is cut down to a bottleneck."""
  _, graph = _trace(('channel',), 'mlp', widths=(120, 90, 100))
  archs = [baselines.make('random', graph, budget=BUDGET, key=jax.random.key(k)) for k in range(5)]
  shares = np.array([[len(k) / a.widths[n] for n, k in a.kept.items()] for a in archs])
  assert shares.std(0).min() > 0.05
  assert np.median(shares.min(1)) > 0.1
  assert len({a.fingerprint() for a in archs}) == 5


def test_random_varies_branches(branched):
  """Few and many operators a cell, all of them wanted, at the same cost."""
  _, graph = branched
  archs = [baselines.make('random', graph, budget=BUDGET, key=jax.random.key(k)) for k in range(8)]
  counts = [sum(len(k) for n, k in a.kept.items() if n.startswith('branch:')) for a in archs]
  assert max(counts) - min(counts) >= 3
  assert len({a.fingerprint() for a in archs}) == 8
  assert all(0.98 * BUDGET <= a.costs['macs']['share'] <= BUDGET * (1 + 1e-6) for a in archs)


def test_random_closes_residual_branches():
  """The shortcut is a summand that always stays: every branch beside it may go."""
  _, graph = _trace(('channel', 'branch'), 'resnet20', width=4)
  archs = [baselines.make('random', graph, budget=BUDGET, key=jax.random.key(k)) for k in range(4)]
  counts = {sum(len(k) for n, k in a.kept.items() if n.startswith('branch:')) for a in archs}
  assert min(counts) < 9 and len(counts) > 1


def test_options_reach_the_decision(plain):
  arch = _make('random', plain, round_to=4)
  assert all(len(k) % 4 == 0 or len(k) == arch.widths[n] for n, k in arch.kept.items())


@pytest.mark.parametrize(
  'name, given, missing',
  [
    ('random', {}, 'key'),
    ('same_counts', {'key': 0}, 'theta'),
    ('shuffled', {'theta': {}}, 'key'),
  ],
)
def test_missing_arguments_are_named(plain, name, given, missing):
  with pytest.raises(ValueError, match=f"baseline '{name}' needs {missing}; pass {missing}="):
    baselines.make(name, plain[1], budget=0.5, **given)


def test_unknown_name(plain):
  with pytest.raises(ValueError, match="baseline is 'l1'; allowed are"):
    baselines.make('l1', plain[1], budget=0.5)
