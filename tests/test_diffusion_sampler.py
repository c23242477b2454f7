import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_toys import ALL, gaussian

from dapt_jax.diffusion import sampler

MEAN, DEVIATION, SIZE = 1.5, 0.4, 4000


@functools.cache
def compiled(name, deviation=DEVIATION, free_mean=0.0, guided=False, **options):
  """`(condition, weight) -> samples [rows, 2]` by the exact denoiser; compiled once per file."""
  field, key = gaussian(ALL[name], deviation, free_mean), jax.random.key(0)
  return jax.jit(
    lambda condition, weight: sampler.sample(
      field, ALL[name], condition, (2,), key, guidance=weight if guided else None, **options
    )
  )


def draw(name, size=SIZE, guidance=None, **options):
  """Samples [size, 2] of N(MEAN, deviation^2)."""
  call = compiled(name, guided=guidance is not None, **options)
  return np.asarray(call(jnp.full((size, 1), MEAN), guidance))


@pytest.mark.parametrize('name', ['epsilon', 'v', 'flow'])
@pytest.mark.parametrize('method', sampler.METHODS)
def test_every_method_draws_the_right_gaussian(name, method):
  steps = 500 if method == 'ddpm' else 100
  drawn = draw(name, method=method, num_steps=steps)
  assert drawn.shape == (SIZE, 2) and drawn.dtype == np.float32
  # 3 standard errors, and what the start from N(0, 1) instead of the last state's law leaves.
  assert drawn.mean() == pytest.approx(MEAN, abs=0.035)
  assert drawn.std() == pytest.approx(DEVIATION, rel=0.03)
  assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0.0, abs=0.05)


def test_noise_of_ddim_keeps_the_law_and_changes_the_samples():
  noisy = draw('v', num_steps=100, eta=0.5)
  assert noisy.std() == pytest.approx(DEVIATION, rel=0.05)
  assert np.abs(noisy - draw('v', method='ddim', num_steps=100)).mean() > 0.1


def test_ddim_with_all_its_noise_is_ddpm():
  ddpm = draw('epsilon', method='ddpm', num_steps=500)
  np.testing.assert_allclose(draw('epsilon', num_steps=500, eta=1.0), ddpm, atol=1e-5)


def test_ddpm_takes_the_ancestral_step_of_ho_et_al():
  """Mean and deviation of one move against the textbook's, in beta and alpha_bar."""
  plan = sampler._plan(ALL['epsilon'].process.nodes(1000), 1.0, False)
  bar = np.concatenate([[1.0], np.cumprod(1 - np.linspace(0.0015**0.5, 0.0155**0.5, 1000) ** 2)])
  now, then = bar[600], bar[599]
  at, beta = 1000 - 600, 1 - now / then
  assert plan.spread[at] == pytest.approx(np.sqrt(beta * (1 - then) / (1 - now)), rel=1e-9)
  assert plan.pull[at] == pytest.approx(np.sqrt(then) * beta / (1 - now), rel=1e-9)
  of_x = np.sqrt(1 - beta) * (1 - then) / (1 - now)
  assert plan.keep[at] == pytest.approx(of_x, rel=1e-9)


@pytest.mark.parametrize('name', ['epsilon', 'v', 'flow'])
def test_second_order_is_nearer_to_the_exact_solution(name):
  options = {'size': 200, 'deviation': 0.7}
  exact = draw(name, method='heun', num_steps=400, **options)
  error = {
    method: np.abs(draw(name, method=method, num_steps=8, **options) - exact).max()
    for method in ('ddim', 'dpm_solver', 'heun')
  }
  assert error['dpm_solver'] < 0.6 * error['ddim']
  assert error['heun'] < 0.6 * error['ddim']


def test_halving_the_step_divides_the_error_by_two_or_four():
  options = {'size': 200, 'deviation': 0.7}
  exact = draw('flow', method='heun', num_steps=400, **options)
  error = lambda method, steps: np.abs(
    draw('flow', method=method, num_steps=steps, **options) - exact
  ).max()
  assert 1.7 < error('ddim', 20) / error('ddim', 40) < 2.4
  assert 3.0 < error('heun', 20) / error('heun', 40) < 5.0


def test_ddim_on_the_straight_path_is_eulers_method():
  goal = ALL['flow']
  field = gaussian(goal, DEVIATION)
  condition, steps = jnp.full((5, 1), MEAN), 8
  x = start = jax.random.normal(jax.random.split(jax.random.key(0))[0], (5, 2))
  for i in range(steps):
    t = jnp.full(5, 1 - i / steps)
    x = x - field(x, t, condition, jnp.zeros(5, bool)) / steps
  np.testing.assert_allclose(draw('flow', size=5, num_steps=steps), x, atol=1e-5)
  assert np.abs(x - start).min() > 1e-3


@pytest.mark.parametrize('name', ['sample', 'flow'])
def test_guidance_is_linear_in_the_mean_of_gaussians(name):
  """With equal deviations the guided law is N(free + w (mean - free), deviation^2)."""
  options = {'free_mean': 0.5, 'method': 'dpm_solver', 'num_steps': 40}
  for weight in (0.0, 1.0, 2.5):
    drawn = draw(name, guidance=weight, **options)
    assert drawn.mean() == pytest.approx(0.5 + weight * (MEAN - 0.5), abs=0.05)
    assert drawn.std() == pytest.approx(DEVIATION, rel=0.04)


def test_weight_one_is_no_guidance_and_rows_may_have_weights_of_their_own():
  options = {'free_mean': -1.0, 'size': 4, 'num_steps': 5}
  plain = draw('v', **options)
  np.testing.assert_allclose(draw('v', guidance=1.0, **options), plain, atol=1e-5)
  weights = jnp.array([1.0, 3.0, 1.0, 0.0])
  mixed = draw('v', guidance=weights, **options)
  np.testing.assert_allclose(mixed[::2], plain[::2], atol=1e-5)
  np.testing.assert_allclose(mixed[1], draw('v', guidance=3.0, **options)[1], atol=1e-5)


def test_a_changed_weight_or_condition_compiles_nothing_new():
  traces = []

  def denoiser(x, t, condition, drop):
    traces.append(x.shape)
    return gaussian(ALL['v'], DEVIATION)(x, t, condition, drop)

  call = jax.jit(
    lambda c, w: sampler.sample(
      denoiser, ALL['v'], c, (2,), jax.random.key(0), num_steps=5, guidance=w
    )
  )
  first = call(jnp.ones((3, 1)), 1.0)
  seen = len(traces)
  assert not np.allclose(first, call(2 * jnp.ones((3, 1)), 2.0))
  assert len(traces) == seen and set(traces) == {(6, 2)}


def test_one_step_returns_the_estimate_of_the_data():
  for method in sampler.METHODS:
    drawn = draw('v', method=method, num_steps=1, deviation=0.01)
    np.testing.assert_allclose(drawn, MEAN, atol=0.01)


def test_bad_input():
  goal, field, key = ALL['v'], gaussian(ALL['v'], 1.0), jax.random.key(0)
  rows = jnp.ones((3, 1))
  call = lambda condition=rows, denoiser=field, **options: sampler.sample(
    denoiser, goal, condition, (2,), key, **options
  )
  with pytest.raises(ValueError, match=r"unknown method 'euler'.*Euler's method is 'ddim'"):
    call(method='euler')
  with pytest.raises(ValueError, match='num_steps=1001 of a sampler must be from 1 to the 1000'):
    call(num_steps=1001)
  with pytest.raises(ValueError, match=r"eta=0\.5 belongs to method 'ddim'.*'heun'"):
    call(method='heun', eta=0.5)
  with pytest.raises(ValueError, match='eta=2 must be from 0'):
    call(eta=2)
  with pytest.raises(ValueError, match='same leading axis'):
    call(condition={'a': jnp.ones((3, 1)), 'b': jnp.ones((2, 1))})
  with pytest.raises(ValueError, match=r'guidance has shape \(2,\).*each of the 3 rows'):
    call(guidance=jnp.ones(2))
  with pytest.raises(ValueError, match=r'states of shape \(3, 2\) into \(3, 1\)'):
    call(denoiser=lambda x, t, c, d: x[:, :1])
