import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax.diffusion import denoisers, dit, parts

MLP = denoisers.ResidualMLP(width=16, blocks=2)
DIT = dit.DiT(width=16, depth=1, heads=2, mlp_width=24)
SLOTS = denoisers.SlotMLP(shared=1, width=16, blocks=1)
CASES = {
  'mlp': (MLP, (5,), (3,)),
  'slots': (SLOTS, (5,), (2, 3)),
  'dit': (DIT, (4, 5), (3,)),
  'dit_tokens': (DIT, (4, 5), (2, 3)),
}


def setup(name, size=6):
  """(init_fn, predict_fn, x, t, condition, drop); parameters of their own for every weight."""
  module, shape, condition_shape = CASES[name]
  keys = jax.random.split(jax.random.key(0), 3)
  x, condition = (
    jax.random.normal(k, (size, *s)) for k, s in zip(keys[:2], (shape, condition_shape))
  )
  init_fn, predict_fn = denoisers.functions(module, x, condition)
  t, drop = jax.random.uniform(keys[2], (size,)), jnp.arange(size) % 2 == 1
  return init_fn, jax.jit(predict_fn), x, t, condition, drop


def shaken(params):
  """Zero weights hide what they multiply."""
  flat, structure = jax.tree.flatten(params)
  sizes = [p.size for p in flat]
  noise = jnp.split(jax.random.normal(jax.random.key(1), (sum(sizes),)), np.cumsum(sizes)[:-1])
  return jax.tree.unflatten(structure, [p + 0.3 * n.reshape(p.shape) for p, n in zip(flat, noise)])


@pytest.fixture(scope='module', params=CASES)
def case(request):
  init_fn, *rest = setup(request.param)
  return init_fn(jax.random.key(2)), *rest


def test_starts_at_zero_with_the_shape_of_the_state(case):
  params, predict, x, t, condition, drop = case
  np.testing.assert_array_equal(predict(params, x, t, condition, drop), jnp.zeros_like(x))


def test_dropped_rows_see_nothing_of_their_condition_and_others_see_theirs(case):
  params, predict, x, t, condition, drop = case
  params = shaken(params)
  one, other = predict(params, x, t, condition, drop), predict(params, x, t, condition + 1.0, drop)
  np.testing.assert_allclose(one[drop], other[drop], atol=1e-6)
  assert np.abs(one - other)[~drop].max(axis=tuple(range(1, x.ndim))).min() > 1e-3
  kept = predict(params, x, t, condition, jnp.zeros_like(drop))
  np.testing.assert_allclose(kept[~drop], one[~drop], atol=1e-5)
  assert np.abs(kept - one)[drop].max() > 1e-3


def test_rows_do_not_mix_and_the_time_matters(case):
  params, predict, x, t, condition, drop = case
  params = shaken(params)
  y = predict(params, x, t, condition, drop)
  moved = predict(params, x.at[0].add(1.0), t.at[1].set(0.5), condition, drop)
  np.testing.assert_allclose(moved[2:], y[2:], atol=1e-5)
  assert np.abs(moved - y)[0].max() > 1e-3 and np.abs(moved - y)[1].max() > 1e-3


def test_time_features_tell_neighbouring_steps_apart():
  features = parts.time_features(jnp.array([0.0, 0.001, 0.5, 0.501, 1.0]), 32)
  assert features.shape == (5, 32) and np.abs(features).max() <= 1.0
  distance = np.linalg.norm(features[:, None] - features[None], axis=-1)
  assert np.min(distance + 9 * np.eye(5)) > 0.5


def test_tokens_are_told_apart_by_their_position_only():
  *_, x, t, condition, drop = setup('dit_tokens')
  module = dit.DiT(width=8, depth=1, heads=1, mlp_width=8)
  init_fn, predict_fn = denoisers.functions(module, x, condition, position=jnp.eye(4))
  predict_fn = jax.jit(predict_fn)
  params, order = shaken(init_fn(jax.random.key(3))), jnp.array([2, 0, 3, 1])
  at = jax.jit(lambda x, places: module.apply(params, x, t, condition, drop, places))
  y = at(x, jnp.eye(4))
  np.testing.assert_allclose(predict_fn(params, x, t, condition, drop), y, atol=1e-5)
  np.testing.assert_allclose(at(x[:, order], jnp.eye(4)[order]), y[:, order], atol=1e-4)
  assert np.abs(at(x[:, order], jnp.eye(4)) - y[:, order]).max() > 1e-2
  # Where positions are given, other networks may have other numbers of tokens.
  assert at(jnp.concatenate([x, x], axis=1), jnp.ones((8, 4))).shape == (6, 8, 5)


def test_bad_input():
  x, t, condition, drop = jnp.ones((2, 5)), jnp.ones(2), jnp.ones((2, 3)), jnp.zeros(2, bool)
  init = lambda module, *args: module.init(jax.random.key(0), *args)
  with pytest.raises(ValueError, match='width=7 must be even'):
    init(denoisers.ResidualMLP(width=7), x, t, condition, drop)
  with pytest.raises(ValueError, match='2 equal slots'):
    init(denoisers.SlotMLP(shared=2), x, t, jnp.zeros((len(x), 2, 3)), drop)
  with pytest.raises(ValueError, match=r'x_t has shape \(2, 1, 5\): it must have 2 axes'):
    init(MLP, x[:, None], t, condition, drop)
  with pytest.raises(ValueError, match=r'condition has shape \(2,\): it must have 2 or 3 axes'):
    init(DIT, x[:, None], t, jnp.ones(2), drop)
  with pytest.raises(ValueError, match='heads=3 must divide width=16'):
    init(dit.DiT(width=16, heads=3), x[:, None], t, condition, drop)
  with pytest.raises(ValueError, match=r'position has shape \(2, 4\).*each of the 1 tokens'):
    init(DIT, x[:, None], t, condition, drop, jnp.ones((2, 4)))
