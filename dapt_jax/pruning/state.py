"""State of a search, and which part of it lives where."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dapt_jax.types import Gates, PRNGKey


class Shared(NamedTuple):
  """What all networks and devices share.

  Attributes:
    theta: gate logits, `{group: f32[width]}`.
    optimizer: state of the gate optimiser.
    multiplier: f32[], price of the complexity.
    step: i32[], updates done.
    key: the run's random key.
  """

  theta: Gates
  optimizer: Any
  multiplier: jax.Array
  step: jax.Array
  key: PRNGKey


class Population(NamedTuple):
  """What every network has of its own; leading axis K.

  Attributes:
    params: f[K, P], weights and normalisation statistics, every network's as one vector.
    optimizer: states of the weight optimiser.
    member: i32[K], number of the network, so that its draws do not depend on the device it is on.
  """

  params: jax.Array
  optimizer: Any
  member: jax.Array


class SearchState(NamedTuple):
  """State of a search; `STATE_AXES` says which part is sharded over devices."""

  shared: Shared
  population: Population


#: For `training.runner.make_update`: replicated gates, sharded population.
STATE_AXES = SearchState(None, 0)  # type: ignore[arg-type]


def age(member: Any, step: Any, lifetime: int, size: int) -> tuple[Any, Any]:
  """Updates since a member's weights were drawn, and which draw they are.

  Draws are spread evenly over the lifetime, so that the population holds networks of every age.

  Args:
    member: number of the network, below `size`.
    step: number of the update.
    lifetime: updates between two draws; 0: only one draw.
    size: of the population.
  """
  if lifetime == 0:
    return step, step * 0
  shifted = step + (member * lifetime) // size
  return jnp.minimum(step, shifted % lifetime), shifted // lifetime
