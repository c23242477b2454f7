"""The search: gates learned over a population of networks whose weights come and go.

One update draws gates for every network, trains its weights on one part of the source data with
the gates held fixed, differentiates the loss on the other part with respect to the gates, averages
over the population (and devices), adds the price of the complexity, and moves the logits.
The procedure is our reconstruction of differentiable architecture pruning (Colombo and Gao, 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import flatten_util, lax

from dapt_jax import gates as gates_lib
from dapt_jax.gates import schedules
from dapt_jax.graph import ChannelGraph
from dapt_jax.models import population as population_lib
from dapt_jax.pruning import losses, vectors, weights
from dapt_jax.types import Gates, Params, PRNGKey


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


# What a key is folded with, so that no two uses share their random numbers.
_START, _DRAWS, _NOISE = 0, 1, 2
#: For `training.runner.make_update`: replicated gates, sharded population.
STATE_AXES = SearchState(None, 0)  # type: ignore[arg-type]


class Search(NamedTuple):
  """Pure functions, as in optax.

  Attributes:
    init: `init(key) -> SearchState`.
    update: `update(state, batch, axis_name=None) -> (state, metrics)`, with `batch` being
      `{'weights': batch, 'gates': batch}`; the weights' part has a leading axis of `inner_steps`
      where there are several.
    params: `params(state)`, the population's parameters as a pytree, leading axis K.
  """

  init: Callable[[PRNGKey], SearchState]
  update: Callable[..., tuple[SearchState, dict[str, jax.Array]]]
  params: Callable[[SearchState], Params]


class Settings(NamedTuple):
  """Numbers of the search.

  Attributes:
    population: K, networks trained side by side.
    relaxation: one of `gates.NAMES`.
    hard: schedule `step -> f32[]` of the hard temperature.
    soft: soft temperature; only hard / soft and rate / soft^2 matter, so 1.
    budget: share of the whole network to reach, or None for a fixed `multiplier`.
    unit: 'macs' or 'params'.
    multiplier: price of the complexity at the start.
    rho: step of the multiplier per update (dual ascent on cost / target - 1, cut off at +-1).
    damping: added to the multiplier for every unit of cost / target - 1: without it the gates
      overshoot (proportional next to integral control, Stooke et al., 2020).
    ramp: updates in which the target falls from 1 to the budget, in equal ratios.
    concave: weight of mu sum a (1 - a).
    warmup: updates after a draw of weights in which a network does not move the gates.
    hold: updates at the start in which no gate moves.
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
  warmup: int = 0
  hold: int = 0


def make_search(
  graph: ChannelGraph,
  loss_fn: losses.LossFn,
  source: weights.WeightSource,
  *,
  gate_optimizer: optax.GradientTransformation,
  weight_optimizer: optax.GradientTransformation | None = None,
  settings: Settings | None = None,
  start: Callable[[PRNGKey], Gates] | None = None,
) -> Search:
  """Makes the search over a graph.

  Args:
    graph: from `dapt.trace`.
    loss_fn: `loss_fn(params, batch) -> f32[]`, the mean loss of one network.
    source: where weights come from, see `weights`.
    gate_optimizer: moves theta; `optax.sgd` is the Euler variant (3), `gates.mirror_descent` the
      mirror variant (4).
    weight_optimizer: trains the weights; needed where `source.inner_steps > 0`.
    settings: see `Settings`.
    start: `start(key) -> theta`, first logits; None draws them near 0.

  Returns:
    The search.

  Raises:
    ValueError: for a setting out of range; the message names it.
  """
  given = settings or Settings()
  _check(given, source, weight_optimizer)
  graph.total(given.unit)  # refuses an unknown unit
  relaxation = gates_lib.get(given.relaxation)
  trainer = weight_optimizer or optax.set_to_zero()

  unravel = _flat_form(source)

  def draw(member: jax.Array, key: PRNGKey, generation: jax.Array) -> tuple[jax.Array, Any]:
    """Weights of a member's generation: the same wherever and whenever they are drawn."""
    named = jax.random.fold_in(key, _DRAWS)
    params = source.init(jax.random.fold_in(jax.random.fold_in(named, member), generation))
    flat = flatten_util.ravel_pytree(params)[0]
    return flat, trainer.init(flat)

  def init(key: PRNGKey) -> SearchState:
    theta = (start or graph.init_gates)(jax.random.fold_in(key, _START))
    member = jnp.arange(given.population, dtype=jnp.int32)
    # The first generation is drawn inside the first update; here only its shape is needed.
    shapes = jax.eval_shape(draw, member[0], key, jnp.int32(0))
    empty = lambda s: jnp.zeros((given.population, *s.shape), s.dtype)
    params, optimizer = jax.tree.map(empty, shapes)
    shared = Shared(
      theta,
      gate_optimizer.init(vectors.join(theta)),
      jnp.float32(given.multiplier),
      jnp.int32(0),
      key,
    )
    return SearchState(shared, Population(params, optimizer, member))

  def member_step(one: Population, shared: Shared, batch: Mapping[str, Any]):
    age, generation = _age(one.member, shared.step, source.lifetime, given.population)
    params, optimizer = lax.cond(
      age == 0,
      lambda: draw(one.member, shared.key, generation),
      lambda: (one.params, one.optimizer),
    )
    noise = jax.random.fold_in(shared.key, _NOISE)
    noise = jax.random.fold_in(jax.random.fold_in(noise, one.member), shared.step)
    logits = vectors.join(shared.theta)
    gates, to_logits = jax.vjp(
      lambda x: relaxation.sample(x, noise, given.hard(shared.step), given.soft), logits
    )
    gates = vectors.split(vectors.keep_paths(graph, gates, logits), shared.theta)

    def look(carry: tuple[jax.Array, Any], part: tuple[Any, jax.Array]):
      """Gradient on one batch; it moves the weights on all batches but the last."""
      params, optimizer = carry
      examples, is_last = part
      gated, to_parts = jax.vjp(lambda p, a: graph.apply_gates(unravel(p), a), params, gates)
      loss, gradient = jax.value_and_grad(loss_fn)(gated, examples)
      of_params, of_gates = to_parts(gradient)
      moves, moved = trainer.update(of_params, optimizer, params)
      keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(is_last, o, n), new, old)
      params, optimizer = keep((optax.apply_updates(params, moves), moved), carry)
      return (params, optimizer), (loss, vectors.join(of_gates))

    parts = _parts(batch, source.inner_steps)
    is_last = jnp.arange(source.inner_steps + 1) == source.inner_steps
    (params, optimizer), (seen, of_gates) = lax.scan(look, (params, optimizer), (parts, is_last))
    (gradient,) = to_logits(of_gates[-1])
    counts = (age >= given.warmup).astype(jnp.float32)
    train_loss = seen[max(source.inner_steps - 1, 0)]
    population = Population(params, optimizer, one.member)
    return population, (counts * gradient, seen[-1], train_loss, counts)

  def update(
    state: SearchState, batch: Mapping[str, Any], axis_name: str | None = None
  ) -> tuple[SearchState, dict[str, jax.Array]]:
    shared = state.shared
    step = population_lib.map_population(
      lambda one, batch: member_step(one, shared, batch), in_axes=(0, None)
    )
    population, results = step(state.population, batch)
    gradient, loss, train_loss, counts = jax.tree.map(lambda x: x.mean(0), results)
    if axis_name is not None:
      gradient, loss, train_loss, counts = lax.pmean(
        (gradient, loss, train_loss, counts), axis_name
      )
    gradient = gradient / jnp.maximum(counts, 1e-6)
    moved, cost = _move(graph, given, relaxation, gate_optimizer, shared, gradient, counts)
    metrics = {
      'loss': loss,
      'train_loss': train_loss,
      'cost': cost,
      'multiplier': moved.multiplier,
      'hard': given.hard(shared.step),
      'undecided': _undecided(moved.theta, given.soft),
    }
    if given.budget is not None:
      metrics['budget'] = jnp.float32(given.budget)
      metrics['target'] = _target(given, shared.step)
    return SearchState(moved, population), metrics

  return Search(init, update, lambda state: jax.vmap(unravel)(state.population.params))


def _flat_form(source: weights.WeightSource) -> Callable[[jax.Array], Params]:
  """The function that turns the vector of a network's weights into its parameters.

  Weights travel as one vector: an optimiser on hundreds of small arrays takes longer to compile
  than the network.
  """
  shapes = jax.eval_shape(source.init, jax.random.key(0))
  return flatten_util.ravel_pytree(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes))[1]


def _target(given: Settings, step: jax.Array) -> jax.Array:
  """Cost to reach at this step."""
  done = jnp.minimum(step / max(given.ramp, 1), 1.0) if given.ramp else 1.0
  return jnp.float32(given.budget or 1.0) ** done


def _parts(batch: Mapping[str, Any], inner_steps: int) -> Any:
  """The batches of one update in order, those of the weights first: leaves [steps + 1, B, ...]."""
  gates = jax.tree.map(lambda x: x[None], batch['gates'])
  if inner_steps == 0:
    return gates
  weights_part = batch['weights']
  if inner_steps == 1:
    weights_part = jax.tree.map(lambda x: x[None], weights_part)
  for first, second in zip(jax.tree.leaves(weights_part), jax.tree.leaves(gates)):
    if first.shape != (inner_steps, *second.shape[1:]):
      raise ValueError(
        f"batch['weights'] has an array of shape {first.shape}, batch['gates'] one of "
        f'{second.shape[1:]}; give both the same batch size, and the first a leading axis of '
        f'inner_steps={inner_steps} where that is above 1'
      )
  return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), weights_part, gates)


def _age(member, step, lifetime, size):
  """Updates since the member's weights were drawn, and which draw they are.

  Draws are spread evenly over the lifetime, so that the population holds networks of every age.
  """
  if lifetime == 0:
    return step, jnp.int32(0)
  shifted = step + (member * lifetime) // size
  return jnp.minimum(step, shifted % lifetime), shifted // lifetime


def _move(graph, given, relaxation, optimizer, shared, gradient, counts):
  """One step of the logits and the multiplier."""
  hard = given.hard(shared.step)
  target = _target(given, shared.step)

  def price(logits: Gates) -> tuple[jax.Array, jax.Array]:
    expected = relaxation.expected(logits, hard, given.soft)
    cost = graph.cost_model.share(expected, given.unit)
    excess = jnp.clip(lax.stop_gradient(cost) / target - 1.0, -1.0, 1.0)
    damping = given.damping if given.budget is not None else 0.0
    penalty = jnp.maximum(shared.multiplier + damping * excess, 0.0) * cost / target
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
    excess = jnp.clip(cost / target, 0.0, 2.0)
    multiplier = jnp.where(moving, ascent.update(multiplier, excess), multiplier)
  moved = Shared(theta, state, multiplier, shared.step + 1, shared.key)
  return moved, cost


def _undecided(theta: Gates, soft: float) -> jax.Array:
  """Share of gates with a probability between .1 and .9."""
  p = jnp.concatenate([gates_lib.probability(t, soft) for t in jax.tree.leaves(theta)])
  return jnp.mean((p > 0.1) & (p < 0.9))


def _check(given: Settings, source: weights.WeightSource, trainer: Any) -> None:
  if given.population < 1:
    raise ValueError(f'population is {given.population}; it must be at least 1')
  if given.budget is not None and not 0 < given.budget <= 1:
    raise ValueError(
      f'budget is {given.budget}; it is a share of the whole network and must lie in (0, 1]'
    )
  if not given.rho > 0:
    raise ValueError(f'rho is {given.rho}; the step of the multiplier must be positive')
  for field in ('multiplier', 'damping', 'ramp', 'concave', 'warmup', 'hold'):
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
