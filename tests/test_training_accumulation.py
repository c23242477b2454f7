import jax
import jax.numpy as jnp
import numpy as np
import optax
import pruning_toys as toys
import pytest

from dapt_jax import pruning
from dapt_jax.training import accumulation


def problem(examples=12):
  """(loss, params, batch) of a small network with further means."""
  keys = jax.random.split(jax.random.key(0), 3)
  params = {'a': jax.random.normal(keys[0], (5, 64)), 'b': jax.random.normal(keys[1], (64, 3))}
  batch = {
    'x': jax.random.normal(keys[2], (examples, 5)),
    'y': jnp.arange(examples, dtype=jnp.int32) % 3,
  }

  def loss(params, batch):
    logits = jnp.tanh(batch['x'] @ params['a']) @ params['b']
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['y'])
    return losses.mean(), {'right': (logits.argmax(-1) == batch['y']).mean()}

  return loss, params, batch


@pytest.mark.parametrize('parts', (2, 3, 12))
def test_parts_give_value_and_gradient_of_the_whole_batch(parts):
  loss, params, batch = problem()

  def find(function):
    twice = lambda p: jax.tree.map(lambda x: 2 * x, function(p, batch))
    return jax.jit(jax.value_and_grad(twice, has_aux=True))(params)

  whole, found = (find(f) for f in (loss, accumulation.in_parts(loss, parts)))
  assert float(optax.global_norm(whole[1])) > 0.1
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), whole, found)


def test_parts_hold_less_memory():
  loss, params, batch = problem(examples=4096)

  def needed(parts):
    gradient = jax.grad(lambda p, b: accumulation.in_parts(loss, parts)(p, b)[0])
    compiled = jax.jit(gradient).lower(params, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert needed(16) < needed(1) / 8


def test_one_part_is_the_loss_itself():
  loss, _, _ = problem()
  assert accumulation.in_parts(loss, 1) is loss


def test_what_does_not_divide_is_refused():
  loss, params, batch = problem()
  with pytest.raises(ValueError, match='accumulate is 0'):
    accumulation.in_parts(loss, 0)
  with pytest.raises(ValueError, match='a batch of 12 does not divide into accumulate=5'):
    accumulation.in_parts(loss, 5)(params, batch)


def test_a_search_is_the_same_in_parts():
  graph, init, apply = toys.mlp()
  whole = toys.cross_entropy(apply)
  pair = accumulation.in_parts(lambda p, b: (whole(p, b), ()), 4)
  states = []
  for loss in (whole, lambda p, b: pair(p, b)[0]):
    search = toys.search(
      graph,
      loss,
      pruning.weights.fresh(init, lifetime=4, inner_steps=1),
      gate=optax.sgd(0.5),
      weight=optax.sgd(0.05),
      population=2,
      budget=0.5,
      warmup=1,
    )
    state, update = search.init(jax.random.key(3)), jax.jit(search.update)
    for step in range(6):
      state, _ = update(state, toys.batch(step))
    states.append((state.shared.theta, search.params(state)))
  assert np.ptp(np.concatenate([*states[0][0].values()])) > 0.01  # the gates have moved
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *states)
