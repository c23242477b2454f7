"""The step of the gates: the loss's gradient, the price of the complexity, the multiplier."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dapt_jax import gates as gates_lib
from dapt_jax.graph import ChannelGraph
from dapt_jax.pruning import vectors
from dapt_jax.pruning.settings import Settings
from dapt_jax.pruning.state import Shared
from dapt_jax.types import Gates


def target(given: Settings, step: jax.Array) -> jax.Array:
  """Cost to reach at this step."""
  done = jnp.minimum(step / max(given.ramp, 1), 1.0) if given.ramp else 1.0
  return jnp.float32(given.budget or 1.0) ** done


def move(
  graph: ChannelGraph,
  given: Settings,
  relaxation: gates_lib.Relaxation,
  optimizer: optax.GradientTransformation,
  shared: Shared,
  gradient: jax.Array,
  counts: jax.Array,
) -> tuple[Shared, jax.Array]:
  """One step of the logits and the multiplier.

  Args:
    graph: what the logits belong to.
    given: settings of the search.
    relaxation: of the gates.
    optimizer: of the gates.
    shared: as it is before the step.
    gradient: f32[G], of the loss.
    counts: f32[], share of the networks that had a say; at 0 nothing moves.

  Returns:
    What is shared after the step, and the share of the cost f32[] before it: at the sharp gates, or
    expected over the draws (`Settings.sharp_cost`).
  """
  hard = given.hard(shared.step)
  goal = target(given, shared.step)

  def price(logits: Gates) -> tuple[jax.Array, jax.Array]:
    expected = relaxation.expected(logits, hard, given.soft)
    sharp = gates_lib.two_temperature(logits, hard, given.soft)
    cost = graph.cost_model.share(sharp if given.sharp_cost else expected, given.unit)
    excess = jnp.clip(lax.stop_gradient(cost) / goal - 1.0, -1.0, 1.0)
    damping = given.damping if given.budget is not None else 0.0
    penalty = jnp.maximum(shared.multiplier + damping * excess, 0.0) * cost / goal
    if given.branch_price:
      branches = [n for n, group in graph.gated_groups.items() if group.kind == 'branch']
      penalty = penalty + given.branch_price * sum(expected[n].sum() for n in branches)
    if given.concave:
      penalty = penalty + gates_lib.concave(expected, given.concave)
    return penalty, cost

  (_, cost), priced = jax.value_and_grad(price, has_aux=True)(shared.theta)
  logits = vectors.join(shared.theta)
  moves, state = optimizer.update(gradient + vectors.join(priced), shared.optimizer, logits)
  theta = vectors.split(optax.apply_updates(logits, moves), shared.theta)
  moving = (counts > 0) & (shared.step >= given.hold)
  keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(moving, n, o), new, old)
  theta, state = keep((theta, state), (shared.theta, shared.optimizer))
  multiplier = shared.multiplier
  if given.budget is not None:
    ascent = gates_lib.dual_ascent(given.rho, 1.0)
    excess = jnp.clip(cost / goal, 0.0, 2.0)
    multiplier = jnp.where(moving, ascent.update(multiplier, excess), multiplier)
  moved = Shared(theta, state, multiplier, shared.step + 1, shared.key)
  return moved, cost


def undecided(theta: Gates, soft: float) -> jax.Array:
  """Share of gates with a probability between .1 and .9."""
  p = jnp.concatenate([gates_lib.probability(t, soft) for t in jax.tree.leaves(theta)])
  return jnp.mean((p > 0.1) & (p < 0.9))
