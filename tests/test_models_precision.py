import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax.models import model as model_lib
from dapt_jax.models import norm, precision

NETWORKS = {
  'mlp': {'input_shape': (6, 6, 1), 'widths': (16,)},
  'convnet': {'input_shape': (8, 8, 1), 'stages': ((8,), (8,))},
  'multibranch': {'input_shape': (6, 6, 1), 'widths': (4,), 'cells': 1, 'reductions': ()},
}


def made(name, in_loop=False):
  model = model_lib.create(name, num_classes=3, in_loop=in_loop, **NETWORKS[name])
  images = jax.random.normal(jax.random.key(1), (16, *model.input_shape))
  return model, model.init(jax.random.key(0)), images


def products(jaxpr):
  """Types of the operands of all products and convolutions."""
  found = []
  for equation in jaxpr.eqns:
    if equation.primitive.name in ('dot_general', 'conv_general_dilated'):
      found += [v.aval.dtype for v in equation.invars]
    inner = jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, 'jaxpr'))
    found += [t for p in inner if hasattr(p, 'jaxpr') for t in products(p.jaxpr)]
  return found


@pytest.mark.parametrize('name', list(NETWORKS))
def test_layers_compute_in_bfloat16_and_all_else_is_float32(name):
  model, variables, images = made(name, in_loop=True)
  short = precision.compute_in(model, 'bfloat16')

  def loss(variables, model):
    logits, state = model.apply_train(variables, images)
    return jnp.square(logits).mean(), (logits, state)

  find = lambda m: jax.jit(jax.value_and_grad(lambda v: loss(v, m), has_aux=True))(variables)
  types = products(jax.make_jaxpr(lambda v: loss(v, short))(variables).jaxpr)
  assert types and all(t == jnp.bfloat16 for t in types)
  whole, found = find(model), find(short)
  assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype('float32')}
  assert jax.tree.structure(whole) == jax.tree.structure(found)
  for a, b in zip(whole[0][1][0], found[0][1][0]):
    assert not np.array_equal(a, b)
    np.testing.assert_allclose(a, b, atol=0.05 * float(jnp.abs(whole[0][1][0]).max()))


def test_statistics_of_bfloat16_are_taken_in_float32():
  module = norm.BatchNorm()
  x = (100 + jax.random.normal(jax.random.key(0), (4096, 2))).astype(jnp.bfloat16)
  variables = module.init(jax.random.key(0), x)
  out, state = module.apply(variables, x, train=True, mutable=['batch_stats'])
  exact = np.asarray(x, np.float64)
  assert out.dtype == jnp.bfloat16
  assert state['batch_stats']['mean'].dtype == jnp.float32
  np.testing.assert_allclose(state['batch_stats']['mean'], exact.mean(0), rtol=1e-5)
  np.testing.assert_allclose(state['batch_stats']['var'], exact.var(0), rtol=1e-3)


def test_float32_is_the_model_itself_and_other_names_are_refused():
  model, _, _ = made('mlp')
  assert precision.compute_in(model, 'float32') is model
  with pytest.raises(ValueError, match="precision is 'float16'; choose one of"):
    precision.compute_in(model, 'float16')
