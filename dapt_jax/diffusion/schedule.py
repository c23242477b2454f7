"""How much of the data and how much noise a state holds at time t.

Every process here is x_t = alpha(t) x_0 + sigma(t) epsilon with epsilon ~ N(0, I). Time runs from
t = 0, the data, to t = 1, (almost) pure noise, whatever the process. A process knows three things:
alpha and sigma `at` a time, how to `draw` a time for training, and the `nodes` a sampler visits.
Nodes are NumPy's, in double precision: a sampler's coefficients are differences of them, and what
is known before compilation need not be compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.types import PRNGKey

# Above this share of the data's variance in the last state, sampling from N(0, I) starts elsewhere
# than training ended.
_MOST_LEFT = 0.01


class Nodes(NamedTuple):
  """Where a sampler stops on its way from noise to data.

  Attributes:
    t: f64[num_steps + 1], times from 1 down to 0.
    alpha: f64[num_steps + 1], factor of the data.
    sigma: f64[num_steps + 1], standard deviation of the noise.
  """

  t: np.ndarray
  alpha: np.ndarray
  sigma: np.ndarray


class Schedule(NamedTuple):
  """Noise in T steps with alpha^2 + sigma^2 = 1 (Ho et al., 2020, equation 4).

  Step i has the time i / T; step 0 is the data. Made by `create`.

  Attributes:
    alpha: f64[T + 1], NumPy, factor of the data after every step.
    sigma: f64[T + 1], NumPy, standard deviation of the noise after every step.
  """

  alpha: np.ndarray
  sigma: np.ndarray

  @property
  def num_steps(self) -> int:
    """T."""
    return self.alpha.shape[0] - 1

  @property
  def alpha_bar(self) -> jax.Array:
    """f32[T], share of the data in the variance after steps 1 to T."""
    return jnp.asarray(np.square(self.alpha[1:]), jnp.float32)

  def at(self, t: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """(alpha, sigma), f32, of times in [0, 1] of any shape; each is that of the nearest step."""
    step = jnp.rint(jnp.asarray(t) * self.num_steps).astype(jnp.int32)
    return jnp.asarray(self.alpha, jnp.float32)[step], jnp.asarray(self.sigma, jnp.float32)[step]

  def draw(self, key: PRNGKey) -> jax.Array:
    """A time f32[], each of the steps 1 to T being equally likely."""
    return jax.random.randint(key, (), 1, self.num_steps + 1) / self.num_steps

  def nodes(self, num_steps: int) -> Nodes:
    """The nodes of a sampler.

    They are the steps nearest to equal distances of sigma / (alpha + sigma), all different. In this
    measure every process is the straight one, whose nodes are equally spaced in time.

    Args:
      num_steps: moves of the sampler, at most T.

    Raises:
      ValueError: for a number out of range.
    """
    _check_moves(num_steps, self.num_steps)
    share = self.sigma / (self.alpha + self.sigma)
    wanted = np.linspace(share[-1], 0.0, num_steps + 1)
    steps = np.rint(np.interp(wanted, share, np.arange(self.num_steps + 1)))
    # Where neighbours share a step, earlier ones move up, but not above their place in a full run.
    count = np.arange(num_steps + 1)
    steps = np.maximum.accumulate((steps + count)[::-1])[::-1] - count
    steps = np.minimum(steps, self.num_steps - count).astype(int)
    return Nodes(steps / self.num_steps, self.alpha[steps], self.sigma[steps])


class Straight(NamedTuple):
  """The straight path of flow matching, alpha = 1 - t, sigma = t, in continuous time.

  Lipman et al. (2023), with no noise left on the data, and rectified flow (Liu et al., 2023). Both
  count time from noise to data; here it runs as in all other processes.
  """

  def at(self, t: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """(alpha, sigma), f32, of times in [0, 1] of any shape."""
    return 1.0 - jnp.asarray(t), jnp.asarray(t)

  def draw(self, key: PRNGKey) -> jax.Array:
    """A time f32[], uniform in [0, 1)."""
    return jax.random.uniform(key)

  def nodes(self, num_steps: int) -> Nodes:
    """Nodes equally spaced in time.

    Args:
      num_steps: moves of the sampler.

    Raises:
      ValueError: for a number below 1.
    """
    _check_moves(num_steps, None)
    times = np.linspace(1.0, 0.0, num_steps + 1)
    return Nodes(times, 1.0 - times, times)


#: A process: what `objective` and `sampler` need to know of the noise.
Process: TypeAlias = Schedule | Straight


def log_snr(process: Process, t: jax.Array | float) -> jax.Array:
  """Logarithm of the signal-to-noise ratio, ln(alpha^2 / sigma^2) (Kingma et al., 2021).

  Args:
    process: any process.
    t: times in [0, 1], of any shape.

  Returns:
    f32 of the shape of `t`; infinite where there is no noise or no data.
  """
  alpha, sigma = process.at(t)
  return 2.0 * (jnp.log(alpha) - jnp.log(sigma))


def create(name: str, num_steps: int = 1024) -> Schedule:
  """Makes a schedule.

  Args:
    name: one of `NAMES`. 'linear_sqrt': beta = linspace(sqrt(.0015), sqrt(.0155), T)^2, the
      schedule of D2NWG's public code (Soro et al., 2025), in form that of latent diffusion (Rombach
      et al., 2022). 'cosine': Nichol and Dhariwal (2021, equation 17).
    num_steps: T, the number of noise steps in training; a sampler may take fewer.

  Returns:
    A `Schedule`.

  Raises:
    ValueError: for an unknown name, fewer than two steps, or a schedule that ends with data left in
      the noise.
  """
  if name not in _BETAS:
    raise ValueError(f'unknown schedule {name!r}: choose one of {", ".join(NAMES)}')
  if num_steps < 2:
    raise ValueError(f'num_steps={num_steps}: a schedule needs at least 2 steps, 1000 are usual')
  beta = _BETAS[name](num_steps)
  alpha_bar = np.concatenate([[1.0], np.cumprod(1.0 - beta)])
  if alpha_bar[-1] > _MOST_LEFT:
    raise ValueError(
      f'schedule {name!r} with num_steps={num_steps} ends with {alpha_bar[-1]:.2g} of the variance '
      f'being data, where at most {_MOST_LEFT} may be: take more steps (its betas are meant for '
      "about 1000), or the schedule 'cosine', which fits any number; samplers take few steps of a "
      'long schedule'
    )
  return Schedule(np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar))


def _linear_sqrt(num_steps: int) -> np.ndarray:
  return np.linspace(np.sqrt(0.0015), np.sqrt(0.0155), num_steps) ** 2


def _cosine(num_steps: int) -> np.ndarray:
  offset, largest = 0.008, 0.999  # the paper's constants
  time = np.arange(num_steps + 1) / num_steps
  alpha_bar = np.cos((time + offset) / (1 + offset) * np.pi / 2) ** 2
  return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], largest)


_BETAS: dict[str, Callable[[int], np.ndarray]] = {'linear_sqrt': _linear_sqrt, 'cosine': _cosine}

#: The names `create` knows.
NAMES = tuple(_BETAS)


def _check_moves(num_steps: int, most: int | None) -> None:
  if num_steps < 1 or (most is not None and num_steps > most):
    limit = 'at least 1' if most is None else f'from 1 to the {most} steps of the schedule'
    raise ValueError(f'num_steps={num_steps} of a sampler must be {limit}')
