"""masked == shrunk on random networks, in double precision: no tolerance hides a mistake."""

import functools

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dapt_jax import graph as graph_lib

_CONV = functools.partial(
  lax.conv_general_dilated,
  window_strides=(1, 1),
  padding='SAME',
  dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
)


class _Builder:
  """Draws a network; parameters are declared while it is first run on shapes."""

  def __init__(self, seed):
    self.seed = seed
    self.shapes = {}
    self.params = None

  def get(self, name, *shape):
    self.shapes[name] = jax.ShapeDtypeStruct(shape, jnp.float64)
    return jnp.ones(shape) if self.params is None else self.params[name]

  def conv(self, name, x, width, size=1):
    return _CONV(x, self.get(f'{name}/kernel', size, size, x.shape[-1], width))

  def norm(self, name, x):
    width = x.shape[-1]
    y = (x - self.get(f'{name}/mean', width)) * lax.rsqrt(self.get(f'{name}/var', width) + 1e-3)
    return y * self.get(f'{name}/scale', width) + self.get(f'{name}/bias', width)

  def step(self, rng, name, x):
    width = int(rng.integers(2, 6))
    kind = rng.choice(['conv', 'norm', 'residual', 'branches', 'pool', 'act', 'concat', 'mix'])
    if kind == 'conv':
      return self.conv(name, x, width, int(rng.choice([1, 3])))
    if kind == 'norm':
      return self.norm(name, x)
    if kind == 'residual':
      inner = jax.nn.relu(self.norm(f'{name}/bn', self.conv(f'{name}/in', x, width)))
      return x + self.conv(f'{name}/out', inner, x.shape[-1])
    if kind == 'branches':
      ends = [self.norm(f'{name}/{i}/bn', self.conv(f'{name}/{i}', x, width)) for i in range(3)]
      return jnp.tanh(functools.reduce(jnp.add, ends))
    if kind == 'pool':
      return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), 'SAME')
    if kind == 'concat':
      return jnp.concatenate([x, jnp.cos(self.conv(name, x, width))], -1)
    if kind == 'mix':
      return x[..., ::-1] + jnp.roll(x, 1, -1)
    return rng.choice([jax.nn.relu, jnp.sin, jax.nn.gelu])(x)

  def __call__(self, params, x):
    self.params = params
    rng = np.random.default_rng(self.seed)
    x = self.conv('stem', x, int(rng.integers(3, 6)))
    for number in range(int(rng.integers(2, 4))):
      x = self.step(rng, f'layer{number}', x)
    x = x.mean((1, 2)) if rng.random() < 0.6 else x.reshape(len(x), -1)
    h = jnp.sin(x @ self.get('dense/w', x.shape[-1], 6) + self.get('dense/b', 6))
    return h @ self.get('head', 6, 3)


@pytest.mark.parametrize('seed', range(20))
def test_random_network(seed):
  with jax.enable_x64(True):
    _check(seed)


def _check(seed):
  net = _Builder(seed)
  images = nets.images(2, (3, 3, 2), seed).astype(np.float64)
  jax.eval_shape(lambda x: net(None, x), images)
  params = nets.randomised(net.shapes, seed)
  levels = graph_lib.LEVELS if seed % 4 == 0 else ('channel', 'branch')
  graph = graph_lib.trace(net, params, images, levels=levels)
  assert {'dense'} <= set(graph.gated_groups)
  arch = nets.architecture(nets.random_gates(graph, seed))
  small_fn, small = nets.assert_masked_is_shrunk(
    graph, params, arch, images, tolerance=1e-10, gradients=seed % 2 == 0
  )
  if levels != graph_lib.LEVELS:
    again = graph_lib.trace(small_fn, small, images)
    for unit in ('params', 'macs'):
      kept = graph.cost_model.absolute(arch.masks(), unit, np)
      assert again.total(unit) == kept
