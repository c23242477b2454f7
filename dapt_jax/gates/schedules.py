"""Schedules of the hard temperature: functions from a step to a scalar array.

The soft temperature is the unit of scale and stays fixed. Values are arrays, so a jitted step that
takes the temperature as an argument, or computes it from a traced step counter, is traced once.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from dapt_jax.gates import base

#: `schedule(step) -> f32[]`, the hard temperature; `step` may be traced.
TemperatureSchedule = Callable[[int | jax.Array], jax.Array]


def _check(start: float, end: float, steps: int, soft: float) -> None:
  base.check_temperatures(start, soft)
  base.check_temperatures(end, soft)
  if steps < 1:
    raise ValueError(f'steps is {steps}; it must be at least 1: use constant() for no annealing.')


def _bounded(schedule: Callable, low: float, high: float) -> TemperatureSchedule:
  """Rounding must not carry a temperature past its ends, where it would break hard <= soft."""
  return lambda step: jnp.clip(jnp.asarray(schedule(step), jnp.float32), low, high)


def constant(hard: float, soft: float = 1.0) -> TemperatureSchedule:
  """The same hard temperature at every step.

  Args:
    hard: Temperature, `0 < hard <= soft`.
    soft: The fixed soft temperature, for the check.

  Returns:
    A schedule `step -> f32[]`.

  Raises:
    ValueError: If `0 < hard <= soft` does not hold.
  """
  base.check_temperatures(hard, soft)
  return _bounded(optax.constant_schedule(hard), hard, hard)


def linear(start: float, end: float, steps: int, soft: float = 1.0) -> TemperatureSchedule:
  """From `start` to `end` in equal differences over `steps` steps, constant afterwards.

  Args:
    start: Temperature at step 0.
    end: Temperature from step `steps` on.
    steps: Length of the annealing, at least 1.
    soft: The fixed soft temperature, for the check.

  Returns:
    A schedule `step -> f32[]`.

  Raises:
    ValueError: If a temperature is not in (0, soft] or `steps` is not positive.
  """
  _check(start, end, steps, soft)
  return _bounded(optax.linear_schedule(start, end, steps), min(start, end), max(start, end))


def exponential(start: float, end: float, steps: int, soft: float = 1.0) -> TemperatureSchedule:
  """From `start` to `end` in equal ratios over `steps` steps, constant afterwards.

  Args:
    start: Temperature at step 0.
    end: Temperature from step `steps` on.
    steps: Length of the annealing, at least 1.
    soft: The fixed soft temperature, for the check.

  Returns:
    A schedule `step -> f32[]`.

  Raises:
    ValueError: If a temperature is not in (0, soft] or `steps` is not positive.
  """
  _check(start, end, steps, soft)
  schedule = optax.exponential_decay(start, steps, decay_rate=end / start, end_value=end)
  return _bounded(schedule, min(start, end), max(start, end))


def cosine(start: float, end: float, steps: int, soft: float = 1.0) -> TemperatureSchedule:
  """From `start` to `end` along half a cosine over `steps` steps, constant afterwards.

  Args:
    start: Temperature at step 0.
    end: Temperature from step `steps` on.
    steps: Length of the annealing, at least 1.
    soft: The fixed soft temperature, for the check.

  Returns:
    A schedule `step -> f32[]`.

  Raises:
    ValueError: If a temperature is not in (0, soft] or `steps` is not positive.
  """
  _check(start, end, steps, soft)
  schedule = optax.cosine_decay_schedule(start, steps, alpha=end / start)
  return _bounded(schedule, min(start, end), max(start, end))
