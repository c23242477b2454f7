"""Finds architectures on the source data: one search per budget and seed.

  python -m experiments.prune --config=configs/demo.py --workdir=runs/demo

With --config.search.criterion=gates (the default) the structure is learned. With a classical
criterion (magnitude_l1, magnitude_l2, bn_scale, taylor, random, hessian, fpgm) the whole network is
trained on the source and cut by it, at once or in --config.search.rounds rounds with retraining in
between.

--resume=DIR goes on with the searches of an earlier run under another configuration (more steps,
say); --init=DIR gives the network trained on the source the weights of an earlier run's.

Writes, under WORKDIR/search/NAME/, the search's checkpoints, `metrics.jsonl` (loss, cost, gate
probabilities), `architecture.json` with its `.safetensors`, and the cut network as a picture,
`architecture.svg`. A finished search is not repeated; a stopped one goes on.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import dapt_jax as dapt
from dapt_jax.training import begin as begin_lib
from dapt_jax.training import checkpoint, hosts
from dapt_jax.training import workdir as workdir_lib
from experiments import beginning, classical, flags, gate_search, outputs, schema, source
from experiments import task as task_lib

#: Fields that may change between a run and its continuation.
FREE = ('search.log_every', 'search.checkpoint_every')


def name_of(config: Any, budget: float, seed: int, variant: str = 'learned') -> str:
  """Directory name of one search."""
  return f'{variant}-{config.search.unit}{budget:g}-seed{seed}'


def run_all(
  config: Any, task: task_lib.Task, workdir: str, resume: checkpoint.PathLike | None = None
) -> dict[str, dapt.Architecture]:
  """Runs the searches of a configuration.

  Args:
    config: checked configuration.
    task: from `task.load`.
    workdir: of the whole run.
    resume: work directory of an earlier run, where searches without a checkpoint begin.

  Returns:
    {search name: architecture}.

  Raises:
    ValueError: before any search, if no network with a path through every layer meets a budget.
  """
  check_budgets(config, task)
  found = {}
  for budget in config.search.budgets:
    # Seeds differ in their states only: one program serves them all.
    program = functools.cache(
      functools.partial(gate_search.make_program, config, task, workdir, budget, 'learned')
    )
    for seed in config.search.seeds:
      name = name_of(config, budget, seed)
      found[name] = search(config, task, workdir, budget, seed, program=program, resume=resume)
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
  program: Callable[[], gate_search.Program] | None = None,
  resume: checkpoint.PathLike | None = None,
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
    resume: work directory of an earlier run, whose search of this name it goes on with if it has no
      checkpoint of its own.

  Returns:
    The architecture, with the search's settings in its provenance.
  """
  name = name_of(config, budget, seed, variant)
  path = pathlib.Path(workdir) / 'search' / name
  criterion = criterion_of(config, variant)
  metrics: Mapping[str, Any] = {}
  recorded = _recorded(config, budget, seed, variant)
  with workdir_lib.open_workdir(path, recorded, kind='search', free_fields=FREE) as opened:
    made = path / 'architecture.json'
    if hosts.broadcast(made.exists()):
      return dapt.Architecture.load(made)
    if criterion != 'gates':
      pruned = classical.find(config, task, workdir, path, criterion, budget, seed)
      arch, theta = pruned.architecture, pruned.theta
    else:
      build = program or functools.partial(
        gate_search.make_program, config, task, workdir, budget, variant
      )
      begin = begin_lib.Begin(pathlib.Path(resume) / 'search' / name if resume else None)
      theta, metrics = gate_search.learn(config, task, opened, build(), seed, begin)
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
    hosts.first_does(functools.partial(_save, task, arch, made))
    return arch


def _save(task: task_lib.Task, arch: dapt.Architecture, path: pathlib.Path) -> None:
  """Writes an architecture, and its picture beside it."""
  arch.save(path)
  task.graph.picture(arch).save(path.with_suffix('.svg'))


def _recorded(config: Any, budget: float, seed: int, variant: str) -> dict[str, Any]:
  """The settings that a search depends on."""
  recorded: dict[str, Any] = {
    'variant': variant,
    'budget': budget,
    'seed': seed,
    'search': config.search.to_dict() | {'budgets': None, 'seeds': None},
    'data': config.data.to_dict() | {'targets': None, 'test_limit': None},
    'model': config.model.to_dict(),
  }
  if criterion_of(config, variant) != 'gates':
    recorded['source'] = {'steps': config.transfer.source_steps, 'seed': config.seed}
  if config.search.unit == 'latency':
    recorded['latency'] = {'batch_size': config.latency.batch_size}
  return recorded


def criterion_of(config: Any, variant: str) -> str:
  """'gates' or the classical criterion that a variant of the search goes by."""
  if variant in schema.CRITERIA:
    return variant
  return 'gates' if variant in schema.SEARCHES else config.search.criterion


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Runs all searches and prints what they found."""
  begin, c = beginning.given(), config.search
  names = [name_of(config, budget, seed) for budget in c.budgets for seed in c.seeds]
  if c.unit == 'latency' and hosts.count() > 1:
    raise ValueError(
      'search.unit=latency is measured on the machine of one process: start one process'
    )
  hosts.first_does(functools.partial(beginning.check, begin, config, workdir, names))
  task = task_lib.load(config)
  hosts.agree(task.fingerprints(), 'data')
  if overwrite:
    root = pathlib.Path(workdir)
    flags.clear([*(root / 'search').glob('*'), root / 'source'])
  print('\n'.join(task.data_sources))
  if begin.init:
    source.train(config, task, workdir, init=pathlib.Path(begin.init) / 'source')
  for name, arch in run_all(config, task, workdir, begin.resume).items():
    shares = ', '.join(f'{u} {c["share"]:.2%}' for u, c in arch.costs.items())
    print(f'{name}: {arch.fingerprint()}, {shares}')


if __name__ == '__main__':
  beginning.define()
  flags.run(main, several=True)
