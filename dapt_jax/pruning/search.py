"""The search: gates learned over a population of networks whose weights come and go.

One update draws gates for every network, trains its weights on one part of the source data with
the gates held fixed, differentiates the loss on the other part with respect to the gates, averages
over the population (and devices), adds the price of the complexity, and moves the logits.
The procedure is our reconstruction of differentiable architecture pruning (Colombo and Gao, 2021).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import flatten_util, lax

from dapt_jax import collectives
from dapt_jax import gates as gates_lib
from dapt_jax.graph import ChannelGraph
from dapt_jax.models import population as population_lib
from dapt_jax.pruning import losses, price, vectors, weights
from dapt_jax.pruning import settings as settings_lib
from dapt_jax.pruning import state as state_lib
from dapt_jax.pruning.state import Population, SearchState, Shared
from dapt_jax.types import Gates, Params, PRNGKey

# What a key is folded with, so that no two uses share their random numbers.
_START, _DRAWS, _NOISE = 0, 1, 2


class Search(NamedTuple):
  """Pure functions, as in optax.

  Attributes:
    init: `init(key) -> SearchState`.
    update: `update(state, batch, axis_name=None) -> (state, metrics)`, with `batch` being
      `{'weights': batch, 'gates': batch}`; the weights' part has a leading axis of `inner_steps`
      where there are several, and one of K before it with `Settings.own_batches`.
    params: `params(state)`, the population's parameters as a pytree, leading axis K.
  """

  init: Callable[[PRNGKey], SearchState]
  update: Callable[..., tuple[SearchState, dict[str, jax.Array]]]
  params: Callable[[SearchState], Params]


def make_search(
  graph: ChannelGraph,
  loss_fn: losses.LossFn,
  source: weights.WeightSource,
  *,
  gate_optimizer: optax.GradientTransformation,
  weight_optimizer: optax.GradientTransformation | None = None,
  settings: settings_lib.Settings | None = None,
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
  given = settings or settings_lib.Settings()
  settings_lib.check(given, source, weight_optimizer)
  graph.total(given.unit)  # refuses an unknown unit
  searcher = _Searcher(
    graph,
    loss_fn,
    source,
    gate_optimizer,
    weight_optimizer or optax.set_to_zero(),
    given,
    gates_lib.get(given.relaxation),
    start or graph.init_gates,
    _flat_form(source),
  )
  return Search(searcher.init, searcher.update, searcher.params)


@dataclasses.dataclass(frozen=True)
class _Searcher:
  """The functions of a `Search` and what they share."""

  graph: ChannelGraph
  loss_fn: losses.LossFn
  source: weights.WeightSource
  gate_optimizer: optax.GradientTransformation
  trainer: optax.GradientTransformation
  given: settings_lib.Settings
  relaxation: gates_lib.Relaxation
  start: Callable[[PRNGKey], Gates]
  unravel: Callable[[jax.Array], Params]

  def init(self, key: PRNGKey) -> SearchState:
    """First state."""
    theta = self.start(jax.random.fold_in(key, _START))
    size = self.given.population
    member = jnp.arange(size, dtype=jnp.int32)
    # The first generation is drawn inside the first update; here only its shape is needed.
    shapes = jax.eval_shape(self.draw, member[0], key, jnp.int32(0))
    params, optimizer = jax.tree.map(lambda s: jnp.zeros((size, *s.shape), s.dtype), shapes)
    gates = self.gate_optimizer.init(vectors.join(theta))
    shared = Shared(theta, gates, jnp.float32(self.given.multiplier), jnp.int32(0), key)
    return SearchState(shared, Population(params, optimizer, member))

  def params(self, state: SearchState) -> Params:
    """The population's parameters."""
    return jax.vmap(self.unravel)(state.population.params)

  def draw(
    self, member: jax.Array, key: PRNGKey, generation: jax.Array
  ) -> tuple[jax.Array, optax.OptState]:
    """Weights of a member's generation: the same wherever and whenever they are drawn."""
    named = jax.random.fold_in(key, _DRAWS)
    params = self.source.init(jax.random.fold_in(jax.random.fold_in(named, member), generation))
    flat = flatten_util.ravel_pytree(params)[0]
    return flat, self.trainer.init(flat)

  def draw_gates(
    self, member: jax.Array, since: jax.Array, shared: Shared
  ) -> tuple[Gates, Callable[..., Any]]:
    """Gates of a member at this step, and the way of a gradient back to the logits."""
    noise = jax.random.fold_in(shared.key, _NOISE)
    drawn = shared.step - since % self.given.redraw
    noise = jax.random.fold_in(jax.random.fold_in(noise, member), drawn)
    logits = vectors.join(shared.theta)
    hard = self.given.hard(shared.step)
    gates, to_logits = jax.vjp(
      lambda x: self.relaxation.sample(x, noise, hard, self.given.soft), logits
    )
    gates = vectors.keep_paths(self.graph, gates, logits)
    return vectors.split(gates, shared.theta), to_logits

  def gradients(
    self, params: jax.Array, gates: Gates, examples: losses.Batch
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(loss f32[], gradient of the weights f[P], gradient of the gates f32[G])."""
    gated, to_parts = jax.vjp(
      lambda p, a: self.graph.apply_gates(self.unravel(p), a), params, gates
    )
    loss, gradient = jax.value_and_grad(self.loss_fn)(gated, examples)
    of_params, of_gates = to_parts(gradient)
    return loss, of_params, vectors.join(of_gates)

  def member_step(
    self, one: Population, shared: Shared, batch: Mapping[str, Any]
  ) -> tuple[Population, tuple[jax.Array, ...]]:
    """One network: (its next state, (gradient of the logits, losses, whether it counts))."""
    inner_steps = self.source.inner_steps
    since, generation = state_lib.age(
      one.member, shared.step, self.source.lifetime, self.given.population
    )
    params, optimizer = lax.cond(
      since == 0,
      lambda: self.draw(one.member, shared.key, generation),
      lambda: (one.params, one.optimizer),
    )
    gates, to_logits = self.draw_gates(one.member, since, shared)

    def look(carry: tuple[jax.Array, Any], part: tuple[Any, jax.Array]):
      """Gradient on one batch; it moves the weights on all batches but the last."""
      params, optimizer = carry
      examples, is_last = part
      loss, of_params, of_gates = self.gradients(params, gates, examples)
      moves, moved = self.trainer.update(of_params, optimizer, params)
      keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(is_last, o, n), new, old)
      return keep((optax.apply_updates(params, moves), moved), carry), (loss, of_gates)

    is_last = jnp.arange(inner_steps + 1) == inner_steps
    parts = _parts(batch, inner_steps), is_last
    (params, optimizer), (seen, of_gates) = lax.scan(look, (params, optimizer), parts)
    (gradient,) = to_logits(of_gates[-1])
    counts = (since >= self.given.warmup).astype(jnp.float32)
    train_loss = seen[max(inner_steps - 1, 0)]
    return Population(params, optimizer, one.member), (
      counts * gradient,
      seen[-1],
      train_loss,
      counts,
    )

  def update(
    self, state: SearchState, batch: Mapping[str, Any], axis_name: str | None = None
  ) -> tuple[SearchState, dict[str, jax.Array]]:
    """One update of population and gates."""
    given, shared = self.given, state.shared
    own = lambda name: given.own_batches and name == 'weights'
    step = population_lib.map_population(
      lambda one, batch: self.member_step(one, shared, batch),
      in_axes=(0, {name: 0 if own(name) else None for name in batch}),
    )
    population, results = step(state.population, dict(batch))
    means = collectives.mean(jax.tree.map(lambda x: x.mean(0), results), axis_name)
    gradient, loss, train_loss, counts = means
    gradient = gradient / jnp.maximum(counts, 1e-6)
    moved, cost = price.move(
      self.graph, given, self.relaxation, self.gate_optimizer, shared, gradient, counts
    )
    metrics = {
      'loss': loss,
      'train_loss': train_loss,
      'cost': cost,
      'multiplier': moved.multiplier,
      'hard': given.hard(shared.step),
      'undecided': price.undecided(moved.theta, given.soft),
    }
    if given.budget is not None:
      metrics['budget'] = jnp.float32(given.budget)
      metrics['target'] = price.target(given, shared.step)
    return SearchState(moved, population), metrics


def _flat_form(source: weights.WeightSource) -> Callable[[jax.Array], Params]:
  """The function that turns the vector of a network's weights into its parameters.

  Weights travel as one vector: an optimiser on hundreds of small arrays takes longer to compile
  than the network.
  """
  shapes = jax.eval_shape(source.init, jax.random.key(0))
  return flatten_util.ravel_pytree(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes))[1]


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
