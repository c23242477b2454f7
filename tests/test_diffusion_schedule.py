import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax.diffusion import schedule


def test_the_schedule_of_the_paper():
  made = schedule.create('linear_sqrt', 1024)
  beta = np.linspace(np.sqrt(0.0015), np.sqrt(0.0155), 1024) ** 2
  np.testing.assert_allclose(made.alpha_bar, np.cumprod(1 - beta), rtol=1e-5)
  assert float(made.alpha_bar[-1]) == pytest.approx(5.6e-4, rel=0.02)
  assert made.num_steps == 1024 and made.alpha_bar.shape == (1024,)


def test_the_cosine_schedule_in_closed_form():
  made = schedule.create('cosine', 500)
  angle = lambda share: np.cos((share + 0.008) / 1.008 * np.pi / 2) ** 2
  expected = angle(np.arange(1, 500) / 500) / angle(0.0)
  np.testing.assert_allclose(made.alpha_bar[:-1], expected, rtol=1e-4)
  assert float(made.alpha_bar[-1] / made.alpha_bar[-2]) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize('name', schedule.NAMES)
def test_noise_and_data_share_the_variance_to_the_last_digit(name):
  made = schedule.create(name, 1000)
  np.testing.assert_allclose(np.square(made.alpha) + np.square(made.sigma), 1.0, rtol=1e-12)
  assert float(made.alpha[0]) == 1.0 and float(made.sigma[0]) == 0.0
  assert np.all(np.diff(made.sigma) > 0)
  first = {'linear_sqrt': 0.0015, 'cosine': 4.128e-5}[name]
  assert float(made.sigma[1]) ** 2 == pytest.approx(first, rel=1e-3)


def test_times_are_those_of_steps():
  made = schedule.create('linear_sqrt', 1000)
  alpha, sigma = made.at(jnp.array([0.0, 0.001, 0.5, 1.0]))
  np.testing.assert_allclose(alpha, made.alpha[[0, 1, 500, 1000]], rtol=1e-6)
  np.testing.assert_allclose(sigma, made.sigma[[0, 1, 500, 1000]], rtol=1e-6)
  drawn = jax.vmap(made.draw)(jax.random.split(jax.random.key(0), 20000))
  steps = np.asarray(drawn) * 1000
  np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
  assert steps.min() >= 0.9 and steps.max() <= 1000.1
  assert abs(drawn.mean() - 0.5005) < 0.01 and len(np.unique(np.rint(steps))) == 1000


def test_log_snr():
  made = schedule.create('linear_sqrt', 1000)
  bar = made.alpha_bar[299]
  assert float(schedule.log_snr(made, 0.3)) == pytest.approx(float(np.log(bar / (1 - bar))), 1e-4)
  assert float(schedule.log_snr(schedule.Straight(), 0.5)) == 0.0
  assert schedule.log_snr(made, 0.0) == np.inf


@pytest.mark.parametrize('name', schedule.NAMES)
@pytest.mark.parametrize('moves', [1, 2, 7, 30, 250, 999, 1000])
def test_a_sampler_visits_different_steps_from_noise_to_data(name, moves):
  nodes = schedule.create(name, 1000).nodes(moves)
  times = nodes.t * 1000
  np.testing.assert_allclose(times, np.rint(times), atol=1e-3)
  assert times.shape == (moves + 1,) and times[0] == 1000 and times[-1] == 0
  assert np.all(np.diff(times) < -0.5)
  assert (nodes.alpha[-1], nodes.sigma[-1]) == (1, 0)


def test_times_are_equally_spaced_on_the_straightened_path():
  made = schedule.create('linear_sqrt', 1000)
  nodes = made.nodes(10)
  share = nodes.sigma / (nodes.alpha + nodes.sigma)
  np.testing.assert_allclose(np.diff(share), -share[0] / 10, atol=0.03)
  np.testing.assert_allclose(schedule.Straight().nodes(4).t, [1, 0.75, 0.5, 0.25, 0])


def test_bad_input():
  with pytest.raises(ValueError, match=r"unknown schedule 'linear'.*linear_sqrt, cosine"):
    schedule.create('linear')
  with pytest.raises(ValueError, match=r'num_steps=100 ends with 0\.\d+ of.*cosine'):
    schedule.create('linear_sqrt', 100)
  with pytest.raises(ValueError, match='num_steps=1: a schedule needs at least 2'):
    schedule.create('cosine', 1)
  with pytest.raises(ValueError, match='num_steps=101 of a sampler must be from 1 to the 100'):
    schedule.create('cosine', 100).nodes(101)
  with pytest.raises(ValueError, match='num_steps=0 of a sampler must be at least 1'):
    schedule.Straight().nodes(0)
