"""Golden counts, shapes, statistics and errors of the reference models."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax.models import layers, multibranch, norm
from dapt_jax.models import model as models

SMALL = {
  'mlp': {'widths': (16, 8), 'batch_norm': True},
  'convnet': {'stages': ((4, 4), (6,))},
  'resnet20': {'width': 4},
  'multibranch': {'cells': 1, 'widths': (4,), 'reductions': (1,), 'inner': 3},
}
SHAPE = (8, 9, 2)


def _small(name, **options):
  return models.create(name, input_shape=SHAPE, num_classes=3, **SMALL[name], **options)


def _num_params(variables):
  return sum(leaf.size for leaf in jax.tree.leaves(variables['params']))


def _macs(jaxpr):
  """Multiply-accumulates of convolutions and dots in a jaxpr, counted from shapes alone."""
  total = 0
  for eqn in jaxpr.eqns:
    for value in eqn.params.values():
      inner = getattr(value, 'jaxpr', value)
      total += _macs(inner) if hasattr(inner, 'eqns') else 0
    if eqn.primitive.name == 'conv_general_dilated':
      kernel = eqn.invars[1].aval.shape
      width = kernel[eqn.params['dimension_numbers'].rhs_spec[0]]
      total += eqn.outvars[0].aval.size * int(np.prod(kernel)) // width
    elif eqn.primitive.name == 'dot_general':
      lhs, ((contracted, _), _) = eqn.invars[0].aval.shape, eqn.params['dimension_numbers']
      total += eqn.outvars[0].aval.size * int(np.prod([lhs[axis] for axis in contracted]))
  return total


@pytest.mark.parametrize(
  'name,params,macs',
  [
    ('resnet20', 269_722, 40_551_040),
    ('resnet56', 853_018, 125_485_696),
    ('resnet110', 1_727_962, 252_887_680),
    ('vgg16', 14_724_042, 313_201_664),
  ],
)
def test_golden_counts(name, params, macs):
  model = models.create(name, input_shape=(32, 32, 3), num_classes=10, lowering='lax')
  variables = jax.eval_shape(model.init, jax.random.key(0))
  x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  assert _num_params(variables) == params
  assert _macs(jax.make_jaxpr(model.apply)(variables, x).jaxpr) == macs


@pytest.mark.parametrize('name', ['convnet', 'multibranch'])
def test_same_parameters_for_every_lowering(name):
  x = jax.random.normal(jax.random.key(1), (5, *SHAPE))
  labels = jax.nn.one_hot(jnp.arange(5) % 3, 3)
  results = []
  for lowering in ('lax', 'patches'):
    model = _small(name, lowering=lowering)
    variables = jax.jit(model.init)(jax.random.key(0))

    def loss(params, model=model, variables=variables):
      logits, state = model.apply_train({**variables, 'params': params}, x)
      return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), -1)), (logits, state)

    results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params']))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5), *results)
  assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(results))


@pytest.mark.parametrize('name', SMALL)
def test_statistics_and_features(name):
  model = _small(name)
  x = 2.0 + jax.random.normal(jax.random.key(1), (6, *SHAPE))

  @jax.jit
  def run(variables):
    logits, state = model.apply_train(variables, x)
    features = [model.features(variables, x, train=train) for train in (False, True)]
    evaluated = model.apply(variables, x)
    return logits, state, features, evaluated, model.apply({**variables, **state}, x)

  variables = jax.jit(model.init)(jax.random.key(0))
  logits, state, features, evaluated, again = run(variables)
  assert logits.shape == (6, 3) and set(state) == {'batch_stats'}
  assert jax.tree.structure(state['batch_stats']) == jax.tree.structure(variables['batch_stats'])
  # With the statistics of this very batch stored, evaluation is what training computed.
  np.testing.assert_allclose(again, logits, atol=1e-4, rtol=1e-4)
  assert float(jnp.abs(evaluated - logits).max()) > 1e-2
  head = variables['params']['head']
  for read, wanted in zip(features, (evaluated, logits)):
    np.testing.assert_allclose(read @ head['kernel'] + head['bias'], wanted, atol=1e-4, rtol=1e-4)


def test_without_batch_norm_there_is_no_state():
  model = models.create('mlp', input_shape=SHAPE, num_classes=3, widths=[5])
  variables = jax.jit(model.init)(jax.random.key(0))
  assert set(variables) == {'params'}
  assert model.apply_train(variables, jnp.ones((2, *SHAPE)))[1] == {}


def test_batch_norm_statistics_against_numpy():
  x = 100.0 + jax.random.normal(jax.random.key(0), (8, 3, 3, 2))
  module = norm.BatchNorm()
  variables = module.init(jax.random.key(1), x)
  y, state = module.apply(variables, x, train=True, mutable=['batch_stats'])
  mean, var = np.mean(x, (0, 1, 2)), np.var(np.asarray(x, np.float64), (0, 1, 2))
  np.testing.assert_allclose(state['batch_stats']['mean'], mean, rtol=1e-6)
  np.testing.assert_allclose(state['batch_stats']['var'], var, rtol=1e-4)
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-3)
  untouched = module.apply(variables, x, mutable=['batch_stats'])[1]['batch_stats']
  np.testing.assert_array_equal(untouched['mean'], 0.0)


def test_batch_norm_over_devices_is_batch_norm_of_the_whole_batch():
  x = jax.random.normal(jax.random.key(0), (4, 6, 2)) + jnp.arange(4.0)[:, None, None]
  variables = norm.BatchNorm().init(jax.random.key(1), x[0])
  apply = lambda module, x: module.apply(variables, x, train=True, mutable=['batch_stats'])
  whole = apply(norm.BatchNorm(), x.reshape(24, 2))
  parts = jax.vmap(lambda x: apply(norm.BatchNorm(axis_name='d'), x), axis_name='d')(x)
  np.testing.assert_allclose(parts[0].reshape(24, 2), whole[0], atol=1e-5)
  wanted = whole[1]['batch_stats']['var']
  np.testing.assert_allclose(parts[1]['batch_stats']['var'], np.stack([wanted] * 4), rtol=1e-5)


@pytest.mark.parametrize('kind', multibranch.OPERATORS)
def test_scale_and_bias_gate_an_operator(kind):
  x = jax.random.normal(jax.random.key(0), (2, 6, 7, 4))
  operator = multibranch.Operator(kind, 4, inner=3)
  shapes = jax.eval_shape(operator.init, jax.random.key(1), x)
  variables = layers.draw(shapes, jax.random.key(1))
  params = {**variables['params'], 'bn': {'scale': jnp.full(4, 1.5), 'bias': jnp.arange(4.0)}}
  gated = {**params, 'bn': jax.tree.map(lambda leaf: 0.3 * leaf, params['bn'])}
  apply = jax.jit(lambda params: operator.apply({**variables, 'params': params}, x))
  assert apply(params).shape == x.shape
  np.testing.assert_allclose(apply(gated), 0.3 * apply(params), atol=1e-5)


def test_multibranch_paths_and_shapes():
  model = models.create(
    'multibranch', input_shape=SHAPE, num_classes=3, cells=2, widths=[4, 6], reductions=[2], inner=3
  )
  params = jax.eval_shape(model.init, jax.random.key(0))['params']
  assert params['cell1']['conv3x3']['conv']['kernel'].shape == (3, 3, 3, 4)
  assert params['cell1']['conv3x3']['inner']['conv']['kernel'].shape == (1, 1, 4, 3)
  assert params['cell2']['projection']['conv']['kernel'].shape == (1, 1, 4, 6)
  assert params['cell2']['sep3x3']['depthwise']['kernel'].shape == (3, 3, 1, 3)
  assert set(params['cell1']) == set(multibranch.OPERATORS)
  assert params['cell1']['skip']['bn']['scale'].shape == (4,)
  assert params['head']['kernel'].shape == (6, 3)


@pytest.mark.parametrize('name', models.NAMES)
def test_config_is_json_and_rebuilds(name):
  shape = (16,) if name in ('encoder', 'lstm', 'gru') else (16, 16, 1)
  make = lambda **config: models.create(name, input_shape=shape, num_classes=4, **config)
  model = make()
  again = make(**json.loads(json.dumps(model.config)))
  assert again.config == model.config
  shapes = [jax.eval_shape(m.init, jax.random.key(0)) for m in (model, again)]
  assert shapes[0] == shapes[1]


def test_init_has_the_structure_of_the_linen_module():
  module = multibranch.MultiBranch(3, cells=1, widths=(4,), reductions=())
  wanted = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
  model = models.create(
    'multibranch', input_shape=SHAPE, num_classes=3, cells=1, widths=[4], reductions=[]
  )
  variables = jax.jit(model.init)(jax.random.key(0))
  got = jax.eval_shape(lambda: variables)
  assert got == wanted
  np.testing.assert_array_equal(variables['batch_stats']['stem']['bn']['mean'], 0.0)
  np.testing.assert_array_equal(variables['batch_stats']['stem']['bn']['var'], 1.0)


def test_initialisation_is_he_normal():
  model = models.create('convnet', input_shape=SHAPE, num_classes=3, stages=((64, 64),))
  params = jax.jit(model.init)(jax.random.key(0))['params']
  kernel = params['stage1_block2']['conv']['kernel']
  np.testing.assert_allclose(jnp.var(kernel), 2.0 / (9 * 64), rtol=0.05)
  assert float(jnp.abs(kernel).max()) > 3.5 * float(jnp.std(kernel))  # not truncated at 2
  np.testing.assert_array_equal(params['stage1_block2']['bn']['scale'], 1.0)
  np.testing.assert_array_equal(params['head']['bias'], 0.0)


@pytest.mark.parametrize(
  'name,kwargs,message',
  [
    ('resnet19', {}, "'resnet19'.*resnet20"),
    ('resnet20', {'blocks': 4}, r"\['blocks'\].*width"),
    ('mlp', {'width': 4}, r"\['width'\].*widths"),
    ('mlp', {'lowering': 'fast'}, "'fast'"),
    ('mlp', {'input_shape': (4, 4)}, r'\(4, 4\)'),
    ('multibranch', {'operators': ('conv9x9',)}, 'conv9x9.*skip'),
    ('multibranch', {'widths': (4, 4)}, 'each of the 3 cells'),
    ('multibranch', {'reductions': (0,)}, 'between 1 and 3'),
  ],
)
def test_create_refuses(name, kwargs, message):
  with pytest.raises(ValueError, match=message):
    models.create(name, **{'input_shape': SHAPE, 'num_classes': 3, **kwargs})


def test_apply_refuses_another_input_shape():
  model = models.create('mlp', input_shape=SHAPE, num_classes=3)
  with pytest.raises(ValueError, match=r'expected \(batch, \*\(8, 9, 2\)\)'):
    model.apply(model.init(jax.random.key(0)), jnp.ones((2, 4, 4, 2)))
