"""The weight codec: exact round trips, tokens, widths, cut networks; PCA; recalibration."""

import json

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax import graph as graph_lib
from dapt_jax.models import model as model_lib
from dapt_jax.models import recalibration
from dapt_jax.weights import codec as codec_lib
from dapt_jax.weights import pca

INPUT = (6, 6, 3)


def model(name='convnet', **config):
  config = {'stages': ((4,), (6,)), **config} if name == 'convnet' else config
  return model_lib.create(name, input_shape=INPUT, num_classes=3, lowering='lax', **config)


def zoo(shapes, count=5):
  """Random networks, stacked."""
  return jax.tree.map(
    lambda *a: np.stack(a), *[nets.randomised(shapes, seed) for seed in range(count)]
  )


def shapes_of(made):
  return jax.eval_shape(made.init, jax.random.key(0))


def close(left, right, atol=1e-6):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-6), left, right)


@pytest.fixture(scope='module')
def stack():
  return zoo(shapes_of(model()))


@pytest.mark.parametrize('scale', codec_lib.SCALES)
@pytest.mark.parametrize('mode', [{}, {'mode': 'tokens'}, {'mode': 'tokens', 'chunk': 7}])
def test_round_trip(stack, mode, scale):
  codec = codec_lib.Codec.fit(stack, scale=scale, **mode)
  encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)
  code = encode(stack)
  assert code.shape == (5, *codec.shape) and code.dtype == jnp.float32
  close(decode(code)['params'], stack['params'])
  one = jax.tree.map(lambda a: a[2], stack)
  close(decode(encode(one))['params'], one['params'])


def test_packing_is_exact_to_the_bit(stack):
  codec = codec_lib.Codec.fit(stack, mode='tokens', chunk=7)
  pack = lambda x: codec.tokens.pack(codec.layout.flatten(x))
  unpack = lambda code: codec.layout.unflatten(codec.tokens.unpack(code), codec.rest)
  code = jax.jit(pack)(stack)
  assert code.shape == (5, *codec.shape)
  back = jax.jit(unpack)(code)
  for a, b in zip(*(jax.tree.leaves(t['params']) for t in (back, stack))):
    assert (a == b).all()


@pytest.mark.parametrize('name', ['mlp', 'resnet20', 'vit', 'densenet', 'multibranch'])
def test_round_trip_of_any_model(name):
  small = {
    'mlp': {'widths': (5,)},
    'vit': {'patch': 3, 'width': 8, 'depth': 1, 'heads': 2},
    'densenet': {'blocks': (1, 1), 'growth': 4},
    'multibranch': {'cells': 1, 'widths': (4,), 'reductions': ()},
  }
  stack = zoo(shapes_of(model(name, **small.get(name, {}))), 2)
  codec = codec_lib.Codec.fit(stack, mode='tokens')
  back = jax.jit(lambda x: codec.decode(codec.encode(x)))(stack)
  close(back['params'], stack['params'])


def test_codes_are_standardised_and_padding_is_zero(stack):
  codec = codec_lib.Codec.fit(stack, mode='tokens')
  code, mask = np.asarray(codec.encode(stack)), codec.mask()
  assert mask.sum() == codec.layout.size == sum(a[0].size for a in jax.tree.leaves(stack['params']))
  np.testing.assert_allclose(code.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(code.std(0)[mask], 1, atol=1e-4)
  assert (code[:, ~mask] == 0).all()


def test_one_scale_per_leaf(stack):
  codec = codec_lib.Codec.fit(stack, scale='leaf')
  code = codec.encode(stack)
  assert np.abs(np.asarray(code).mean(0)).max() > 0.1  # single weights are not centred
  single = codec.layout.unflatten(code, codec.rest)['params']
  for leaf in jax.tree.leaves(single):
    np.testing.assert_allclose([leaf.mean(), leaf.std()], [0, 1], atol=1e-4)


def test_constant_weights_survive_and_do_not_fill_the_code(stack):
  stack = jax.tree.map(np.copy, stack)
  kernel = stack['params']['head']['kernel']
  kernel[:, 0] = 0.25  # never moved
  kernel[:, 1] = 0.5 + 1e-7 * np.arange(5)[:, None]  # moved by rounding only
  stack['params']['head']['bias'][:] = 3.0  # a leaf that never moved at all
  codec = codec_lib.Codec.fit(stack)
  code = codec.encode(stack)
  assert np.isfinite(code).all()
  shown = codec.layout.unflatten(code, codec.rest)['params']['head']
  assert np.abs(shown['kernel'][:, :2]).max() < 1e-3 < np.abs(shown['kernel'][:, 2]).min()
  assert (shown['bias'] == 0).all()
  close(codec.decode(code)['params'], stack['params'])


def test_tokens_hold_one_output_unit():
  """A row of the kernel with its bias, and nothing else, wherever it fits."""
  shapes = shapes_of(model('mlp', widths=(5,)))
  codec = codec_lib.Codec.fit(zoo(shapes), mode='tokens')
  assert codec.shape == (5 + 3, 6 * 6 * 3 + 1)
  tokens = codec.tokens
  assert tokens.layers == ('params/dense1', 'params/head')
  assert tokens.layer.tolist() == [0] * 5 + [1] * 3
  assert tokens.place.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
  marked = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
  marked['params']['dense1']['kernel'] = marked['params']['dense1']['kernel'].at[:, 3].set(1.0)
  marked['params']['dense1']['bias'] = marked['params']['dense1']['bias'].at[3].set(1.0)
  packed = tokens.pack(codec.layout.flatten(marked))
  assert packed.sum() == packed[3].sum() == 6 * 6 * 3 + 1


def test_tokens_never_cross_layers():
  codec = codec_lib.Codec.fit(zoo(shapes_of(model())), mode='tokens', chunk=8)
  number, start = np.zeros(codec.layout.size), 0
  for leaf in codec.layout.coded:
    number[start : start + leaf.size] = codec.tokens.layers.index('/'.join(leaf.path[:-1]))
    start += leaf.size
  packed = np.asarray(codec.tokens.pack(jnp.asarray(number)))
  for token, mask, layer in zip(packed, codec.mask(), codec.tokens.layer):
    assert (token[mask] == layer).all() and mask.any()


def test_heads_of_attention_share_rows_with_their_biases():
  shapes = shapes_of(model('vit', patch=3, width=8, depth=1, heads=2))
  codec = codec_lib.Codec.fit(zoo(shapes, 2), mode='tokens', chunk=16)
  query = codec.tokens.layers.index('params/layer1/attention/query')
  assert (codec.tokens.layer == query).sum() == 8  # [8, 2, 4] and [2, 4]: eight units
  assert set(codec.mask()[codec.tokens.layer == query].sum(axis=1)) == {9}


def test_narrow_networks_are_masked_parts_of_wide_ones():
  wide, narrow = (shapes_of(model('mlp', widths=w)) for w in ((6, 4), (3, 4)))
  stacks = zoo(wide, 3), zoo(narrow, 4)
  codec = codec_lib.Codec.fit(*stacks, mode='tokens', chunk=16)
  assert codec.networks == 7
  for shapes, stack in zip((wide, narrow), stacks):
    code, mask = np.asarray(jax.jit(codec.encode)(stack)), codec.mask(shapes)
    assert mask.sum() == sum(s.size for s in jax.tree.leaves(shapes))
    assert (code[:, ~mask] == 0).all()
    close(jax.jit(lambda c, like=shapes: codec.decode(c, like))(code), stack)
  assert codec.mask(wide).sum() == codec.mask().sum() > codec.mask(narrow).sum()
  everyone = [jax.jit(codec.layout.flatten)(s) for s in stacks]
  only_wide = codec.layout.mask(wide) & ~codec.layout.mask(narrow)
  np.testing.assert_allclose(codec.mean[only_wide], everyone[0].mean(0)[only_wide], atol=1e-6)
  shared = codec.layout.mask(narrow)
  np.testing.assert_allclose(
    codec.mean[shared], np.concatenate(everyone).mean(0)[shared], atol=1e-6
  )


@pytest.fixture(scope='module')
def cut():
  """(function of the cut network, shapes of whole and cut network) of parallel operators."""
  made = model(
    'multibranch', cells=1, widths=(4,), operators=('conv3x3', 'conv1x1', 'skip'), reductions=()
  )
  shapes = shapes_of(made)
  graph = graph_lib.trace(made.apply, shapes, jnp.zeros((1, *INPUT)))
  gates = graph.init_gates()
  closed = next(n for n in gates if 'conv3x3' in n)
  channels = next(n for n in gates if graph.groups[n].kind == 'channel')
  logits = {n: 1.0 + np.arange(len(g)) for n, g in gates.items()} | {closed: -np.ones(1)}
  logits[channels][0] = -1.0
  arch = graph.decide({n: jnp.asarray(x, jnp.float32) for n, x in logits.items()})
  small_fn, small = graph.shrink(arch, shapes)
  return small_fn, shapes, small


def test_cut_networks_keep_their_gaps(cut):
  small_fn, whole, small = cut
  assert any(x is None for x in jax.tree.leaves(small, is_leaf=lambda x: x is None))
  stack = zoo(small)
  codec = codec_lib.Codec.fit(stack, mode='tokens')
  back = jax.jit(lambda x: codec.decode(codec.encode(x)))(stack)
  close(back['params'], stack['params'])
  first = jax.tree.map(lambda a: a[0], back)
  assert jax.jit(small_fn)(first, jnp.zeros((2, *INPUT))).shape == (2, 3)
  both = codec_lib.Codec.fit(zoo(whole), stack)
  back = jax.jit(lambda x: both.decode(both.encode(x), like=small))(stack)
  close(back['params'], stack['params'])
  sizes = [sum(s.size for s in jax.tree.leaves(t['params'])) for t in (small, whole)]
  assert [int(both.mask(t).sum()) for t in (small, whole)] == sizes


def test_statistics_may_be_missing(stack):
  codec = codec_lib.Codec.fit(stack)
  bare = {'params': stack['params']}
  code = codec.encode(bare)
  assert (code == codec.encode(stack)).all()
  one = jax.tree.map(lambda a: a[0], bare)
  close(codec.decode(code[0], like=one), one)
  assert set(codec.decode(code)) == {'params', 'batch_stats'}


def test_decoding_is_differentiable_and_maps_over_networks(stack):
  made = model()
  codec = codec_lib.Codec.fit(stack, mode='tokens')
  loss = lambda code: (made.apply(codec.decode(code), jnp.ones((1, *INPUT))) ** 2).sum()
  gradient = jax.jit(jax.vmap(jax.grad(loss)))(codec.encode(stack))
  assert np.isfinite(gradient).all() and (np.asarray(gradient)[:, ~codec.mask()] == 0).all()
  assert np.abs(gradient).max() > 0


@pytest.mark.parametrize('mode', codec_lib.MODES)
def test_save_and_load(stack, mode, tmp_path):
  codec = codec_lib.Codec.fit(stack, mode=mode, scale='leaf')
  codec.save(tmp_path / 'codec')
  loaded = codec_lib.Codec.load(tmp_path / 'codec')
  assert (loaded.encode(stack) == codec.encode(stack)).all()
  code = codec.encode(stack)
  close(loaded.decode(code), codec.decode(code), atol=0)
  assert loaded.layout == codec.layout and loaded.mode == mode and loaded.networks == 5


def test_damaged_files_are_refused(stack, tmp_path):
  codec_lib.Codec.fit(stack).save(tmp_path / 'codec')
  head = json.loads((tmp_path / 'codec.json').read_text())
  head['leaves'][-1]['shape'] = [99]
  (tmp_path / 'codec.json').write_text(json.dumps(head))
  with pytest.raises(ValueError, match='damaged'):
    codec_lib.Codec.load(tmp_path / 'codec')
  (tmp_path / 'codec.safetensors').write_bytes(b'x')
  with pytest.raises(ValueError, match='SHA-256'):
    codec_lib.Codec.load(tmp_path / 'codec')


def test_what_does_not_fit_is_refused(stack):
  codec = codec_lib.Codec.fit(stack)
  wide = zoo(shapes_of(model(stages=((4,), (9,)))), 2)
  with pytest.raises(ValueError, match=r"leaf '.*' has shape .* at most"):
    codec.encode(wide)
  with pytest.raises(ValueError, match=r'another structure: leaves .* are missing'):
    codec.encode(zoo(shapes_of(model('mlp')), 2))
  with pytest.raises(ValueError, match='code has shape'):
    codec.decode(jnp.zeros((2, 5)))
  with pytest.raises(TypeError, match='nested dicts'):
    codec_lib.Codec.fit([np.zeros((3, 4))])
  with pytest.raises(TypeError, match='int'):
    codec_lib.Codec.fit({'params': {'w': np.zeros((3, 4), int)}})
  with pytest.raises(ValueError, match='two or more'):
    codec_lib.Codec.fit(jax.tree.map(lambda a: a[:1], stack))
  with pytest.raises(ValueError, match="mode is 'token'"):
    codec_lib.Codec.fit(stack, mode='token')
  with pytest.raises(ValueError, match='chunk is 0'):
    codec_lib.Codec.fit(stack, mode='tokens', chunk=0)
  broken = jax.tree.map(np.copy, stack)
  broken['params']['head']['bias'][3, 0] = np.inf
  with pytest.raises(ValueError, match=r"networks \[3\] .* 'params/head/bias'"):
    codec_lib.Codec.fit(broken)
  ragged = {
    **stack,
    'params': {**stack['params'], 'head': jax.tree.map(lambda a: a[:2], stack['params']['head'])},
  }
  with pytest.raises(ValueError, match='leading axes'):
    codec_lib.Codec.fit(ragged)


def test_statistics_come_back_from_images(stack):
  made = model()
  images = jnp.asarray(np.random.default_rng(0).normal(size=(24, *INPUT)), jnp.float32)
  params = jax.tree.map(lambda a: a[0], stack)
  codec = codec_lib.Codec.fit(stack)
  drawn = jax.jit(lambda x: codec.decode(codec.encode(x)))(params)
  again = jax.jit(
    lambda v, size: recalibration.recalibrate(made.apply_train, v, images, size), static_argnums=1
  )
  fresh, train = again(drawn, None), jax.jit(made.apply_train)
  close(fresh['params'], params['params'])
  np.testing.assert_allclose(made.apply(fresh, images), train(params, images)[0], atol=1e-4)
  alone = again({'params': params['params']}, None)
  close(alone['batch_stats'], fresh['batch_stats'], atol=1e-4)
  parts = again(drawn, 16)
  states = [train(drawn, x)[1]['batch_stats'] for x in (images[:16], images[16:])]
  close(parts['batch_stats'], jax.tree.map(lambda a, b: (2 * a + b) / 3, *states), atol=1e-5)


def test_networks_without_normalisation_need_no_statistics():
  made = model('mlp', widths=(5,))
  params = nets.randomised(shapes_of(made))
  same = recalibration.recalibrate(made.apply_train, params, jnp.zeros((2, *INPUT)))
  close(same, params, atol=0)
  with pytest.raises(ValueError, match='0 images'):
    recalibration.recalibrate(made.apply_train, params, jnp.zeros((0, *INPUT)))


@pytest.mark.parametrize('shape', [(40, 9), (9, 40)])
def test_pca(shape):
  rng = np.random.default_rng(0)
  low = rng.normal(size=(shape[0], 3)) * [5, 3, 1]
  vectors = (low @ rng.normal(size=(3, shape[1])) + 2.0).astype(np.float32)
  fitted = pca.fit(vectors, 3)
  np.testing.assert_allclose(fitted.decode(fitted.encode(vectors)), vectors, atol=1e-4)
  np.testing.assert_allclose(fitted.components @ fitted.components.T, np.eye(3), atol=1e-5)
  np.testing.assert_allclose(fitted.explained.sum(), 1.0, atol=1e-5)
  assert (np.diff(fitted.explained) < 0).all()
  latents = np.asarray(fitted.encode(vectors))
  np.testing.assert_allclose(latents.var(axis=0), fitted.variance, rtol=1e-3)
  two = pca.fit(vectors, 2)
  error = ((np.asarray(two.decode(two.encode(vectors))) - vectors) ** 2).sum(axis=1).mean()
  np.testing.assert_allclose(error, fitted.variance[2], rtol=1e-3)


def test_pca_refuses_what_it_cannot_fit():
  with pytest.raises(ValueError, match='1 to 3'):
    pca.fit(np.zeros((4, 9)), 4)
  with pytest.raises(ValueError, match=r'finite numbers \[N, D\]'):
    pca.fit(np.full((4, 9), np.nan), 2)
