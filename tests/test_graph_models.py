"""masked == shrunk, forwards and backwards, on the reference models."""

import graph_nets as nets
import jax
import numpy as np
import pytest

from dapt_jax import graph as graph_lib
from dapt_jax.models import multibranch

SMALL = {
  'mlp': {'widths': (9, 7), 'batch_norm': True},
  'convnet': {'stages': ((4,), (5,)), 'flatten': True},
  'resnet8': {},
  'multibranch': {
    'cells': 2,
    'widths': (3, 5),
    'operators': ('conv1x1', 'sep3x3', 'skip'),
    'reductions': (2,),
    'inner': 3,
  },
}


def _network(name, train=False, **config):
  if name == 'resnet8':
    return nets.resnet8(train)
  return nets.model(name, train, **{**SMALL[name], **config})


def _graph(name, train=False, levels=('channel', 'branch'), **config):
  apply_fn, params = _network(name, train, **config)
  return graph_lib.trace(apply_fn, params, nets.images(2), levels=levels), params


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('name', list(SMALL))
def test_masked_is_shrunk(name, train):
  graph, params = _graph(name, train)
  compare = nets.Comparison(graph, params)
  for seed in range(2 if name == 'mlp' else 1):
    arch = nets.architecture(nets.random_gates(graph, seed + 10 * train))
    # Batch statistics divide by deviations that may be small: they amplify rounding.
    compare.check(arch, nets.images(4), tolerance=5e-5 if train else 1e-5)


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('name', ['convnet', 'resnet8', 'multibranch'])
def test_masked_is_shrunk_in_double_precision(name, train):
  """Every operator, the gradients, and the batch's statistics, with no room for rounding."""
  every = {'cells': 1, 'widths': (3,), 'reductions': (), 'operators': multibranch.OPERATORS}
  apply_fn, params = _network(name, train, **(every if name == 'multibranch' else {}))
  with jax.enable_x64(True):
    params = jax.tree.map(lambda p: p.astype(np.float64), params)
    graph = graph_lib.trace(apply_fn, params, nets.images(2).astype(np.float64))
    compare = nets.Comparison(graph, params)
    for seed in range(2):
      arch = nets.architecture(nets.random_gates(graph, seed))
      images = nets.images(4, seed=seed).astype(np.float64)
      compare.check(arch, images, tolerance=1e-8, grad_tolerance=1e-8)


@pytest.mark.parametrize(
  ('name', 'levels'),
  [
    ('mlp', ('input',)),
    ('mlp', ('link',)),
    ('mlp', graph_lib.LEVELS),
    ('multibranch', graph_lib.LEVELS),
  ],
)
def test_masked_is_shrunk_at_every_level(name, levels):
  one_cell = {'cells': 1, 'widths': (3,), 'reductions': ()} if name == 'multibranch' else {}
  graph, params = _graph(name, levels=levels, **one_cell)
  kinds = {g.kind for g in graph.gated_groups.values()}
  assert kinds <= set(levels)
  arch = nets.architecture(nets.random_gates(graph, 3, 0.6, 0.9))
  nets.assert_masked_is_shrunk(graph, params, arch, nets.images(3))


@pytest.mark.parametrize('name', list(SMALL))
def test_train_and_eval_traces_have_the_same_groups(name):
  evaluated, params = _graph(name)
  trained, _ = _graph(name, train=True)
  widths = lambda g: {n: q.width for n, q in g.gated_groups.items()}
  assert widths(evaluated) == widths(trained)
  arch = nets.architecture(nets.random_gates(evaluated, 5))
  a, b = evaluated.shrink(arch, params)[1], trained.shrink(arch, params)[1]
  assert jax.tree.structure(a) == jax.tree.structure(b)
  nets.assert_close(a, b, 0.0)


def test_only_the_state_of_cut_branches_goes():
  graph, params = _graph('multibranch', train=True)
  gates = {n: np.ones(g.width, np.float32) for n, g in graph.gated_groups.items()}
  gates['branch:cell1/sep3x3/bn'][:] = 0
  small_fn, small_params = graph.shrink(nets.architecture(gates), params)
  state = jax.jit(small_fn)(small_params, nets.images(3))[1]['batch_stats']
  gone = state['cell1']['sep3x3']
  assert jax.tree.leaves(gone) == []
  assert small_params['params']['cell1']['sep3x3']['conv']['kernel'] is None
  del state['cell1']['sep3x3']
  everything = jax.tree.leaves(state, is_leaf=lambda x: x is None)
  assert everything and all(x is not None for x in everything)


def test_the_two_halves_of_a_padded_shortcut_are_kept_apart():
  graph, _ = _graph('resnet8')
  widths = [len(layer) for layer in graph.groups['stem/conv'].layers]
  assert widths == [2, 4, 8]
