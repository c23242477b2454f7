"""Models of tokens and sequences: counts, masks, heads, stacked layers, and what can be cut."""

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax import graph as graph_lib
from dapt_jax.models import attention, layers
from dapt_jax.models import model as models

IMAGE, TEXT = (8, 4, 3), (6,)
_WORDS = {'vocabulary': 11, 'width': 8, 'depth': 1, 'heads': 4, 'mlp_width': 6}
_CELL = {'vocabulary': 11, 'embedding': 5, 'width': 4}
SMALL = {
  'vit': ('vit', {'width': 6, 'depth': 1, 'heads': 3, 'mlp_width': 5}),
  'vit_mean': ('vit', {'width': 6, 'depth': 1, 'heads': 3, 'mlp_width': 5, 'pool': 'mean'}),
  'mixer': ('mixer', {'width': 6, 'depth': 1, 'token_mlp_width': 3, 'channel_mlp_width': 5}),
  'encoder': ('encoder', _WORDS),
  'encoder_rms': ('encoder', {**_WORDS, 'kv_heads': 2, 'norm': 'rms', 'pool': 'mean'}),
  'encoder_scan': ('encoder', {**_WORDS, 'depth': 2, 'scan_layers': True}),
  'lstm': ('lstm', _CELL),
  'gru': ('gru', _CELL),
}
#: Token ids; the second example has two positions of padding.
TOKENS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 0, 0]], np.int32)


def _small(which, text=TEXT, **config):
  name, small = SMALL[which]
  shape = IMAGE if name in ('vit', 'mixer') else text
  config = {**small, **config}
  return models.create(name, input_shape=shape, num_classes=3, lowering='lax', **config)


def _example(model):
  return TOKENS if model.input_shape == TEXT else nets.images(2, IMAGE)


def _count(name, input_shape, num_classes, **config):
  model = models.create(name, input_shape=input_shape, num_classes=num_classes, **config)
  return sum(v.size for v in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))


@pytest.mark.parametrize('scan_layers', [False, True])
def test_golden_count_of_bert_base(scan_layers):
  base = {'vocabulary': 30522, 'width': 768, 'depth': 12, 'heads': 12, 'mlp_width': 3072}
  # BERT-base has 109,482,240 with two token types and a pooler, which this encoder lacks.
  body = 109_482_240 - 2 * 768 - (768 * 768 + 768)
  assert _count('encoder', (512,), 2, scan_layers=scan_layers, **base) == body + 2 * 768 + 2


@pytest.mark.parametrize(
  ('name', 'count', 'config'),
  [
    ('vit_b16', 86_567_656, {}),
    ('vit_s16', 22_050_664, {}),
    (
      'mixer',
      59_880_472,
      {
        **{'patch': 16, 'width': 768, 'depth': 12},
        **{'token_mlp_width': 384, 'channel_mlp_width': 3072},
      },
    ),
  ],
)
def test_golden_counts_on_imagenet(name, count, config):
  assert _count(name, (224, 224, 3), 1000, **config) == count


@pytest.mark.parametrize(('name', 'biases'), [('lstm', 4), ('gru', 4)])
def test_golden_counts_of_cells(name, biases):
  gates = {'lstm': 4, 'gru': 3}[name]
  body = gates * (5 + 4) * 4 + biases * 4
  assert _count(name, TEXT, 3, **_CELL) == 11 * 5 + body + (4 + 1) * 3


@pytest.mark.parametrize('which', SMALL)
def test_results_gradients_and_features(which):
  model = _small(which)
  variables = nets.randomised(jax.eval_shape(model.init, jax.random.key(0)))
  x = _example(model)

  def loss(variables):
    logits, state = model.apply_train(variables, x)
    return jnp.sum(jnp.sin(logits)), (logits, state, model.features(variables, x))

  grads, (logits, state, features) = jax.jit(jax.grad(loss, has_aux=True))(variables)
  head = variables['params']['head']
  assert logits.shape == (2, 3) and state == {}
  assert float(jnp.abs(logits[0] - logits[1]).max()) > 1e-3
  np.testing.assert_allclose(features @ head['kernel'] + head['bias'], logits, atol=1e-5)
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    assert bool(jnp.all(jnp.isfinite(leaf))), name
    # Softmax does not see what shifts all scores of a query, LayerNorm what shifts a whole token.
    quiet = name.endswith(('attention/key/bias', 'token_mlp/down/bias'))
    assert (float(jnp.abs(leaf).max()) > 1e-4) != quiet, name


def test_every_lowering_of_the_patches():
  x, results = nets.images(2, IMAGE), []
  for lowering in ('lax', 'patches', 'auto'):
    name, config = SMALL['vit']
    model = models.create(name, input_shape=IMAGE, num_classes=3, lowering=lowering, **config)
    variables = nets.randomised(jax.eval_shape(model.init, jax.random.key(0)))
    results.append(jax.jit(model.apply)(variables, x))
  np.testing.assert_allclose(results[1], results[0], atol=1e-5)
  np.testing.assert_allclose(results[2], results[0], atol=1e-5)


@pytest.mark.parametrize(
  ('which', 'pool'),
  [('encoder', 'first'), ('encoder', 'mean'), ('encoder_scan', 'mean'), ('lstm', ''), ('gru', '')],
)
def test_padding_changes_nothing(which, pool):
  config = {'pool': pool} if pool else {}
  long, short = _small(which, **config), _small(which, text=(4,), **config)
  variables = nets.randomised(jax.eval_shape(long.init, jax.random.key(0)))
  cut = jax.tree.map(lambda leaf: leaf, variables)
  if pool:
    cut['params']['position'] = variables['params']['position'][:4]
  padded = np.concatenate([TOKENS[:, :4], np.zeros((2, 2), np.int32)], axis=1)
  wanted = jax.jit(short.apply)(cut, TOKENS[:, :4])
  apply = jax.jit(long.apply)
  np.testing.assert_allclose(apply(variables, padded), wanted, atol=1e-5)
  assert float(jnp.abs(apply(variables, TOKENS)[0] - wanted[0]).max()) > 1e-2
  nothing = np.zeros_like(TOKENS)
  assert bool(jnp.all(jnp.isfinite(apply(variables, nothing))))


@pytest.mark.parametrize('norm', ['layer', 'rms'])
def test_stacked_layers_are_the_unrolled_ones(norm):
  unrolled, stacked = _small('encoder', depth=2, norm=norm), _small('encoder_scan', norm=norm)
  variables = nets.randomised(jax.eval_shape(unrolled.init, jax.random.key(0)))
  params = dict(variables['params'])
  blocks = [params.pop(f'layer{i}') for i in (1, 2)]
  params['layers'] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
  shapes = jax.eval_shape(stacked.init, jax.random.key(0))
  assert jax.eval_shape(lambda: {'params': params}) == shapes
  wanted = jax.jit(unrolled.apply)(variables, TOKENS)
  np.testing.assert_allclose(jax.jit(stacked.apply)({'params': params}, TOKENS), wanted, atol=1e-5)


def _attend(x, params=None, mask=None, **fields):
  module = attention.Attention(**fields)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  params = nets.randomised(shapes)['params'] if params is None else params
  return jax.jit(module.apply)({'params': params}, x, mask), params


def test_attention_against_numpy():
  x = nets.images(2, (5, 6))
  mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]], bool)
  found, p = _attend(x, mask=mask, heads=2)
  q, k, v = (np.einsum('btd,dhc->bhtc', x, p[n]['kernel']) for n in ('query', 'key', 'value'))
  q, k, v = (a + p[n]['bias'][:, None] for a, n in ((q, 'query'), (k, 'key'), (v, 'value')))
  scores = np.where(mask[:, None, None], np.exp(q @ k.swapaxes(2, 3) / np.sqrt(3)), 0)
  mixed = scores / scores.sum(-1, keepdims=True) @ v
  wanted = np.einsum('bhtc,hcd->btd', mixed, p['output']['kernel']) + p['output']['bias']
  np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_grouped_queries_are_plain_attention_with_shared_keys():
  x = nets.images(2, (5, 8))
  found, params = _attend(x, heads=4, kv_heads=2)
  assert params['query']['kernel'].shape == (8, 2, 2, 2)
  assert params['key']['kernel'].shape == (8, 2, 2)
  assert params['output']['kernel'].shape == (2, 2, 2, 8)
  plain = {
    'query': {'kernel': params['query']['kernel'].reshape(8, 4, 2)},
    'output': {**params['output'], 'kernel': params['output']['kernel'].reshape(4, 2, 8)},
  }
  plain['query']['bias'] = params['query']['bias'].reshape(4, 2)
  for name in ('key', 'value'):
    shared = params[name]
    plain[name] = {
      'kernel': shared['kernel'].repeat(2, axis=1),
      'bias': shared['bias'].repeat(2, axis=0),
    }
  wanted = _attend(x, plain, heads=4)[0]
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  np.testing.assert_array_equal(_attend(x, plain, heads=4, kv_heads=4)[0], wanted)


def test_scale_of_the_original_width_outlives_narrower_heads():
  x = nets.images(2, (5, 8))
  _, params = _attend(x, heads=2)
  params = jax.tree.map(np.copy, params)
  cut = {'output': {**params['output'], 'kernel': params['output']['kernel'][:, :3]}}
  for name in ('query', 'key', 'value'):
    cut[name] = {n: leaf[..., :3] for n, leaf in params[name].items()}
    for leaf in params[name].values():
      leaf[..., 3:] = 0  # a dead position of every head
  wide = _attend(x, params, heads=2)[0]
  narrow = lambda scale: _attend(x, cut, heads=2, head_width=3, scale=scale)[0]
  np.testing.assert_allclose(narrow(4**-0.5), wide, atol=1e-5)
  assert float(jnp.abs(narrow(None) - wide).max()) > 1e-3


@pytest.mark.parametrize(
  ('path', 'shape', 'fan'),
  [
    ('head/kernel', (5, 3), 5),
    ('stem/conv/kernel', (3, 3, 4, 8), 36),
    ('layer1/attention/query/kernel', (8, 4, 2), 8),
    ('layer1/attention/query/kernel', (8, 2, 2, 2), 8),
    ('layer1/attention/output/kernel', (2, 2, 2, 8), 8),
    ('layers/attention/key/kernel', (3, 8, 4, 2), 8),
    ('layers/mlp/up/kernel', (3, 8, 6), 8),
    ('token/embedding', (100, 16), 16),
    ('position', (6, 8), 8),
    ('class_token', (8,), 0),
    ('head/bias', (3,), 0),
    ('layers/norm1/scale', (3, 8), 0),
  ],
)
def test_fan_in(path, shape, fan):
  assert layers.fan_in(['params', *path.split('/')], shape) == fan


def test_initial_deviations():
  model = _small('encoder_scan', width=32, vocabulary=200)
  params = jax.jit(model.init)(jax.random.key(0))['params']
  deviation = lambda leaf: float(jnp.std(leaf)) * np.sqrt(32)
  block = params['layers']['attention']
  for leaf in (params['token']['embedding'], *(block[n]['kernel'] for n in block)):
    np.testing.assert_allclose(deviation(leaf), 1.0, rtol=0.1)
  assert float(jnp.abs(block['query']['kernel'][0] - block['query']['kernel'][1]).max()) > 0.1
  np.testing.assert_array_equal(params['layers']['norm1']['scale'], 1.0)


@pytest.mark.parametrize(
  ('name', 'shape', 'config', 'message'),
  [
    ('vit', (8, 8), {}, r"input_shape=\(8, 8\) of 'vit' must be \(H, W, C\)"),
    ('encoder', (8, 8, 3), {}, r"of 'encoder' must be \(T\)"),
    ('vit', (9, 8, 3), {}, r'patch=4 must divide.*\(9, 8, 3\)'),
    ('mixer', (8, 8, 3), {'patch': 3}, 'patch=3 must divide'),
    ('vit', (8, 8, 3), {'heads': 5}, 'heads=5 must divide width=192'),
    ('vit', (8, 8, 3), {'pool': 'first'}, "pool='first'.*token"),
    ('encoder', (8,), {'kv_heads': 3}, 'kv_heads=3 must divide heads=4'),
    ('encoder', (8,), {'norm': 'batch'}, "norm='batch'.*rms"),
    ('encoder', (8,), {'pool': 'token'}, "pool='token'.*first"),
    ('vit_b16', (32, 32, 3), {'width': 4}, r"\['width'\].*pool"),
    ('lstm', (8,), {'cell': 'gru'}, r"\['cell'\].*embedding"),
  ],
)
def test_create_refuses(name, shape, config, message):
  with pytest.raises(ValueError, match=message):
    models.create(name, input_shape=shape, num_classes=3, **config)


def test_apply_refuses_what_is_no_token():
  model = _small('encoder')
  variables = jax.eval_shape(model.init, jax.random.key(0))
  with pytest.raises(ValueError, match=r'\(2, 4\); expected \(batch, \*\(6,\)\)'):
    model.apply(variables, TOKENS[:, :4])
  with pytest.raises(ValueError, match='dtype float32; give token ids as int32'):
    model.apply(variables, TOKENS.astype(np.float32))


@pytest.mark.parametrize('which', ['vit', 'vit_mean', 'mixer', 'encoder', 'encoder_rms'])
def test_masked_is_shrunk(which):
  model = _small(which)
  variables = nets.randomised(jax.eval_shape(model.init, jax.random.key(0)))
  x = _example(model)
  is_image = model.input_shape == IMAGE
  with jax.enable_x64(True):  # some gradients are exactly zero, which rounding hides
    variables = jax.tree.map(np.float64, variables)
    x = x.astype(np.float64) if is_image else x
    graph = graph_lib.trace(model.apply, variables, x[:1])
    compare = nets.Comparison(graph, variables, gradients=is_image)
    arch = nets.architecture(nets.random_gates(graph, 0))
    compare.check(arch, x, tolerance=1e-8, grad_tolerance=1e-8)


def test_a_head_is_a_unit_of_all_four_kernels():
  model = _small('encoder_rms')
  variables = jax.eval_shape(model.init, jax.random.key(0))
  graph = graph_lib.trace(model.apply, variables, TOKENS)
  parts = lambda group: {(graph.tree.names[s.leaf], s.axis) for s in group.slices}
  kernel = lambda name: f'layer1/attention/{name}/kernel'
  shared = {(kernel(n), 1) for n in ('query', 'key', 'value')} | {(kernel('output'), 0)}
  own = {(kernel('query'), 2), (kernel('output'), 1)}
  found = [parts(group) for group in graph.gated_groups.values()]
  assert any(shared <= group for group in found)
  assert any(own <= group and not shared & group for group in found)
