"""Finds architectures on the source data: one search per budget and seed.

  python -m experiments.prune --config=configs/demo.py --workdir=runs/demo

With --config.search.criterion=gates (the default) the structure is learned. With a classical
criterion (magnitude_l1, magnitude_l2, bn_scale, taylor, random, hessian, fpgm) the whole network is
trained on the source and cut by it, at once or in --config.search.rounds rounds with retraining in
between.

Writes, under WORKDIR/search/NAME/, the search's checkpoints, `metrics.jsonl` (loss, cost, gate
probabilities), `architecture.json` with its `.safetensors`, and the cut network as a picture,
`architecture.svg`. A finished search is not repeated; a stopped one goes on.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

import dapt_jax as dapt
from dapt_jax import data, gates, pruning
from dapt_jax.gates import schedules
from dapt_jax.training import loop, runner, seeds
from dapt_jax.training import workdir as workdir_lib
from dapt_jax.transfer import draws
from dapt_jax.types import Gates
from experiments import classical, flags, outputs, schema, source
from experiments import task as task_lib

#: Fields that may change between a run and its continuation.
FREE = ('search.log_every', 'search.checkpoint_every')


def name_of(config: Any, budget: float, seed: int, variant: str = 'learned') -> str:
  """Directory name of one search."""
  return f'{variant}-{config.search.unit}{budget:g}-seed{seed}'


def run_all(config: Any, task: task_lib.Task, workdir: str) -> dict[str, dapt.Architecture]:
  """Runs the searches of a configuration.

  Returns:
    {search name: architecture}.

  Raises:
    ValueError: before any search, if no network with a path through every layer meets a budget.
  """
  check_budgets(config, task)
  found = {}
  for budget in config.search.budgets:
    # Seeds differ in their states only: one program serves them all.
    program = functools.cache(functools.partial(_program, config, task, workdir, budget, 'learned'))
    for seed in config.search.seeds:
      name = name_of(config, budget, seed)
      found[name] = search(config, task, workdir, budget, seed, program=program)
  return found


def check_budgets(config: Any, task: task_lib.Task) -> None:
  """Raises ValueError for a budget below the cheapest network."""
  c, closed = config.search, task.graph.init_gates()
  for budget in c.budgets:
    options = {'budget': budget, 'unit': c.unit, 'round_to': c.round_to}
    task.graph.decide(closed, keep_branches=True, **options)


def search(
  config: Any,
  task: task_lib.Task,
  workdir: str,
  budget: float,
  seed: int,
  *,
  variant: str = 'learned',
  program: Callable[[], tuple[pruning.Search, runner.Mapped]] | None = None,
) -> dapt.Architecture:
  """Runs, resumes or reads one search.

  Args:
    config: checked configuration.
    task: from `task.load`.
    workdir: of the whole run.
    budget: share of the whole network.
    seed: of gates, weights and batches.
    variant: 'learned' (as the configuration says), 'one_temperature' (relaxation with one
      temperature), 'fixed_weights' (one random draw of weights, never trained), or a classical
      criterion, `schema.CRITERIA`.
    program: makes the search and its compiled update, called if there is something to search; None
      makes them here.

  Returns:
    The architecture, with the search's settings in its provenance.
  """
  name = name_of(config, budget, seed, variant)
  path = pathlib.Path(workdir) / 'search' / name
  recorded: dict[str, Any] = {
    'variant': variant,
    'budget': budget,
    'seed': seed,
    'search': config.search.to_dict() | {'budgets': None, 'seeds': None},
    'data': config.data.to_dict() | {'targets': None, 'test_limit': None},
    'model': config.model.to_dict(),
  }
  criterion = criterion_of(config, variant)
  metrics: Mapping[str, Any] = {}
  if criterion != 'gates':
    recorded['source'] = {'steps': config.transfer.source_steps, 'seed': config.seed}
  if config.search.unit == 'latency':
    recorded['latency'] = {'batch_size': config.latency.batch_size}
  with workdir_lib.open_workdir(path, recorded, kind='search', free_fields=FREE) as opened:
    made = path / 'architecture.json'
    if made.exists():
      return dapt.Architecture.load(made)
    if criterion != 'gates':
      pruned = classical.find(config, task, workdir, path, criterion, budget, seed)
      arch, theta = pruned.architecture, pruned.theta
    else:
      build = program or functools.partial(_program, config, task, workdir, budget, variant)
      theta, metrics = _learn(config, task, opened, build(), seed)
      arch = task.graph.decide(
        theta, budget=budget, unit=config.search.unit, round_to=config.search.round_to
      )
    arch = arch.with_provenance(
      method=variant if criterion == 'gates' else criterion,
      settings=recorded,
      versions=outputs.versions(),
      data_sources=list(task.data_sources),
      metrics={k: float(v) for k, v in metrics.items() if np.ndim(v) == 0},
      theta={n: np.asarray(t).tolist() for n, t in theta.items()},
    )
    arch.save(made)
    task.graph.picture(arch).save(path / 'architecture.svg')
    return arch


def criterion_of(config: Any, variant: str) -> str:
  """'gates' or the classical criterion that a variant of the search goes by."""
  if variant in schema.CRITERIA:
    return variant
  return 'gates' if variant in schema.SEARCHES else config.search.criterion


def _learn(
  config: Any,
  task: task_lib.Task,
  opened: workdir_lib.Workdir,
  program: tuple[pruning.Search, runner.Mapped],
  seed: int,
) -> tuple[Gates, Mapping[str, Any]]:
  """Runs or resumes a search of gates: (logits, last metrics)."""
  searcher, update = program
  with outputs.more_writers(config, opened.path) as more:
    result = loop.run(
      update,
      searcher.init(seeds.key(seed, 'search')),
      batches(task, config.search, seed),
      num_steps=config.search.steps,
      workdir=opened,
      checkpoint_every=config.search.checkpoint_every,
      log_every=config.search.log_every,
      writers=more,
      name=opened.path.name,
      on_metrics=lambda step, state, metrics: probabilities(state.shared.theta),
    )
  return result.state.shared.theta, result.metrics


def _program(
  config: Any, task: task_lib.Task, workdir: str, budget: float, variant: str
) -> tuple[pruning.Search, runner.Mapped]:
  searcher = make_search(config, task, workdir, budget, variant)
  update = runner.make_update(
    searcher.update,
    state_axes=pruning.STATE_AXES,
    batch_axes={'weights': 0, 'gates': None} if _has_episodes(config.search) else None,
    kind=_kind(config),
  )
  return searcher, update


def make_search(
  config: Any, task: task_lib.Task, workdir: str, budget: float, variant: str
) -> pruning.Search:
  """The search that a configuration describes."""
  c = config.search
  kind = 'fixed' if variant == 'fixed_weights' else c.weights
  params = source.train(config, task, workdir) if kind == 'given' else None
  weights = pruning.weights.make(
    kind, task.fast.init, lifetime=c.lifetime, inner_steps=c.inner_steps, params=params
  )
  if kind == 'random_features':
    features = lambda params, x: task.fast.features(params, x, train=True)
    loss = pruning.losses.ridge(features, task.source.num_classes)
  else:
    loss = pruning.losses.cross_entropy(task.fast.apply_train)
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


def start_logits(graph, key, channel: float, branch: float):
  """First logits: small noise around one level for branches and one for all other gates."""
  theta = graph.init_gates(key)
  kinds = {n: g.kind for n, g in graph.gated_groups.items()}
  return {n: t + (branch if kinds[n] == 'branch' else channel) for n, t in theta.items()}


def batches(task: task_lib.Task, settings: Any, seed: int):
  """`batches(step)`: disjoint halves of the source data for weights and gates."""
  halves = data.split(task.source, (0.5, 0.5), seed)
  size, inner = settings.batch_size, settings.inner_steps
  lead = (inner,) if inner > 1 else ()
  if _has_episodes(settings):
    for_weights, lead = episodes(halves[0], settings, seed), (settings.population, *lead)
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


def episodes(dataset: data.Dataset, settings: Any, seed: int):
  """`batches(step)`: for every network of a population a batch out of its own few examples.

  With each draw of weights a network gets a support set of `settings.shots` examples a class, as
  the target will give it, and sees nothing else until the next draw.
  """
  size, lifetime = settings.population, settings.lifetime
  count = settings.batch_size * max(settings.inner_steps, 1)

  @functools.lru_cache(maxsize=4 * size)
  def support(member: int, generation: int):
    own = np.random.SeedSequence([seed, member, generation]).generate_state(1)[0]
    return draws.draw(dataset.labels, settings.shots, int(own))

  def at(step: int):
    chosen = []
    for member in range(size):
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


def _kind(config: Any) -> runner.Kind:
  several = jax.local_device_count() > 1
  return 'pmap' if several and config.search.population % jax.local_device_count() == 0 else 'jit'


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Runs all searches and prints what they found."""
  task = task_lib.load(config)
  if overwrite:
    root = pathlib.Path(workdir)
    flags.clear([*(root / 'search').glob('*'), root / 'source'])
  print('\n'.join(task.data_sources))
  for name, arch in run_all(config, task, workdir).items():
    shares = ', '.join(f'{u} {c["share"]:.2%}' for u, c in arch.costs.items())
    print(f'{name}: {arch.fingerprint()}, {shares}')


if __name__ == '__main__':
  flags.run(main)
