"""What the transfer stage compares: found architectures and every baseline of a configuration."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import dapt_jax as dapt
from dapt_jax.pruning import baselines
from dapt_jax.training import seeds
from dapt_jax.transfer import structures
from dapt_jax.transfer.protocol import Candidate
from experiments import prune, schema, source
from experiments import task as task_lib


def make(
  config: Any, task: task_lib.Task, workdir: str, learned: Mapping[str, dapt.Architecture]
) -> list[Candidate]:
  """All candidates of a configuration, the learned ones first.

  Args:
    config: checked configuration.
    task: from `task.load`.
    workdir: where searches of baselines and the source network are kept.
    learned: {search name: architecture} of `prune.run_all`.

  Returns:
    Candidates; architectures that came out equal stay separate entries with equal results.
  """
  maker = _Maker(config, task, workdir)
  out = [maker.dense()] if 'dense' in config.transfer.baselines else []
  for budget in config.search.budgets:
    found = {seed: learned[prune.name_of(config, budget, seed)] for seed in config.search.seeds}
    for seed, arch in found.items():
      out.append(maker.of(arch, 'learned', f'seed{seed}', budget, seed))
    out += maker.baselines(budget, found)
  for name in schema.DENSE:
    if name in config.transfer.baselines and name != 'inherited':
      out.append(maker.pretrained(name))
  return out


class _Maker:
  def __init__(self, config: Any, task: task_lib.Task, workdir: str) -> None:
    self.config = config
    self.task = task
    self.workdir = workdir

  @functools.cached_property
  def trained(self) -> Any:
    """Weights of the whole network, trained on the source."""
    return source.train(self.config, self.task, self.workdir)

  def of(
    self,
    arch: dapt.Architecture,
    method: str,
    name: str,
    budget: float,
    seed: int = -1,
    inherited: Any = None,
  ) -> Candidate:
    """A candidate that retrains an architecture.

    `inherited` weights keep their readout; those of `transfer.weights` get a new one every run.
    """
    task, head = self.task, None
    if inherited is None and self.config.transfer.weights == 'inherited':
      inherited, head = self.trained, 'head'
    build = functools.partial(
      structures.of_architecture,
      task.traced,
      task.graph,
      task.train_graph,
      arch,
      inherited=inherited,
      head=head,
    )
    weights = 'fresh' if inherited is None else 'inherited'
    unit = self.config.search.unit
    content = f'{weights}|{head}|{arch.fingerprint()}'
    return Candidate(method, name, build, budget, unit, seed, weights, arch.costs, content)

  def dense(self) -> Candidate:
    """The whole network from fresh weights."""
    arch = baselines.make('dense', self.task.graph, budget=1.0)
    build = functools.partial(structures.of_model, self.task.fast, self.task.alone)
    unit = self.config.search.unit
    return Candidate('dense', 'whole', build, 1.0, unit, -1, 'fresh', arch.costs)

  def pretrained(self, name: str) -> Candidate:
    """The whole network with source weights, fine-tuned or with a new readout only."""
    build = functools.partial(
      structures.dense_pretrained,
      self.task.fast,
      self.trained,
      readout_only=name == 'pretrained_readout',
      head='head',
      outside=self.task.alone,
    )
    costs = self.dense().costs
    return Candidate(name, 'whole', build, 1.0, self.config.search.unit, -1, 'inherited', costs)

  def baselines(self, budget: float, learned: Mapping[int, dapt.Architecture]) -> list[Candidate]:
    """Every baseline of equal cost."""
    c, graph = self.config, self.task.graph
    wanted = c.transfer.baselines
    exact = {'budget': budget, 'unit': c.search.unit, 'round_to': c.search.round_to}
    key = seeds.key(c.seed, f'baselines{budget:g}')
    out = []
    if 'random' in wanted:
      for number in range(c.transfer.random_architectures):
        arch = baselines.make('random', graph, key=jax.random.fold_in(key, number), **exact)
        out.append(self.of(arch, 'random', f'random{number}', budget))
    if 'uniform' in wanted:
      out.append(self.of(baselines.make('uniform', graph, **exact), 'uniform', 'uniform', budget))
    for name in ('same_counts', 'shuffled'):
      if name in wanted:
        for seed, arch in learned.items():
          theta = {n: jnp.asarray(t) for n, t in arch.provenance['theta'].items()}
          mixed = baselines.make(
            name, graph, theta=theta, key=jax.random.fold_in(key, 1000 + seed), **exact
          )
          out.append(self.of(mixed, name, f'seed{seed}', budget, seed))
    for name in (*schema.CRITERIA, *schema.SEARCHES):
      if name in wanted:
        seed = c.search.seeds[0]
        arch = prune.search(c, self.task, self.workdir, budget, seed, variant=name)
        out.append(self.of(arch, name, f'seed{seed}', budget, seed))
    if 'inherited' in wanted:
      for seed, arch in learned.items():
        out.append(self.of(arch, 'inherited', f'seed{seed}', budget, seed, self.trained))
    return out
