"""Reaching a complexity: Lagrange multiplier, penalty path and the final decision.

Complexity is `C(a) = sum_i c_i a_i` with costs c_i of the gates; normalised costs sum to 1, so that
C is the share of the whole model that is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.gates import base
from dapt_jax.types import ArrayTree

# Costs normalised in float32 sum to the budget only up to this share of the total.
_ROUNDING = 1e-6


class DualAscent(NamedTuple):
  """The pair made by `dual_ascent`.

  Attributes:
    init: `init(multiplier=0.0) -> f32[]`, the multiplier to start from.
    update: `update(multiplier, complexity) -> f32[]`, the next multiplier; pure and jittable.
  """

  init: Callable[..., jax.Array]
  update: Callable[[jax.Array, jax.Array], jax.Array]


class PenaltyPath(NamedTuple):
  """Loss against complexity along a path of penalties.

  Attributes:
    multipliers: f32[n], in the order they were solved.
    losses: f32[n].
    complexities: f32[n].
    thetas: The logits, each leaf with a leading axis of n.
  """

  multipliers: jax.Array
  losses: jax.Array
  complexities: jax.Array
  thetas: ArrayTree


class Decision(NamedTuple):
  """A final architecture.

  Attributes:
    mask: bool arrays (NumPy) with the structure and shapes of the logits.
    cost: The cost of the open gates, in the unit of the costs.
    gap: `|cost - budget|`.
  """

  mask: ArrayTree
  cost: float
  gap: float


def complexity(gates: ArrayTree, costs: ArrayTree) -> jax.Array:
  """`sum_i c_i a_i`, differentiable in both.

  Args:
    gates: Array or pytree of values in [0, 1].
    costs: Costs, the same structure and shapes.

  Returns:
    f[] complexity, in the unit of the costs.
  """
  terms = jax.tree.map(lambda a, c: jnp.sum(a * jnp.asarray(c, a.dtype)), gates, costs)
  return jnp.asarray(sum(jax.tree.leaves(terms)))


def dual_ascent(rho: float, target: float | jax.Array) -> DualAscent:
  """Multiplier of the constraint `C(a) <= target`: `lambda <- max(0, lambda + rho (C - target))`.

  Call `update` every few steps of the gates, and freeze the multiplier before the last ones.

  Args:
    rho: Step of the multiplier, positive.
    target: The complexity to reach, in (0, 1] for normalised costs.

  Returns:
    A pure (init, update) pair; the state is the multiplier itself.

  Raises:
    ValueError: If `rho` is not positive and finite, or a known `target` is not positive and
      finite; from `init`, if the multiplier is negative.
  """
  if not 0 < rho < float('inf'):
    raise ValueError(f'rho is {rho}; it must be positive and finite: 1.0 is a place to start.')
  if not isinstance(target, jax.core.Tracer) and not 0 < float(target) < float('inf'):
    raise ValueError(
      f'target is {float(target)}; it must be positive and finite: '
      'pass the share of the cost to keep, such as 0.25.'
    )

  def init(multiplier: float = 0.0) -> jax.Array:
    if multiplier < 0:
      raise ValueError(f'multiplier is {multiplier}; it must not be negative: start at 0.')
    return jnp.asarray(multiplier, jnp.float32)

  def update(multiplier: jax.Array, complexity: jax.Array) -> jax.Array:
    excess = jnp.asarray(complexity, multiplier.dtype) - jnp.asarray(target, multiplier.dtype)
    return jnp.maximum(multiplier + rho * excess, 0)

  return DualAscent(init, update)


def log_grid(low: float, high: float, count: int) -> np.ndarray:
  """`count` multipliers from `low` to `high` in equal ratios, for `penalty_path`.

  Args:
    low: Smallest multiplier, positive.
    high: Largest multiplier, not below `low`.
    count: Number of points, at least 2.

  Returns:
    f32[count], increasing.

  Raises:
    ValueError: If `0 < low <= high` or `count >= 2` does not hold.
  """
  if not 0 < low <= high < float('inf') or count < 2:
    raise ValueError(
      f'log grid from {low} to {high} with {count} points; the rule is 0 < low <= high and '
      'count >= 2: add the multiplier 0 by hand where it is wanted.'
    )
  return np.geomspace(low, high, count).astype(np.float32)


def penalty_path(
  solve: Callable[[ArrayTree, jax.Array], tuple[ArrayTree, jax.Array, jax.Array]],
  multipliers: Sequence[float] | np.ndarray,
  theta0: ArrayTree,
) -> PenaltyPath:
  """Solves for each multiplier in turn, each started from the solution before it.

  Args:
    solve: `solve(theta, multiplier) -> (theta, loss, complexity)`; the multiplier is an f32[]
      array, so a jitted `solve` is traced once for the whole path.
    multipliers: f[n], not negative; `log_grid` makes one.
    theta0: Logits to start from.

  Returns:
    The whole curve, nothing selected.

  Raises:
    ValueError: If there is no multiplier, or one is negative or not finite.
  """
  grid = np.asarray(multipliers, np.float32)
  if grid.ndim != 1 or grid.size == 0 or not np.all((grid >= 0) & np.isfinite(grid)):
    raise ValueError(
      f'multipliers are {grid.tolist()}; they must be a non-empty list of finite numbers, none '
      'negative: see log_grid.'
    )
  theta, points = theta0, []
  for value in grid:
    theta, loss, reached = solve(theta, jnp.asarray(value))
    points.append((jnp.asarray(loss), jnp.asarray(reached), theta))
  losses, complexities, thetas = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
  return PenaltyPath(jnp.asarray(grid), losses, complexities, thetas)


def threshold(theta: ArrayTree) -> ArrayTree:
  """Masks `theta > 0`: the decision of the gates themselves, free of any temperature.

  Args:
    theta: Array or pytree of logits.

  Returns:
    bool arrays with the structure and shapes of `theta`.

  Raises:
    TypeError: If logits are not floating point.
  """
  return base.map_gates(lambda t: t > 0, theta)


def decide_budget(theta: ArrayTree, costs: ArrayTree, budget: float) -> Decision:
  """Opens gates in decreasing order of theta up to a budget, for separable costs.

  Gates open one by one until the next does not fit; then whatever still fits is filled in, in the
  same order. Equal logits go by sorted name, then by index, so the decision is reproducible.

  Args:
    theta: Array or pytree of logits, finite.
    costs: Cost of each gate, not negative; the same structure and shapes.
    budget: Largest total cost, in the unit of the costs; it may be passed by a relative rounding
      error of 1e-6 of the total.

  Returns:
    The masks, the cost reached and its distance from the budget.

  Raises:
    ValueError: If structures or shapes differ, a logit or cost is not finite, a cost is negative,
      or the budget is not positive and finite.
  """
  scores, prices, leaves, treedef = _flatten_together(theta, costs)
  if not 0 < budget < float('inf'):
    raise ValueError(
      f'budget is {budget}; it must be positive and finite, in the unit of the costs, whose total '
      f'is {prices.sum():.6g}.'
    )
  order = np.argsort(-scores, kind='stable')
  ordered = prices[order]
  room = budget + _ROUNDING * prices.sum()
  prefix = int(np.searchsorted(np.cumsum(ordered), room, side='right'))
  opened = np.zeros(scores.size, bool)
  opened[order[:prefix]] = True
  room -= ordered[:prefix].sum()
  position = prefix
  while position < scores.size:
    fitting = np.flatnonzero(ordered[position:] <= room)
    if fitting.size == 0:
      break
    position += int(fitting[0])
    opened[order[position]] = True
    room -= ordered[position]
    position += 1
  cost = float(prices[opened].sum())
  parts = np.split(opened, np.cumsum([leaf.size for leaf in leaves])[:-1])
  mask = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves)]
  return Decision(jax.tree.unflatten(treedef, mask), cost, abs(cost - budget))


def _flatten_together(theta: ArrayTree, costs: ArrayTree):
  """All logits and costs as two float64 vectors, after checking them."""
  treedef = jax.tree.structure(theta)
  if not base.same_structure(theta, costs):
    raise ValueError(
      f'costs have the structure {jax.tree.structure(costs)} and theta {treedef}; they must agree: '
      'give one array of costs to each group of gates.'
    )
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(jax.device_get(theta))]
  priced = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(jax.device_get(costs))]
  for leaf, price in zip(leaves, priced):
    if leaf.shape != price.shape:
      raise ValueError(
        f'a group has {leaf.shape} logits and {price.shape} costs; give one cost to each gate.'
      )
  if not leaves:
    raise ValueError('theta has no gates; there is nothing to decide: check the groups.')
  scores = np.concatenate([leaf.ravel() for leaf in leaves])
  prices = np.concatenate([price.ravel() for price in priced])
  if not np.all(np.isfinite(scores)):
    raise ValueError(
      'theta has values that are not finite; the search has diverged: lower its rate.'
    )
  if not np.all(np.isfinite(prices) & (prices >= 0)):
    raise ValueError('costs have values that are negative or not finite; each must be a real cost.')
  return scores, prices, leaves, treedef
