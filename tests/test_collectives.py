"""Exchanges between devices; here the devices are rows of `vmap`, which has the same axes."""

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax import collectives
from dapt_jax.models import norm


def test_a_mean_is_that_of_every_array():
  tree = {'a': jnp.arange(6.0).reshape(3, 2), 'b': (jnp.array([1.0, 2.0, 6.0]),)}
  found = jax.vmap(lambda t: collectives.mean(t, 'd'), axis_name='d')(tree)
  np.testing.assert_allclose(found['a'], np.tile([2.0, 3.0], (3, 1)))
  np.testing.assert_allclose(found['b'][0], [3.0, 3.0, 3.0])
  assert collectives.mean(tree, None) is tree


def test_a_tree_is_one_exchange():
  tree = {str(i): jnp.ones((3, i + 1)) for i in range(20)}
  program = jax.make_jaxpr(
    lambda t: collectives.mean(t, 'd'), axis_env=[('d', 3)]
  )(tree)  # fmt: skip
  assert str(program).count('psum') == 1


def test_moments_keep_their_digits_and_their_gradient():
  x = 1e3 + jax.random.normal(jax.random.key(0), (4, 50, 3)) * jnp.arange(1.0, 5)[:, None, None]
  weights = jax.random.normal(jax.random.key(1), x.shape)

  def normalised(x, axis_name=None):
    module = norm.BatchNorm(axis_name=axis_name)
    variables = jax.tree.map(jnp.asarray, {
      'params': {'scale': jnp.ones(3), 'bias': jnp.zeros(3)},
      'batch_stats': {'mean': jnp.zeros(3), 'var': jnp.ones(3)},
    })  # fmt: skip
    return module.apply(variables, x, train=True, mutable=['batch_stats'])

  def loss(x, spread):
    if spread:
      out, state = jax.vmap(lambda x: normalised(x, 'd'), axis_name='d')(x)
    else:
      out, state = normalised(x.reshape(-1, 3))
    return (out.reshape(x.shape) * weights).sum(), state['batch_stats']

  whole, spread = (jax.value_and_grad(loss, has_aux=True)(x, s) for s in (False, True))
  exact = np.asarray(x, np.float64).reshape(-1, 3)
  for row in range(4):
    np.testing.assert_allclose(spread[0][1]['mean'][row], exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(spread[0][1]['var'][row], exact.var(0), rtol=1e-3)
  np.testing.assert_allclose(spread[1], whole[1], rtol=1e-3, atol=1e-4)
