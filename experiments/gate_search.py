"""The search over gates that a configuration describes: its first logits, its batches, its run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from dapt_jax import data, gates, pruning
from dapt_jax.gates import schedules
from dapt_jax.models import precision
from dapt_jax.training import accumulation, loop, runner, seeds, speed
from dapt_jax.training import begin as begin_lib
from dapt_jax.training import workdir as workdir_lib
from dapt_jax.transfer import draws
from dapt_jax.types import Gates
from experiments import devices, outputs, source
from experiments import task as task_lib

#: A search and its compiled update.
Program = tuple[pruning.Search, runner.Mapped]


def learn(
  config: Any,
  task: task_lib.Task,
  opened: workdir_lib.Workdir,
  program: Program,
  seed: int,
  begin: begin_lib.Begin | None = None,
) -> tuple[Gates, Mapping[str, Any]]:
  """Runs or resumes a search of gates: (logits, last metrics)."""
  searcher, update = program
  with outputs.more_writers(config, opened.path) as more:
    result = loop.run(
      update,
      searcher.init(seeds.key(seed, 'search')),
      batches(task, config.search, seed, devices.shard()),
      num_steps=config.search.steps,
      workdir=opened,
      begin=begin,
      checkpoint_every=config.search.checkpoint_every,
      log_every=config.search.log_every,
      writers=more,
      name=opened.path.name,
      work=work(task, config.search),
      profile=config.profile,
      on_metrics=lambda step, state, metrics: probabilities(state.shared.theta),
    )
  return result.state.shared.theta, result.metrics


def work(task: task_lib.Task, settings: Any) -> speed.Work:
  """What a step of the search does: a backward pass counts as two forward passes."""
  examples = settings.population * settings.batch_size * (settings.inner_steps + 1)
  return speed.Work(examples, 6 * task.train_graph.total('macs') * examples)


def make_program(
  config: Any, task: task_lib.Task, workdir: str, budget: float, variant: str
) -> Program:
  """The search and its compiled update."""
  searcher = make_search(config, task, workdir, budget, variant)
  update = runner.make_update(
    searcher.update,
    state_axes=pruning.STATE_AXES,
    batch_axes={'weights': 0, 'gates': None} if _has_episodes(config.search) else None,
    kind=config.runner,
    devices=devices.choose(config.search.population, 'search.population'),
  )
  return searcher, update


def make_search(
  config: Any, task: task_lib.Task, workdir: str, budget: float, variant: str
) -> pruning.Search:
  """The search that a configuration describes."""
  c = config.search
  kind = 'fixed' if variant == 'fixed_weights' else c.weights
  params = source.train(config, task, workdir) if kind == 'given' else None
  network = precision.compute_in(task.fast, config.precision)
  weights = pruning.weights.make(
    kind, network.init, lifetime=c.lifetime, inner_steps=c.inner_steps, params=params
  )
  if kind == 'random_features':
    features = lambda params, x: network.features(params, x, train=True)
    loss = pruning.losses.ridge(features, task.source.num_classes)
  else:
    loss = _in_parts(pruning.losses.cross_entropy(network.apply_train), c.accumulate)
  settings = pruning.Settings(
    population=c.population,
    relaxation='one_temperature' if variant == 'one_temperature' else c.relaxation,
    hard=schedules.exponential(c.hard_start, c.hard_end, c.steps),
    budget=budget,
    unit=c.unit,
    rho=c.rho,
    damping=c.damping,
    ramp=int(c.ramp * c.steps),
    concave=c.concave,
    branch_price=c.branch_price,
    sharp_cost=c.sharp_cost and variant != 'one_temperature',
    redraw=c.redraw,
    warmup=min(c.warmup, max(weights.lifetime - 1, 0)) if weights.lifetime else 0,
    hold=c.hold,
    own_batches=_has_episodes(c),
  )
  optimizers = {'adam': optax.adam, 'sgd': optax.sgd, 'mirror': gates.mirror_descent}
  return pruning.make_search(
    task.graph,
    loss,
    weights,
    gate_optimizer=optimizers[c.gate_optimizer](c.gate_rate),
    weight_optimizer=optax.chain(optax.clip_by_global_norm(5.0), optax.adam(c.weight_rate)),
    settings=settings,
    start=lambda key: start_logits(task.graph, key, c.start_channel, c.start_branch),
  )


def _in_parts(loss: pruning.losses.LossFn, parts: int) -> pruning.losses.LossFn:
  """A loss with its gradient accumulated over parts of the batch."""
  pair = accumulation.in_parts(lambda params, batch: (loss(params, batch), ()), parts)
  return lambda params, batch: pair(params, batch)[0]


def start_logits(graph, key, channel: float, branch: float):
  """First logits: small noise around one level for branches and one for all other gates."""
  theta = graph.init_gates(key)
  kinds = {n: g.kind for n, g in graph.gated_groups.items()}
  return {n: t + (branch if kinds[n] == 'branch' else channel) for n, t in theta.items()}


def batches(
  task: task_lib.Task, settings: Any, seed: int, shard: tuple[int, int] = (0, 1)
) -> Callable[[int], dict[str, Any]]:
  """`batches(step)`: disjoint halves of the source data for weights and gates.

  Args:
    task: from `task.load`.
    settings: the section `search` of a configuration.
    seed: of the search.
    shard: (index, count) of this process. Where every network has its own examples a process gets
      those of its share of the population; all else is the same for every process.
  """
  halves = data.split(task.source, (0.5, 0.5), seed)
  size, inner = settings.batch_size, settings.inner_steps
  lead = (inner,) if inner > 1 else ()
  if _has_episodes(settings):
    for_weights = episodes(halves[0], settings, seed, shard)
    lead = (settings.population // shard[1], *lead)
  else:
    for_weights = data.make_batcher(halves[0], size * max(inner, 1), seed)
  for_gates = data.make_batcher(halves[1], size, seed + 1)

  def standard(batch):
    return {'image': task.standardizer(batch['image']), 'label': batch['label']}

  def at(step: int):
    weights = jax.tree.map(
      lambda x: x.reshape(*lead, size, *x.shape[1:]), standard(for_weights(step))
    )
    return {'weights': weights, 'gates': standard(for_gates(step))}

  return at


def episodes(
  dataset: data.Dataset, settings: Any, seed: int, shard: tuple[int, int] = (0, 1)
) -> Callable[[int], dict[str, np.ndarray]]:
  """`batches(step)`: for every network of a population a batch out of its own few examples.

  With each draw of weights a network gets a support set of `settings.shots` examples a class, as
  the target will give it, and sees nothing else until the next draw. Process `index` of `count`
  reads those of networks `index * K / count` on, K / count of them.

  Raises:
    ValueError: the population does not divide by the number of processes.
  """
  size, lifetime = settings.population, settings.lifetime
  data.check_shard(size, shard, 'search.population')
  own_size = size // shard[1]
  members = range(shard[0] * own_size, (shard[0] + 1) * own_size)
  count = settings.batch_size * max(settings.inner_steps, 1)

  @functools.lru_cache(maxsize=4 * size)
  def support(member: int, generation: int):
    own = np.random.SeedSequence([seed, member, generation]).generate_state(1)[0]
    return draws.draw(dataset.labels, settings.shots, int(own))

  def at(step: int):
    chosen = []
    for member in members:
      _, generation = pruning.age(member, step, lifetime, size)
      own = support(member, int(generation))
      random = np.random.default_rng([seed, member, step])
      chosen.append(own[random.integers(len(own), size=count)])
    images, labels = dataset.take(np.concatenate(chosen))
    return {'image': images, 'label': labels}

  return at


def probabilities(theta) -> dict[str, list[float]]:
  """Gate probabilities by group, for the metrics file: lists, which are written whole."""
  found = {n: np.asarray(gates.probability(t), np.float64) for n, t in theta.items()}
  return {f'gate/{n}': np.round(p, 4).tolist() for n, p in found.items()}


def _has_episodes(settings: Any) -> bool:
  return bool(settings.shots) and settings.inner_steps > 0
