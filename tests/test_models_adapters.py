"""Modules of Flax NNX and Equinox, and plain functions, traced and cut unchanged."""

import equinox as eqx
import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dapt_jax import graph as graph_lib
from dapt_jax.models import adapters

SHAPE = (6, 6, 3)


class Network(nnx.Module):
  """Convolution, BatchNorm, a list of dense layers, dropout."""

  def __init__(self, rngs):
    self.conv = nnx.Conv(3, 5, (3, 3), rngs=rngs)
    self.bn = nnx.BatchNorm(5, rngs=rngs)
    self.hidden = nnx.List([nnx.Linear(5, 7, rngs=rngs), nnx.Linear(7, 6, rngs=rngs)])
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(6, 2, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.bn(self.conv(x))).mean((1, 2))
    for layer in self.hidden:
      x = nnx.relu(layer(x))
    return self.head(self.dropout(x))


def _module(train):
  module = Network(nnx.Rngs(0))
  module.train() if train else module.eval()
  return module


@pytest.mark.parametrize('train', [False, True])
def test_nnx_function_is_the_module(train):
  module, x = _module(train), nets.images(4, SHAPE)
  apply_fn, variables = adapters.from_nnx(module, with_state=True)
  result, state = jax.jit(apply_fn)(variables, x)
  np.testing.assert_array_equal(module.bn.mean[...], 0.0)  # not changed by the call
  np.testing.assert_allclose(result, module(x), atol=1e-5)
  assert jax.tree.structure(state['batch_stats']) == jax.tree.structure(variables['batch_stats'])
  np.testing.assert_allclose(state['batch_stats']['bn']['mean'], module.bn.mean[...], atol=1e-6)
  assert bool(jnp.any(state['batch_stats']['bn']['mean'] != 0.0)) == train
  assert set(variables['params']['hidden']) == {0, 1}


@pytest.mark.parametrize('train', [False, True])
def test_nnx_masked_is_shrunk(train):
  apply_fn, variables = adapters.from_nnx(_module(train), with_state=train)
  variables = nets.randomised(variables)
  graph = graph_lib.trace(apply_fn, variables, nets.images(2, SHAPE))
  widths = {name: group.width for name, group in graph.gated_groups.items()}
  assert widths == {'conv': 5, 'hidden/0': 7, 'hidden/1': 6}
  assert graph.total('params') == sum(v.size for v in jax.tree.leaves(variables['params']))
  arch = nets.architecture(nets.random_gates(graph, 0))
  small = nets.assert_masked_is_shrunk(
    graph, variables, arch, nets.images(4, SHAPE), tolerance=5e-5 if train else 1e-5
  )[1]
  assert small['batch_stats']['bn']['mean'].shape == (len(arch.kept['conv']),)


def test_nnx_refuses():
  with pytest.raises(TypeError, match='a dict; give an instance of'):
    adapters.from_nnx({})
  with pytest.raises(ValueError, match=r'Dropout has no nnx\.Param'):
    adapters.from_nnx(nnx.Dropout(0.5))


def test_nnx_without_statistics():
  apply_fn, variables = adapters.from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), with_state=True)
  assert set(variables) == {'params'}
  assert apply_fn(variables, np.ones((1, 3), np.float32))[1] == {}


class Residual(eqx.Module):
  """A convolution of one image, a residual perceptron, a head."""

  conv: eqx.nn.Conv2d
  up: eqx.nn.Linear
  down: eqx.nn.Linear
  head: eqx.nn.Linear

  def __init__(self, key):
    keys = jax.random.split(key, 4)
    self.conv = eqx.nn.Conv2d(3, 5, 3, key=keys[0])
    self.up = eqx.nn.Linear(5, 7, key=keys[1])
    self.down = eqx.nn.Linear(7, 5, key=keys[2])
    self.head = eqx.nn.Linear(5, 2, key=keys[3])

  def __call__(self, x):
    x = jax.nn.relu(self.conv(x)).mean((1, 2))
    return self.head(x + self.down(jax.nn.tanh(self.up(x))))


def test_equinox_masked_is_shrunk():
  params, static = eqx.partition(Residual(jax.random.key(0)), eqx.is_inexact_array)
  apply_fn = lambda params, x: jax.vmap(eqx.combine(params, static))(x)
  images = lambda batch: nets.images(batch, (3, 6, 6))
  graph = graph_lib.trace(apply_fn, params, images(2))
  widths = {name: group.width for name, group in graph.gated_groups.items()}
  assert widths == {'conv:axis0': 5, 'up:axis0': 7, 'branch:down': 1}
  gates = nets.random_gates(graph, 0)
  gates['branch:down'][:] = 1
  arch = nets.architecture(gates)
  small = nets.assert_masked_is_shrunk(graph, params, arch, images(4))[1]
  assert small.up.weight.shape == (len(arch.kept['up:axis0']), len(arch.kept['conv:axis0']))


def test_plain_function_masked_is_shrunk():
  shapes = [(6, 8), (8, 7), (7, 3)]
  params = [nets.randomised(jax.ShapeDtypeStruct(s, np.float32), i) for i, s in enumerate(shapes)]
  apply_fn = lambda params, x: jnp.tanh(jnp.tanh(x @ params[0]) @ params[1]) @ params[2]
  x = nets.images(4, (6,))
  graph = graph_lib.trace(apply_fn, params, x[:1])
  assert [group.width for group in graph.gated_groups.values()] == [8, 7]
  nets.assert_masked_is_shrunk(graph, params, nets.architecture(nets.random_gates(graph, 1)), x)
