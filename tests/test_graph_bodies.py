"""masked == shrunk through loops, branches, derivative rules, reshapes, attention, normalisers."""

import functools

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from dapt_jax import graph as graph_lib

X = nets.images(3, (6,))
SEQUENCE = nets.images(2, (5, 8))
STREAM = ('channel', 'normalised')


def _params(seed=0, **shapes):
  return nets.randomised({n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}, seed)


def _check(fn, params, *inputs, gated, levels=('channel', 'branch'), seeds=(0, 1), **tolerances):
  graph = graph_lib.trace(fn, params, *inputs, levels=levels)
  assert {n: g.width for n, g in graph.gated_groups.items()} == gated, graph.explain()
  compare = nets.Comparison(graph, params)
  for seed in seeds:
    arch = nets.architecture(nets.random_gates(graph, seed))
    small_fn, small = compare.check(arch, *inputs, **tolerances)
  again = graph_lib.trace(small_fn, small, *inputs, levels=levels)
  for unit in ('params', 'macs'):
    assert again.total(unit) == graph.cost_model.absolute(arch.masks(), unit, np)
  return graph


def _flax(module, *inputs):
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return module.apply, nets.randomised(shapes)


def test_stacked_layers_in_a_scan_share_one_decision():
  def fn(p, x):
    def layer(h, w):
      h = h + jnp.tanh(h @ w['up'] + w['b']) @ w['down']
      return h, h @ p['probe']

    stacked = {n: p[n] for n in ('up', 'b', 'down')}
    h, probes = lax.scan(layer, x @ p['stem'], stacked, reverse=True, unroll=3)
    return jax.nn.relu(h) @ p['head'], probes

  params = _params(stem=(6, 5), up=(3, 5, 7), b=(3, 7), down=(3, 7, 5), head=(5, 2), probe=(5, 2))
  _check(fn, params, X, gated={'stem': 5, 'up': 7})


@pytest.mark.parametrize('cell', [nn.OptimizedLSTMCell, nn.LSTMCell, nn.GRUCell, nn.SimpleCell])
def test_recurrent_cells(cell):
  class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(3)(nn.RNN(cell(6))(nn.Dense(4)(x))[:, -1])

  apply, params = _flax(Classifier(), SEQUENCE)
  graph = graph_lib.trace(apply, params, SEQUENCE, levels=('channel',))
  assert sorted(g.width for g in graph.gated_groups.values()) == [4, 6]
  compare = nets.Comparison(graph, params)
  compare.check(nets.architecture(nets.random_gates(graph, 0)), SEQUENCE)


def test_loops_and_branches():
  def fn(p, x):
    h = x @ p['u']
    h = lax.fori_loop(0, 3, lambda i, c: jnp.sin(c @ p['w']) + c * i, h)
    h = lax.cond(x[0, 0] > 0, lambda c: jnp.tanh(c @ p['a']), lambda c: jax.nn.relu(c @ p['b']), h)
    return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] * 2), (0, h))[1] @ p['v']

  params = _params(u=(6, 5), w=(5, 5), a=(5, 7), b=(5, 7), v=(7, 3))
  graph = graph_lib.trace(fn, params, X)
  assert {n: g.width for n, g in graph.gated_groups.items()} == {'u': 5, 'a': 7}
  compare = nets.Comparison(graph, params, gradients=False)
  for seed, x in enumerate((X, -X)):
    compare.check(nets.architecture(nets.random_gates(graph, seed)), x)


def test_custom_vjp_keeps_its_own_gradient():
  @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
  def clipped(h, n, scale):
    return h * scale

  clipped.defvjp(
    lambda h, n, scale: (h * scale, (h, scale)),
    lambda n, saved, g: (n * jnp.clip(g, -0.1, 0.1) * saved[1], (g * saved[0]).sum(0)),
  )
  fn = lambda p, x: jnp.sin(clipped(x @ p['u'], 3, p['s'])) @ p['v']
  _check(fn, _params(u=(6, 8), s=(8,), v=(8, 5)), X, gated={'u': 8})


@pytest.mark.parametrize('shape', ['kernel has heads', 'reshaped', 'fused', 'split by hand'])
def test_attention_heads_are_units(shape):
  heads, width = 4, 2

  def project(p, x):
    if shape == 'kernel has heads':
      return [jnp.einsum('btd,dhk->bthk', x, p[n]) + p['b' + n] for n in 'qkv']
    if shape == 'reshaped':
      return [(x @ p[n] + p['b' + n]).reshape(*x.shape[:2], heads, width) for n in 'qkv']
    fused = x @ p['qkv'] + p['bqkv']
    if shape == 'fused':
      fused = fused.reshape(*x.shape[:2], 3, heads, width)
      return [fused[:, :, i] for i in range(3)]
    return [h.reshape(*x.shape[:2], heads, width) for h in jnp.split(fused, 3, -1)]

  def fn(p, x):
    q, k, v = project(p, x)
    scores = jnp.einsum('bqhk,bshk->bhqs', q / np.sqrt(2.0), k)
    out = jnp.einsum('bhqs,bshk->bqhk', jax.nn.softmax(scores), v)
    if shape == 'kernel has heads':
      return jnp.einsum('bqhk,hkd->bqd', out, p['o'])
    return out.reshape(*x.shape[:2], -1) @ p['o']

  if shape == 'kernel has heads':
    params = _params(q=(8, 4, 2), k=(8, 4, 2), v=(8, 4, 2), o=(4, 2, 3))
    params |= _params(1, bq=(4, 2), bk=(4, 2), bv=(4, 2))
    gated = {'q:axis1': 4, 'q': 2, 'v': 2}
  elif shape == 'reshaped':
    params = _params(q=(8, 8), k=(8, 8), v=(8, 8), o=(8, 3), bq=(8,), bk=(8,), bv=(8,))
    gated = {'q': 4}
  else:
    params = _params(qkv=(8, 24), bqkv=(24,), o=(8, 3))
    gated = {'qkv': 4}
  graph = graph_lib.trace(fn, params, SEQUENCE)
  assert sorted(g.width for g in graph.gated_groups.values()) == sorted(gated.values())
  compare = nets.Comparison(graph, params)
  for seed in (0, 1):
    compare.check(nets.architecture(nets.random_gates(graph, seed)), SEQUENCE)


def test_heads_of_flax_attention_and_their_widths():
  module = nn.MultiHeadDotProductAttention(num_heads=4)
  apply, params = _flax(module, SEQUENCE)
  _check(
    apply,
    params,
    SEQUENCE,
    gated={'query:axis1': 4, 'query': 2, 'value': 2},
    levels=('channel',),
  )


def _layer_norm(x, p, name):
  centred = x - x.mean(-1, keepdims=True)
  return centred * lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-3) * p[name + '/s'] + p[name + '/b']


def _rms_norm(x, p, name):
  return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-3) * p[name + '/s']


@pytest.mark.parametrize('norm', [_layer_norm, _rms_norm])
def test_normalisers_over_the_gated_axis_weigh_their_statistics(norm):
  def fn(p, x):
    h = x @ p['stem']
    h = h + jnp.tanh(norm(h, p, 'n') @ p['up']) @ p['down']
    return norm(h, p, 'm') @ p['head']

  names = {f'{n}/{part}': (5,) for n in 'nm' for part in 'sb'}
  params = _params(stem=(6, 5), up=(5, 7), down=(7, 5), head=(5, 3), **names)
  graph = _check(fn, params, X, gated={'stem': 5, 'up': 7}, levels=STREAM)
  gates = {'stem': np.array([1, 0, 1, 0.5, 1], np.float32)}
  with pytest.raises(ValueError, match=r'graph\.apply'):
    graph.apply_gates(params, gates)
  assert np.isfinite(graph.apply(params, gates, X)).all()
  # Without that level the stream is refused, with the reason, and the rest is cut.
  graph = _check(fn, params, X, gated={'up': 7}, levels=('channel',))
  assert 'reduce_sum runs over it' in graph.groups['stem'].refused


def test_gates_of_a_statistic_act_as_weights():
  fn = lambda p, x: _rms_norm(x @ p['u'], p, 'n') @ p['v']
  params = _params(u=(6, 5), v=(5, 3), **{'n/s': (5,)})
  graph = graph_lib.trace(fn, params, X, levels=STREAM)
  gate = np.array([0.2, 1.0, 0.0, 0.7, 0.4], np.float32)
  h = X @ params['u']
  rms = np.sqrt((gate * h * h).sum(-1, keepdims=True) / gate.sum() + 1e-3)
  wanted = (h / rms * params['n/s'] * gate) @ params['v']
  nets.assert_close(graph.apply(params, {'u': gate}, X), wanted)
  slope = jax.grad(lambda g: graph.apply(params, {'u': g}, X).sum())(jnp.asarray(gate))
  assert np.abs(slope).min() > 0


def test_softmax_over_the_gated_axis():
  fn = lambda p, x: jax.nn.softmax(x @ p['u']) @ p['v']
  params = _params(u=(6, 5), v=(5, 3))
  graph = _check(fn, params, X, gated={'u': 5}, levels=STREAM)
  assert graph.groups['u'].kind == 'normalised'


def test_flax_layer_norm_and_group_norm():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.Conv(8, (1, 1), name='a')(x)
      x = jax.nn.silu(nn.GroupNorm(4, name='norm')(x))
      x = nn.Conv(6, (1, 1), name='b')(x)
      return nn.Dense(3, name='c')(nn.LayerNorm()(x).mean((1, 2)))

  images = nets.images(2, (3, 3, 2))
  apply, params = _flax(Net(), images)
  _check(apply, params, images, gated={'a': 4, 'b': 6}, levels=STREAM, tolerance=2e-5)


def test_normalisers_inside_a_scan():
  def fn(p, x):
    def layer(h, w):
      return h + jnp.tanh(_layer_norm(h, w, 'n') @ w['up']) @ w['down'], None

    stacked = {n: a for n, a in p.items() if n not in ('stem', 'head')}
    return lax.scan(layer, x @ p['stem'], stacked)[0] @ p['head']

  shapes = {'up': (3, 5, 7), 'down': (3, 7, 5), 'n/s': (3, 5), 'n/b': (3, 5)}
  params = _params(stem=(6, 5), head=(5, 3), **shapes)
  _check(fn, params, X, gated={'stem': 5, 'up': 7}, levels=STREAM)


_conv = functools.partial(
  lax.conv_general_dilated, window_strides=(1, 1), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
)


def test_grouped_convolutions_lose_whole_groups():
  def fn(p, x):
    h = jax.nn.relu(_conv(x, p['a'], padding='SAME'))
    h = jax.nn.relu(_conv(h, p['g'], padding='SAME', feature_group_count=3))
    return _conv(h, p['b'], padding='SAME').mean((1, 2))

  params = _params(a=(1, 1, 3, 6), g=(3, 3, 2, 9), b=(1, 1, 9, 4))
  _check(fn, params, nets.images(2, (4, 4, 3)), gated={'a': 3})


def test_transposed_convolutions():
  def fn(p, x):
    h = jax.nn.relu(_conv(x, p['a'], padding='SAME'))
    h = lax.conv_transpose(h, p['t'], (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return _conv(jnp.sin(h), p['b'], padding='SAME').mean((1, 2))

  params = _params(a=(1, 1, 3, 5), t=(2, 2, 5, 6), b=(1, 1, 6, 4))
  graph = _check(fn, params, nets.images(2, (4, 4, 3)), gated={'a': 5, 't': 6})
  assert graph.total('macs') == 2 * 16 * (3 * 5 + 4 * 5 * 6 + 4 * 6 * 4)


def test_channel_shuffle():
  def fn(p, x):
    h = x @ p['u']
    h = h.reshape(3, 2, 4).swapaxes(1, 2).reshape(3, 8)
    return jnp.sin(h) @ p['v']

  graph = _check(fn, _params(u=(6, 8), v=(8, 5)), X, gated={'u': 2})
  np.testing.assert_array_equal(graph.groups['u'].slices[0].index, [0] * 4 + [1] * 4)


def test_channels_through_lookups_and_writes():
  def fn(p, x):
    h = x @ p['u']
    h = h.at[1].set(2 * h[0]).at[jnp.array([0, 2])].add(1.0)
    h = lax.dynamic_update_slice(h, lax.dynamic_slice(h, (1, 0), (1, 8)), (0, 0))
    h = h[jnp.argsort(x[:, 0])] + jnp.sort(h, 0)
    return jnp.sin(h) @ p['v']

  _check(fn, _params(u=(6, 8), v=(8, 5)), X, gated={'u': 8}, grad_tolerance=1e-4)


def test_kernels_that_are_joined_cut_or_reshaped_still_read():
  def fn(p, x):
    h = jnp.sin(x @ jnp.concatenate([p['a'], p['b']], 1))
    h = jnp.sin(h @ p['c'][:7] @ p['d'].reshape(2, 5).T)
    return h @ p['e'].reshape(2, 3)

  params = _params(a=(6, 3), b=(6, 4), c=(9, 5), d=(10,), e=(2, 3, 1))
  graph = graph_lib.trace(fn, params, X)
  assert {'a', 'b'} <= set(graph.gated_groups)
  compare = nets.Comparison(graph, params)
  compare.check(nets.architecture(nets.random_gates(graph, 0)), X)
