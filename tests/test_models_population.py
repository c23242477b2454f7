"""A population mapped by loop or vmap is the members one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax.models import model as models
from dapt_jax.models import population

SHAPE = (6, 6, 1)


@pytest.mark.parametrize('method', ['loop', 'vmap'])
def test_equals_members_one_by_one(method):
  model = models.create(
    'multibranch', input_shape=SHAPE, num_classes=3, in_loop=True, cells=1, widths=[3],
    reductions=[], operators=['conv3x3', 'sep3x3', 'max_pool', 'avg_pool'],
  )  # fmt: skip
  variables = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(0), 3))
  x = jax.random.normal(jax.random.key(1), (4, *SHAPE))

  def member(variables, x, weight):
    def loss(params):
      logits, state = model.apply_train({**variables, 'params': params}, x)
      return jnp.sum(jnp.sin(logits)) * weight, state

    return jax.value_and_grad(loss, has_aux=True)(variables['params'])

  weights = jnp.arange(1.0, 4.0)
  mapped = population.map_population(member, (0, None, 0), method=method)
  got = jax.jit(mapped)(variables, x, weights)
  single = jax.jit(member)
  members = [single(jax.tree.map(lambda a, i=i: a[i], variables), x, weights[i]) for i in range(3)]
  wanted = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), got, wanted)


def test_axes_may_be_a_prefix_of_an_argument():
  fn = lambda tree: tree['own'] * tree['shared']
  args = {'own': jnp.arange(3.0), 'shared': jnp.asarray(2.0)}
  for method in ('loop', 'vmap'):
    mapped = population.map_population(fn, ({'own': 0, 'shared': None},), method=method)
    np.testing.assert_array_equal(mapped(args), [0.0, 2.0, 4.0])


def test_maps_typed_keys():
  draw = population.map_population(lambda key: jax.random.normal(key), method='loop')
  keys = jax.random.split(jax.random.key(0), 4)
  np.testing.assert_allclose(draw(keys), jax.vmap(jax.random.normal)(keys), rtol=1e-6)


def test_refuses():
  two, three = jnp.ones((2, 1)), jnp.ones((3, 1))
  add = lambda a, b: a + b
  with pytest.raises(ValueError, match='same leading'):
    population.map_population(add)(two, three)
  with pytest.raises(ValueError, match='no argument is mapped'):
    population.map_population(add, None)(two, two)
  with pytest.raises(ValueError, match='2 entries for 1'):
    population.map_population(add, (0, 0))(two)
  with pytest.raises(ValueError, match='population axis is 0'):
    population.map_population(add, 1)
  with pytest.raises(ValueError, match=r"'scan'.*loop"):
    population.map_population(add, method='scan')
