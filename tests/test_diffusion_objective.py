import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_toys import ALL

from dapt_jax.diffusion import objective, schedule


@pytest.fixture(params=objective.NAMES)
def goal(request):
  return ALL[request.param]


def test_the_true_target_gives_back_data_and_noise(goal):
  x0, epsilon = jax.random.normal(jax.random.key(0), (2, 64, 5))
  t = jnp.linspace(0.02, 0.9, 64)
  alpha, sigma = (a[:, None] for a in goal.process.at(t))
  x_t = alpha * x0 + sigma * epsilon
  found = goal.recover(x_t, t, goal.target(x0, epsilon, t))
  np.testing.assert_allclose(found[0], x0, atol=2e-5)
  np.testing.assert_allclose(found[1], epsilon, atol=2e-5)


def test_a_training_problem_is_consistent(goal):
  x0 = jax.random.normal(jax.random.key(1), (4000, 3, 2)) + 5.0
  x_t, t, target = jax.jit(goal.noise)(x0, jax.random.key(2))
  assert t.shape == (4000,) and t.min() >= 0 and t.max() <= 1
  alpha, sigma = (a[:, None, None] for a in goal.process.at(t))
  epsilon = (x_t - alpha * x0) / jnp.maximum(sigma, 1e-3)
  usual = np.asarray(t > 0.05)
  assert abs(epsilon[usual].mean()) < 0.02 and abs(epsilon[usual].std() - 1) < 0.02
  np.testing.assert_allclose(goal.target(x0, epsilon, t)[usual], target[usual], atol=1e-2)
  assert len(np.unique(t)) > 900


def test_what_each_name_predicts():
  x0, epsilon, t = jnp.full((1, 2), 3.0), jnp.full((1, 2), 0.5), jnp.array([0.25])
  alpha, sigma = (float(a[0]) for a in ALL['v'].process.at(t))
  expected = {'epsilon': 0.5, 'sample': 3.0, 'v': alpha * 0.5 - sigma * 3.0, 'flow': 0.5 - 3.0}
  for name, value in expected.items():
    assert float(ALL[name].target(x0, epsilon, t)[0, 0]) == pytest.approx(value, rel=1e-5)


def test_noise_belongs_to_an_example_not_to_its_place_in_the_batch(goal):
  x0, key = jax.random.normal(jax.random.key(3), (8, 4)), jax.random.key(4)
  noise = jax.jit(goal.noise)
  whole, part = noise(x0, key), noise(x0[4:], key, 4)
  for a, b in zip(whole, part, strict=True):
    np.testing.assert_allclose(a[4:], b, atol=1e-6)
  assert not np.allclose(whole[0][:4], noise(x0[:4], key, 4)[0])


def test_bad_input():
  with pytest.raises(ValueError, match=r"unknown objective 'eps'.*epsilon, sample, v, flow"):
    objective.create('eps')
  with pytest.raises(ValueError, match=r"'v' needs a schedule.*linear_sqrt, cosine"):
    objective.create('v')
  with pytest.raises(ValueError, match='give it no schedule'):
    objective.create('flow', schedule.create('cosine', 10))
