"""Numbers of a search and the rules they keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dapt_jax import gates as gates_lib
from dapt_jax.gates import schedules
from dapt_jax.pruning import weights


class Settings(NamedTuple):
  """Numbers of the search.

  Attributes:
    population: K, networks trained side by side.
    relaxation: one of `gates.NAMES`.
    hard: schedule `step -> f32[]` of the hard temperature.
    soft: soft temperature; only hard / soft and rate / soft^2 matter, so 1.
    budget: share of the whole network to reach, or None for a fixed `multiplier`.
    unit: one of `graph.UNITS`.
    multiplier: price of the complexity at the start.
    rho: step of the multiplier per update (dual ascent on cost / target - 1, cut off at +-1).
    damping: added to the multiplier for every unit of cost / target - 1: without it the gates
      overshoot (proportional next to integral control, Stooke et al., 2020).
    ramp: updates in which the target falls from 1 to the budget, in equal ratios.
    concave: weight of mu sum a (1 - a).
    branch_price: price of every open branch, in units of the loss: a pool or a skip costs no MACs,
      but must be worth this much to stay.
    sharp_cost: let price and budget see `two_temperature` gates, that is nearly the cost of what
      would be decided now, instead of the expected cost of what is drawn: many gates that are
      hardly ever open would otherwise use up a small budget.
    redraw: updates for which a network keeps its draw of the gates' noise, counted from the draw of
      its weights; `lifetime` gives every draw of weights one structure.
    warmup: updates after a draw of weights in which a network does not move the gates.
    hold: updates at the start in which no gate moves.
    own_batches: every network trains on a batch of its own, so that one may see the same few
      examples for as long as its weights live; `batch['weights']` then has a leading axis K.
  """

  population: int = 4
  relaxation: str = 'gumbel_trapezoid'
  hard: Callable[[jax.Array], jax.Array] = schedules.constant(0.1)
  soft: float = 1.0
  budget: float | None = 0.25
  unit: str = 'macs'
  multiplier: float = 0.0
  rho: float = 0.01
  damping: float = 0.0
  ramp: int = 0
  concave: float = 0.0
  branch_price: float = 0.0
  sharp_cost: bool = False
  redraw: int = 1
  warmup: int = 0
  hold: int = 0
  own_batches: bool = False


def check(given: Settings, source: weights.WeightSource, trainer: Any) -> None:
  """Raises ValueError for a setting out of range; the message names it."""
  for field in ('population', 'redraw'):
    if getattr(given, field) < 1:
      raise ValueError(f'{field} is {getattr(given, field)}; it must be at least 1')
  if given.budget is not None and not 0 < given.budget <= 1:
    raise ValueError(
      f'budget is {given.budget}; it is a share of the whole network and must lie in (0, 1]'
    )
  if not given.rho > 0:
    raise ValueError(f'rho is {given.rho}; the step of the multiplier must be positive')
  for field in ('multiplier', 'damping', 'ramp', 'concave', 'branch_price', 'warmup', 'hold'):
    if not getattr(given, field) >= 0:
      raise ValueError(f'{field} is {getattr(given, field)}; it must not be negative')
  gates_lib.check_temperatures(given.hard(jnp.int32(0)), given.soft)
  if source.inner_steps and trainer is None:
    raise ValueError(
      f'weights {source.name!r} are trained ({source.inner_steps} inner steps), but '
      'weight_optimizer is None; pass one, e.g. optax.sgd(0.1, momentum=0.9)'
    )
  if source.lifetime and given.warmup >= source.lifetime:
    raise ValueError(
      f'warmup is {given.warmup}, but weights live for {source.lifetime} updates only: the gates '
      'would never move; make it smaller'
    )
