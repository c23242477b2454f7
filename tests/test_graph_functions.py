"""masked == shrunk on hand-written functions: moves of channels, sums, dtypes, transformations."""

import functools

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dapt_jax import graph as graph_lib


def _params(seed=0, **shapes):
  return nets.randomised({n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}, seed)


def _check(fn, params, *inputs, seeds=(0, 1), levels=('channel', 'branch'), gated=None):
  graph = graph_lib.trace(fn, params, *inputs, levels=levels)
  if gated is not None:
    assert {n: g.width for n, g in graph.gated_groups.items()} == gated
  compare = nets.Comparison(graph, params)
  for seed in seeds:
    compare.check(nets.architecture(nets.random_gates(graph, seed)), *inputs)
  return graph


X = nets.images(3, (6,))
WIDE = {'u': (6, 8), 'b': (8,), 'v': (8, 5)}


def test_nested_parameters_and_flattened_images():
  def fn(p, x):
    x = x.reshape(len(x), -1)
    for layer in p['hidden']:
      x = jnp.tanh(x @ layer['w'] + layer['b'])
    return x @ p['out']['w'] * p['out']['scale']

  wide = lambda i, o: {'w': (i, o), 'b': (o,)}
  shapes = {'hidden': [wide(12, 7), wide(7, 6)], 'out': {'w': (6, 4), 'scale': (4,)}}
  leaf = lambda s: jax.ShapeDtypeStruct(s, jnp.float32)
  params = nets.randomised(jax.tree.map(leaf, shapes, is_leaf=lambda s: isinstance(s, tuple)))
  graph = _check(
    fn,
    params,
    nets.images(3, (2, 2, 3)),
    levels=('channel', 'input'),
    gated={'hidden/0': 7, 'hidden/1': 6, 'input:merged': 12},
  )
  text = graph.explain()
  assert 'a reshape merges it' in text


@pytest.mark.parametrize(
  'move',
  [
    lambda h: jnp.concatenate([h, h[:, :3]], 1)[:, :8],
    lambda h: jnp.concatenate([h[:, 5:], h[:, :5]], 1),
    lambda h: h[:, ::-1] + h,
    lambda h: jnp.pad(h[:, 1:7], ((0, 0), (2, 0))),
    lambda h: lax.pad(h, 0.5, ((0, 0, 0), (1, 1, 0)))[:, :8],
    lambda h: jnp.swapaxes(h.T[None], 0, 2)[..., 0].reshape(3, 8),
    lambda h: jnp.tile(h[:, :4], (1, 2)),
    lambda h: jnp.concatenate(jnp.split(h, 4, axis=1)[::-1], 1),
    lambda h: jnp.concatenate([h[:, ::2], h[:, 1::2]], 1),
    lambda h: jnp.stack([h, 2 * h], 1).sum(1),
    lambda h: sum(jnp.unstack(jnp.stack([h, jnp.sin(h)], 1), axis=1)),
    lambda h: jnp.where(h > 0, h, 0.1 * h) / (1 + h * h),
    lambda h: lax.stop_gradient(h) * jax.nn.gelu(h) + jax.nn.silu(h),
    lambda h: jax.checkpoint(jnp.sin)(h),
    lambda h: jnp.broadcast_to(h[:, None, :], (3, 4, 8)).max(1),
    lambda h: h * jnp.arange(8.0) + jnp.eye(8)[2],
  ],
)
def test_channels_that_move(move):
  fn = lambda p, x: move(x @ p['u'] + p['b']) @ p['v']
  _check(fn, _params(**WIDE), X, seeds=(0,))


def test_slices_share_gates_and_parts_can_be_cut_apart():
  fn = lambda p, x: _glu(x @ p['u'] + p['b']) @ p['w']
  params = _params(u=(6, 8), b=(8,), w=(4, 5))
  _check(fn, params, X, gated={'u': 4})
  concatenated = lambda p, x: jnp.concatenate([x @ p['u'], jnp.cos(x @ p['w'])], 1) @ p['v']
  params = _params(u=(6, 3), w=(6, 5), v=(8, 4))
  _check(concatenated, params, X, gated={'u': 3, 'w': 5})


def _glu(h):
  return h[:, :4] * jax.nn.sigmoid(h[:, 4:])


def test_residual_mlp():
  def fn(p, x):
    h = x @ p['stem']
    for name in ('1', '2'):
      h = h + jax.nn.relu(h @ p['up' + name]) @ p['down' + name]
    return h @ p['head']

  shapes = {'up1': (5, 7), 'down1': (7, 5), 'up2': (5, 6), 'down2': (6, 5)}
  params = _params(stem=(6, 5), head=(5, 4), **shapes)
  graph = _check(fn, params, X)
  assert {'branch:down1', 'branch:down2'} <= set(graph.gated_groups)


def test_kernels_that_are_scaled_cast_transposed_or_masked():
  mask = np.random.default_rng(0).integers(0, 2, (6, 8)).astype(np.float32)
  fn = lambda p, x: jnp.sin(x @ (p['u'] * mask)) @ (p['v'].T * 2.0 * p['s'])
  _check(fn, _params(u=(6, 8), v=(5, 8), s=(8, 5)), X, gated={'u': 8})


def test_embedding_lookup():
  fn = lambda p, ids: jnp.tanh(p['table'][ids]) @ p['w']
  params = _params(table=(9, 6), w=(6, 3))
  graph = graph_lib.trace(fn, params, np.array([1, 4, 4]))
  arch = nets.architecture(nets.random_gates(graph, 0))
  small_fn, small = graph.shrink(arch, params)
  masked = fn(graph.apply_gates(params, arch.gates(graph)), np.array([1, 4, 4]))
  nets.assert_close(jax.jit(small_fn)(small, np.array([1, 4, 4])), masked)
  assert small['table'].shape == (9, len(arch.kept['table:axis1']))


def test_depthwise_and_dilated_convolutions():
  def fn(p, x):
    conv = functools.partial(lax.conv_general_dilated, window_strides=(1, 1), padding='SAME')
    numbers = ('NHWC', 'HWIO', 'NHWC')
    x = conv(x, p['a'], dimension_numbers=numbers)
    x = conv(x, p['d'], dimension_numbers=numbers, feature_group_count=4)
    x = conv(jax.nn.relu(x), p['b'], dimension_numbers=numbers, rhs_dilation=(2, 2))
    return x.mean((1, 2))

  params = _params(a=(1, 1, 3, 4), d=(3, 3, 1, 8), b=(2, 2, 8, 2))
  _check(fn, params, nets.images(2, (4, 4, 3)), gated={'a': 4})


def test_relu_keeps_its_gradient_at_zero():
  fn = lambda p, x: jax.nn.relu(x @ p['u']) @ p['v']
  params = _params(u=(6, 8), v=(8, 5))
  zeros = np.zeros((3, 6), np.float32)
  graph = graph_lib.trace(fn, params, zeros)
  arch = nets.architecture(nets.random_gates(graph, 0))
  small_fn, small = graph.shrink(arch, params)
  assert small['u'].shape[1] < 8
  slope = jax.jit(jax.grad(lambda x: small_fn(small, x).sum()))(zeros)
  # The rule of relu says zero there; max(x, 0) traced through would say one half.
  np.testing.assert_array_equal(slope, 0.0)


def test_custom_rules_survive_the_cut():
  @jax.custom_jvp
  def step(h):
    return jnp.where(h > 0, 1.0, 0.0)

  @step.defjvp
  def _(primals, tangents):
    h = primals[0]
    return step(h), tangents[0] * jnp.exp(-h * h)

  fn = lambda p, x: step(x @ p['u'] + p['b']) @ p['v']
  _check(fn, _params(**WIDE), X, gated={'u': 8})


def test_dropout_draws_the_same_bits():
  def fn(p, x, key):
    h = x @ p['u'] + p['b']
    return jnp.where(jax.random.bernoulli(key, 0.5, h.shape), h, 0.0) @ p['v']

  params, key = _params(**WIDE), jax.random.key(0)
  graph = graph_lib.trace(fn, params, X, key)
  arch = nets.architecture(nets.random_gates(graph, 0))
  small_fn, small = graph.shrink(arch, params)
  wanted = fn(graph.apply_gates(params, arch.gates(graph)), X, key)
  nets.assert_close(jax.jit(small_fn)(small, X, key), wanted)


def test_other_batch_sizes_are_traced_once_each():
  calls = []

  def fn(p, x):
    calls.append(x.shape)
    return jnp.sin(x @ p['u']).mean(0, keepdims=True) @ p['v'] + jnp.zeros((len(x), 5))

  params = _params(u=(6, 8), v=(8, 5))
  graph = graph_lib.trace(fn, params, X[:1])
  arch = nets.architecture(nets.random_gates(graph, 0))
  small_fn, small = graph.shrink(arch, params)
  for _ in range(2):
    for batch in (1, 2, 3):
      out = small_fn(small, X[:batch])
      wanted = fn(graph.apply_gates(params, arch.gates(graph)), X[:batch])
      nets.assert_close(out, wanted)
  assert len(calls) == 1 + 2 + 6  # one trace, a retrace for sizes 2 and 3, six plain calls


def test_bfloat16_parameters_stay_bfloat16():
  fn = lambda p, x: jax.nn.relu(x @ p['u']) @ p['v']
  params = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), _params(u=(6, 8), v=(8, 5)))
  graph = graph_lib.trace(fn, params, X)
  arch = nets.architecture(nets.random_gates(graph, 0))
  masked = graph.apply_gates(params, arch.gates(graph))
  small_fn, small = graph.shrink(arch, params, rescale=True)
  assert {a.dtype for a in jax.tree.leaves((masked, small))} == {jnp.dtype(jnp.bfloat16)}
  small_fn, small = graph.shrink(arch, params)
  nets.assert_close(jax.jit(small_fn)(small, X), fn(masked, X), 1e-2)


def test_shrunk_functions_transform_like_any_other():
  fn = lambda p, x: jax.nn.relu(x @ p['u'] + p['b']) @ p['v']
  params = _params(**WIDE)
  graph = graph_lib.trace(fn, params, X)
  arch = nets.architecture(nets.random_gates(graph, 0))
  small_fn, small = graph.shrink(arch, params)
  wanted = small_fn(small, X)
  nets.assert_close(jax.jit(small_fn)(small, X), wanted)
  population = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), small)
  many = jax.jit(jax.vmap(small_fn, (0, None)))(population, X)
  nets.assert_close(many[0], wanted)
  tangent = jax.jvp(lambda x: small_fn(small, x), (X,), (X,))[1]
  assert tangent.shape == wanted.shape
  # The cut itself can be traced and mapped too.
  shrunk = jax.jit(jax.vmap(lambda p: graph.shrink(arch, p)[1]))(
    jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
  )
  nets.assert_close(shrunk, population)


def test_small_parameters_do_not_share_memory_with_the_whole():
  apply_fn, params = nets.model('convnet')
  params = jax.tree.map(np.array, params)
  graph = graph_lib.trace(apply_fn, params, nets.images(1))
  arch = graph.decide({n: np.ones(g.width) for n, g in graph.gated_groups.items()})
  _, small = graph.shrink(arch, params)
  before = jax.tree.map(np.array, small)
  for leaf in jax.tree.leaves(params):
    leaf *= 0
  jax.tree.map(np.testing.assert_array_equal, small, before)


def test_shapes_are_cut_like_arrays():
  fn = lambda p, x: jax.nn.relu(x @ p['u'] + p['b']) @ p['v']
  params = _params(**WIDE)
  graph = graph_lib.trace(fn, params, X)
  arch = nets.architecture(nets.random_gates(graph, 0))
  shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
  cut = graph.shrink(arch, shapes)[1]
  for a, b in zip(jax.tree.leaves(cut), jax.tree.leaves(graph.shrink(arch, params)[1])):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_rescaled_weights_keep_the_variance():
  fn = lambda p, x: jax.nn.relu(x @ p['u']) @ p['v']
  rng = np.random.default_rng(0)
  params = {'u': rng.normal(size=(6, 400)) / np.sqrt(6), 'v': rng.normal(size=(400, 300)) / 20}
  graph = graph_lib.trace(fn, params, X)
  arch = nets.architecture({'u': (np.arange(400) < 100).astype(np.float32)})
  _, plain = graph.shrink(arch, params)
  _, scaled = graph.shrink(arch, params, rescale=True)
  nets.assert_close(scaled['v'], 2.0 * np.asarray(plain['v']))
  nets.assert_close(scaled['u'], plain['u'])
  assert float(jnp.var(scaled['v']) * 100) == pytest.approx(1.0, rel=0.05)


def test_overrides_replace_primitives():
  seen = []

  def dot(a, b, **params):
    seen.append(a.shape)
    return lax.dot_general_p.bind(a, b, **params)

  fn = lambda p, x: jax.nn.relu(x @ p['u']) @ p['v']
  params = _params(u=(6, 8), v=(8, 5))
  graph = graph_lib.trace(fn, params, X)
  arch = nets.architecture(nets.random_gates(graph, 0))
  small_fn, small = graph.shrink(arch, params, overrides={'dot_general': dot})
  nets.assert_close(small_fn(small, X), graph.shrink(arch, params)[0](small, X))
  assert seen == [(3, 6), (3, small['v'].shape[0])]


def test_parameters_of_another_network_are_rejected():
  fn = lambda p, x: jax.nn.relu(x @ p['u']) @ p['v']
  params = _params(u=(6, 8), v=(8, 5))
  graph = graph_lib.trace(fn, params, X)
  arch = nets.architecture(nets.random_gates(graph, 0))
  for operation in (lambda p: graph.shrink(arch, p), lambda p: graph.apply_gates(p, arch.masks())):
    with pytest.raises(ValueError, match="leaf 'v' has shape"):
      operation({**params, 'v': np.zeros((9, 5))})
    with pytest.raises(ValueError, match='another structure'):
      operation({'u': params['u']})
  small_fn, _ = graph.shrink(arch, params)
  with pytest.raises(ValueError, match='another structure'):
    small_fn({'u': params['u']}, X)
