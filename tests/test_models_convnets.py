"""Golden counts, lowerings and shapes of the convolutional reference models."""

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dapt_jax import graph as graph_lib
from dapt_jax.models import densenet, layers, mobilenet, resnet, transposed
from dapt_jax.models import model as models

SHAPE = (9, 8, 3)
INVERTED = {'stages': ((1, 3, 8, 1, 1), (2, 5, 16, 2, 2)), 'stem_width': 8, 'top_width': 24}
TINY = {
  'resnet18': {'width': 2},
  'densenet': {'blocks': (1, 2), 'growth': 3, 'bottleneck': 2},
  'mobilenetv2': INVERTED,
  'efficientnet_lite0': INVERTED,
  'unet': {'widths': (3, 4)},
}


def _shapes(name, num_classes, size=64, **config):
  model = models.create(name, input_shape=(size, size, 3), num_classes=num_classes, **config)
  return jax.eval_shape(model.init, jax.random.key(0))


@pytest.mark.parametrize(
  'name,num_classes,params',
  [
    ('vgg19', 10, 20_035_018),
    ('resnet18', 1000, 11_689_512),
    ('resnet50', 1000, 25_557_032),
    ('densenet121', 1000, 7_978_856),
    ('mobilenetv2', 1000, 3_504_872),
    ('efficientnet_lite0', 1000, 4_652_008),
    ('unet', 2, 31_038_658),
  ],
)
def test_golden_counts(name, num_classes, params):
  shapes = _shapes(name, num_classes, lowering='lax')
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == params


@pytest.mark.parametrize('name', TINY)
def test_lowerings_and_modes_agree(name):
  x = jax.random.normal(jax.random.key(1), (4, *SHAPE))
  make = lambda lowering: models.create(
    name, input_shape=SHAPE, num_classes=3, lowering=lowering, **TINY[name]
  )
  variables = jax.jit(make('lax').init)(jax.random.key(0))

  def run(lowering):
    model = make(lowering)
    logits, state = model.apply_train(variables, x)
    again = model.apply({**variables, **state}, x)
    return logits, state, again, model.features({**variables, **state}, x)

  results = [jax.jit(run, static_argnums=0)(lowering) for lowering in ('lax', 'auto')]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), *results)
  logits, state, again, features = results[0]
  assert logits.shape == ((4, *SHAPE[:2], 3) if name == 'unet' else (4, 3))
  assert jax.tree.structure(state['batch_stats']) == jax.tree.structure(variables['batch_stats'])
  # With the statistics of this very batch stored, evaluation is what training computed.
  np.testing.assert_allclose(again, logits, atol=1e-4, rtol=1e-4)
  head = variables['params']['head']
  np.testing.assert_allclose(features @ head['kernel'] + head['bias'], again, atol=1e-4, rtol=1e-4)
  assert float(jnp.std(logits)) > 1e-2


@pytest.mark.parametrize('factor', [2, 3])
def test_upsampling_is_a_transposed_convolution(factor):
  x, kernel = (
    jax.random.normal(jax.random.key(i), shape)
    for i, shape in enumerate([(2, 3, 4, 5), (factor, factor, 5, 6)])
  )
  flax = nn.ConvTranspose(6, (factor, factor), (factor, factor), 'VALID', use_bias=False)
  wanted = flax.apply({'params': {'kernel': kernel}}, x)
  results = []
  for lowering in ('lax', 'patches'):
    loss = lambda *args, lowering=lowering: jnp.sum(jnp.sin(transposed.upsample(*args, lowering)))
    results.append((transposed.upsample(x, kernel, lowering), *jax.grad(loss, (0, 1))(x, kernel)))
    np.testing.assert_allclose(results[-1][0], wanted, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *results)


@pytest.mark.parametrize(
  'x,kernel,lowering,message',
  [
    ((1, 2, 2, 3), (2, 2, 4, 1), 'lax', r'\(2, 2, 4, 1\)'),
    ((1, 2, 2, 3), (2, 3, 3, 1), 'lax', 'square'),
    ((1, 2, 2, 3), (2, 2, 3, 1), 'fast', "'fast'"),
  ],
)
def test_upsampling_refuses(x, kernel, lowering, message):
  with pytest.raises(ValueError, match=message):
    transposed.upsample(jnp.ones(x), jnp.ones(kernel), lowering)


def test_resnet50_has_its_stride_in_the_3x3_and_projections_where_the_shape_changes():
  params = _shapes('resnet50', 10, width=8)['params']
  assert params['stem']['conv']['kernel'].shape == (7, 7, 3, 8)
  assert [params['stage2_block1'][f'conv{i}']['kernel'].shape for i in (1, 2, 3)] == [
    (1, 1, 32, 16),
    (3, 3, 16, 16),
    (1, 1, 16, 64),
  ]
  projected = {name for name, part in params.items() if 'projection' in part}
  assert projected == {f'stage{stage}_block1' for stage in (1, 2, 3, 4)}
  # Of a pixel at an odd place, a 1x1 convolution with stride 2 would see nothing.
  block = resnet.Block(4, 2, bottleneck=True, shortcut='pad')
  x = jnp.zeros((1, 4, 4, 4)).at[0, 1, 1].set(1.0)
  variables = jax.jit(block.init)(jax.random.key(0), x)
  assert float(jnp.abs(jax.jit(block.apply)(variables, x)).max()) > 0


def test_small_stem_keeps_the_size():
  for kind, size in (('small', 8), ('imagenet', 2)):
    module = densenet.DenseNet(3, blocks=(1,), growth=2, stem=kind)
    _, state = jax.eval_shape(
      lambda x, module=module: module.init_with_output(
        jax.random.key(0), x, capture_intermediates=True
      ),
      jnp.ones((1, 8, 8, 3)),
    )
    assert state['intermediates']['block1_layer1']['__call__'][0].shape == (1, size, size, 2)


def test_dense_layers_read_everything_before_them():
  params = _shapes('densenet', 3, blocks=(3, 2), growth=4, compression=0.75)['params']
  read = lambda name: params[name]['conv']['kernel'].shape[2]
  assert [read(f'block1_layer{i}_inner') for i in (1, 2, 3)] == [8, 12, 16]
  assert params['transition1']['conv']['kernel'].shape == (1, 1, 20, 15)
  assert [read(f'block2_layer{i}_inner') for i in (1, 2)] == [15, 19]
  assert params['head']['kernel'].shape == (23, 3)


def test_widths_of_mobilenet():
  # A tenth may be lost by rounding, not more: 32 * .35 = 11.2 is not 8.
  assert [mobilenet.scaled(*args) for args in ((32, 1.0), (32, 0.35), (16, 0.1), (24, 0.75))] == [
    32,
    16,
    8,
    24,
  ]
  params = _shapes('mobilenetv2', 10, multiplier=0.5)['params']
  assert params['stem']['conv']['kernel'].shape == (3, 3, 3, 16)
  assert params['top']['conv']['kernel'].shape == (1, 1, 160, 1280)
  assert params['stage2_block1']['depthwise']['conv']['kernel'].shape == (3, 3, 1, 48)
  assert 'expand' not in params['stage1_block1']


def test_residual_only_where_shapes_agree():
  x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
  for width, stride, added in ((8, 1, True), (8, 2, False), (16, 1, False)):
    block = mobilenet.InvertedResidual(width, 2, stride=stride)
    variables = layers.draw(jax.eval_shape(block.init, jax.random.key(1), x), jax.random.key(1))
    variables['params']['project']['bn']['scale'] = jnp.zeros(width)
    wanted = x if added else jnp.zeros((1, 4 // stride, 4 // stride, width))
    np.testing.assert_array_equal(jax.jit(block.apply)(variables, x), wanted)


def test_activation_and_epsilon_of_a_normalised_convolution():
  x = 100.0 * jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
  module = layers.ConvBN(3, 1, activation=nn.relu6, epsilon=3.0)
  variables = layers.draw(jax.eval_shape(module.init, jax.random.key(1), x), jax.random.key(1))
  kernel = variables['params']['conv']['kernel'][0, 0]
  y = module.apply(variables, x)
  np.testing.assert_allclose(y, np.clip(x @ kernel / 2.0, 0.0, 6.0), atol=1e-4)
  assert float(y.min()) == 0.0 and float(y.max()) == 6.0


def test_unet_carries_detail_over_its_skips():
  """A pixel of the finest level reaches the output past a bottom that passes nothing."""
  model = models.create('unet', input_shape=(5, 7, 1), num_classes=2, widths=[3, 4])
  variables = jax.jit(model.init)(jax.random.key(0))
  for name in ('bn1', 'bottom'):
    silent = jax.tree.map(jnp.zeros_like, variables['params'][name])
    variables['params'][name] = silent
  x = jax.random.normal(jax.random.key(1), (1, 5, 7, 1))
  apply = jax.jit(model.apply)
  moved = apply(variables, x.at[0, 4, 6].add(1.0)) - apply(variables, x)
  assert float(jnp.abs(moved[0, 4, 6]).max()) > 1e-3
  np.testing.assert_array_equal(moved[0, 0, 0], 0.0)


@pytest.mark.parametrize(
  'name,config,message',
  [
    ('resnet18', {'stem': 'tiny'}, "'tiny'.*small"),
    ('resnet20', {'shortcut': 'none'}, "'none'.*projection"),
    ('densenet', {'compression': 0.0}, 'compression=0.0'),
  ],
)
def test_bad_fields_are_refused(name, config, message):
  with pytest.raises(ValueError, match=message):
    _shapes(name, 3, **config)


def test_classifiers_are_all_but_the_segmenter():
  assert set(models.NAMES) - set(models.CLASSIFIERS) == {'unet', 'encoder', 'lstm', 'gru'}


@pytest.mark.parametrize('name', list(TINY))
def test_masked_is_shrunk(name):
  apply_fn, params = nets.model(name, input_shape=(9, 8, 3), **TINY[name])
  images = nets.images(2, (9, 8, 3))
  graph = graph_lib.trace(apply_fn, params, images)
  whole = [g.refused for g in graph.groups.values() if g.touching('write') and g.kind == 'channel']
  assert set(whole) <= {'', 'an output of the function'}
  arch = nets.architecture(nets.random_gates(graph, 0))
  nets.assert_masked_is_shrunk(graph, params, arch, images, tolerance=2e-5)
