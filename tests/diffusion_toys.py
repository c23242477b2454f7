"""What the diffusion tests share: data whose best denoiser is known in closed form."""

import jax.numpy as jnp

from dapt_jax.diffusion import objective, schedule

ALL = {
  'epsilon': objective.create('epsilon', schedule.create('linear_sqrt', 1000)),
  'sample': objective.create('sample', schedule.create('linear_sqrt', 1000)),
  'v': objective.create('v', schedule.create('cosine', 1000)),
  'flow': objective.create('flow'),
}


def gaussian(goal, deviation, free_mean=0.0):
  """The exact denoiser of N(condition, deviation^2); dropped rows have the mean `free_mean`."""

  def denoiser(x, t, condition, drop):
    alpha, sigma = (a[:, None] for a in goal.process.at(t))
    mean = jnp.where(drop[:, None], free_mean, condition)
    gain = deviation**2 * alpha / (jnp.square(alpha * deviation) + jnp.square(sigma))
    x0 = mean + gain * (x - alpha * mean)
    return goal.target(x0, (x - alpha * x0) / sigma, t)

  return denoiser
