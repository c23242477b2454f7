"""Relaxations by name, all behind the one interface `base.Relaxation`."""

from __future__ import annotations

import functools
from collections.abc import Callable

from dapt_jax.gates import base, peers, relaxation
from dapt_jax.gates.base import Relaxation, Temperature
from dapt_jax.types import ArrayTree, PRNGKey


def _deterministic(name: str, gates: Callable[..., ArrayTree]) -> Relaxation:
  """A relaxation without noise: the cost sees the very gates that the network sees."""

  def sample(
    theta: ArrayTree,
    key: PRNGKey | None,
    hard: Temperature = 0.1,
    soft: Temperature = 1.0,
  ) -> ArrayTree:
    del key
    return gates(theta, hard, soft)

  return Relaxation(name, sample, gates)


def _open_probability(
  theta: ArrayTree, hard: Temperature = 0.1, soft: Temperature = 1.0
) -> ArrayTree:
  """Expected cost of noisy gates: sigma(theta / soft), exact as hard -> 0."""
  base.check_temperatures(hard, soft)
  return relaxation.probability(theta, soft)


_RELAXATIONS = {
  item.name: item
  for item in (
    _deterministic('two_temperature', relaxation.two_temperature),
    Relaxation(
      'gumbel_raw',
      functools.partial(relaxation.gumbel_gates, estimator='raw'),
      _open_probability,
    ),
    Relaxation(
      'gumbel_trapezoid',
      functools.partial(relaxation.gumbel_gates, estimator='trapezoid'),
      _open_probability,
    ),
    _deterministic('one_temperature', peers.one_temperature),
    _deterministic('straight_through', peers.straight_through),
    Relaxation('hard_concrete', peers.hard_concrete, peers.hard_concrete_expected_l0),
  )
}

#: The names `get` knows.
NAMES = tuple(_RELAXATIONS)


def get(name: str) -> Relaxation:
  """The relaxation called `name`.

  Args:
    name: One of `NAMES`.

  Returns:
    A `Relaxation` with `sample(theta, key, hard, soft)` and `expected(theta, hard, soft)`.

  Raises:
    ValueError: If the name is unknown.

  Example:
    >>> get('two_temperature').name
    'two_temperature'
  """
  if name not in _RELAXATIONS:
    raise ValueError(f'unknown relaxation {name!r}; it must be one of {", ".join(NAMES)}.')
  return _RELAXATIONS[name]
