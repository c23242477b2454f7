"""What the network predicts, behind one interface for all losses and samplers.

Every target is a mix of data and noise, y = p x_0 + q epsilon, and so is the state that the network
sees, x_t = alpha x_0 + sigma epsilon. The two equations give x_0 and epsilon back.

| name | y | p | q |
| --- | --- | --- | --- |
| epsilon | the noise (Ho et al., 2020) | 0 | 1 |
| sample | the data | 1 | 0 |
| v | the velocity on the circle (Salimans and Ho, 2022, appendix D) | -sigma | alpha |
| flow | the velocity dx/dt of the straight path (Lipman et al., 2023) | -1 | 1 |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dapt_jax.diffusion import schedule as schedule_lib
from dapt_jax.types import PRNGKey

_Mix = tuple[jax.Array | float, jax.Array | float]
_MIXES: dict[str, Callable[[jax.Array, jax.Array], _Mix]] = {
  'epsilon': lambda alpha, sigma: (0.0, 1.0),
  'sample': lambda alpha, sigma: (1.0, 0.0),
  'v': lambda alpha, sigma: (-sigma, alpha),
  'flow': lambda alpha, sigma: (-1.0, 1.0),
}

#: The names `create` knows.
NAMES = tuple(_MIXES)


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
  """A process and what is predicted along it; made by `create`.

  Times `t` are f32[] (one for all) or f32[B], states and predictions f32[B, ...].

  Attributes:
    name: one of `NAMES`.
    process: gives alpha and sigma at every time.
  """

  name: str
  process: schedule_lib.Process

  def noise(
    self, x0: jax.Array, key: PRNGKey, first: int | jax.Array = 0
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Makes a training problem of every example.

    The random numbers of an example depend on the key and its number only, so the parts of a batch
    on several devices get what the whole batch would get.

    Args:
      x0: f32[B, ...], data.
      key: PRNG key.
      first: number of the first example.

    Returns:
      (x_t f32[B, ...], t f32[B], target f32[B, ...]).
    """

    def one(example: jax.Array, key: PRNGKey) -> tuple[jax.Array, jax.Array, jax.Array]:
      of_time, of_noise = jax.random.split(key)
      t = self.process.draw(of_time)
      epsilon = jax.random.normal(of_noise, example.shape, example.dtype)
      alpha, sigma = self.process.at(t)
      return alpha * example + sigma * epsilon, t, self.target(example, epsilon, t)

    return jax.vmap(one)(x0, example_keys(key, x0.shape[0], first))

  def target(self, x0: jax.Array, epsilon: jax.Array, t: jax.Array) -> jax.Array:
    """What the network should say: p x_0 + q epsilon, of the shape of `x0`."""
    p, q = _MIXES[self.name](*self._at(t, x0))
    return p * x0 + q * epsilon

  def recover(
    self, x_t: jax.Array, t: jax.Array, prediction: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Estimates of data and noise from a prediction; exact where the prediction is.

    Args:
      x_t: f32[B, ...], states.
      t: f32[] or f32[B], above 0: without noise in the state there is none to tell.
      prediction: f32[B, ...], what the network said.

    Returns:
      (x_0, epsilon), both f32[B, ...]. The velocity of 'flow' is epsilon - x_0.
    """
    alpha, sigma = self._at(t, x_t)
    p, q = _MIXES[self.name](alpha, sigma)
    determinant = alpha * q - sigma * p
    x0 = (q * x_t - sigma * prediction) / determinant
    return x0, (alpha * prediction - p * x_t) / determinant

  def _at(self, t: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(alpha, sigma) with as many axes as x."""
    t = jnp.asarray(t)
    alpha, sigma = self.process.at(t.reshape(t.shape + (1,) * (x.ndim - t.ndim)))
    return alpha, sigma


def create(name: str, schedule: schedule_lib.Schedule | None = None) -> Objective:
  """Makes an objective.

  Args:
    name: one of `NAMES`.
    schedule: from `schedule.create`; for all but 'flow', which has a path of its own.

  Returns:
    An `Objective`.

  Raises:
    ValueError: for an unknown name, or a schedule that is missing or too many.
  """
  if name not in _MIXES:
    raise ValueError(f'unknown objective {name!r}: choose one of {", ".join(NAMES)}')
  if name == 'flow':
    if schedule is not None:
      raise ValueError("objective 'flow' has the straight path: give it no schedule")
    return Objective(name, schedule_lib.Straight())
  if schedule is None:
    raise ValueError(
      f"objective {name!r} needs a schedule: give schedule.create('linear_sqrt', 1024), or another "
      f'of {", ".join(schedule_lib.NAMES)}'
    )
  return Objective(name, schedule)


def example_keys(key: PRNGKey, size: int, first: int | jax.Array = 0) -> PRNGKey:
  """One key per example, told by the key and the example's number: `[size]` keys.

  Args:
    key: PRNG key.
    size: number of examples.
    first: number of the first one.
  """
  return jax.vmap(lambda number: jax.random.fold_in(key, number))(first + jnp.arange(size))
