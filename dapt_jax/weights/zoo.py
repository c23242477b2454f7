"""A zoo: many trained networks over many tasks, in shards on disk that can be resumed and checked.

A zoo is a directory. `zoo.json` says what all networks share: model, split, recipe, seeds. A shard
is two files, `shard-0000.json` (a record a network: task, start, width, accuracy, loss)
and `shard-0000.safetensors` (their weights), each written whole or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.models import model as model_lib
from dapt_jax.tasks import bank as bank_lib
from dapt_jax.tasks import task as task_lib
from dapt_jax.training import hosts, seeds, writers
from dapt_jax.weights import first_weights, members, shards
from dapt_jax.weights import widths as widths_lib


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a zoo is made of.

  Attributes:
    size: number of networks.
    part: of the split; 'zoo', or a held-out part for networks that others are compared with.
    per_class: training images a class of every network.
    test_per_class: test images a class that its accuracy is measured on.
    start: one of `first_weights.STARTS`.
    starts: how many first weights are shared; every network begins at one of them.
    seed: of tasks, images, first weights and batches.
    shard: networks a shard.
  """

  size: int
  part: str = 'zoo'
  per_class: int = 40
  test_per_class: int = 50
  start: str = 'shared'
  starts: int = 1
  seed: int = 0
  shard: int = 500

  def __post_init__(self) -> None:
    for field in ('size', 'per_class', 'test_per_class', 'starts', 'shard'):
      if getattr(self, field) < 1:
        raise ValueError(f'{field} is {getattr(self, field)}; it must be at least 1')
    if self.start not in first_weights.STARTS:
      raise ValueError(f'start {self.start!r}: choose one of {list(first_weights.STARTS)}')
    if self.start == 'independent' and self.starts > 1:
      raise ValueError(f"starts is {self.starts}; with start 'independent' none is shared: leave 1")


@dataclasses.dataclass(frozen=True)
class Zoo:
  """Networks in memory.

  Attributes:
    head: what all networks share, JSON-ready.
    tasks: task of every network.
    records: for every network {'task', 'start', 'width', 'accuracy', 'loss'}.
    vectors: f32[N, size], their weights; `members.flatten(model).unravel` makes a pytree of one.
  """

  head: dict[str, Any]
  tasks: list[task_lib.Task]
  records: list[dict[str, Any]]
  vectors: np.ndarray

  @property
  def accuracy(self) -> np.ndarray:
    """f32[N], on the test images of each network's task."""
    return np.array([r['accuracy'] for r in self.records], np.float32)

  @property
  def widths(self) -> np.ndarray:
    """i64[N], which model each network is: 0 the widest, k the k-th of the narrower ones."""
    return np.array([r['width'] for r in self.records])


def build(
  path: str | os.PathLike[str],
  model: model_lib.Model,
  bank: bank_lib.Bank,
  plan: Plan,
  recipe: members.Recipe,
  *,
  narrower: Sequence[model_lib.Model] = (),
  head: Mapping[str, Any] | None = None,
  on_shard: Callable[[int, int, float], None] | None = None,
) -> Zoo:
  """Trains the networks that are not there yet.

  Shards are spread over the devices of all processes, which must all see the directory. A shard
  depends on the plan and its number alone, so a build that was stopped goes on where it was and
  ends as if it had not been.

  Args:
    path: directory of the zoo; made where it is missing.
    model: the network of all members, the widest one, created with `in_loop=True`.
    bank: images, and the split.
    plan: what to build.
    recipe: how a member is trained.
    narrower: networks of fewer units, see `widths.make`; all get equal shares of the zoo.
    head: more entries for `zoo.json`, such as the fingerprint of an architecture.
    on_shard: called with (shards done, shards in all, mean accuracy of the last one).

  Returns:
    The whole zoo.

  Raises:
    ValueError: if the directory holds another zoo (the entries that differ are named), or a shard
      is damaged.
    WorkdirError: if another job is building there.
    OSError: if the disk refuses.
  """
  root = pathlib.Path(path)
  several = widths_lib.make((model, *narrower))
  described = _describe(several, bank, plan, recipe, head or {})
  hosts.agree(described, 'zoo')
  with contextlib.ExitStack() as stack:
    hosts.first_does(lambda: shards.begin(stack, root, described))
    _train_missing(root, several, bank, plan, recipe, on_shard or (lambda *_: None))
    hosts.any_of(False)  # all have written what they trained
  return load(root)


def _train_missing(root, several, bank, plan, recipe, on_shard) -> None:
  """Trains and writes this process's share of the shards that are not there yet."""
  counts = [min(plan.shard, plan.size - s) for s in range(0, plan.size, plan.shard)]
  every = range(len(counts))
  missing = hosts.first_does(lambda: [k for k in every if not shards.is_there(root, k)])
  missing = hosts.broadcast(missing)[hosts.index() :: hosts.count()]
  done = len(counts) - len(missing)
  images = {d: jax.device_put(bank.images, d) for d in jax.local_devices()}
  flat = members.flatten(several.models[0])
  for begin in range(0, len(missing), len(images)):
    batch = missing[begin : begin + len(images)]
    # Dispatch returns at once: the devices work side by side until results are asked for.
    running = [
      _train(flat, several, bank, plan, recipe, k, counts[k], images[d])
      for k, d in zip(batch, images)
    ]
    for number, (tasks, first, *found) in zip(batch, running):
      done += 1
      origins = list(zip(first.start, first.width))
      on_shard(
        done, len(counts), shards.save(root, number, tasks, origins, *map(np.asarray, found))
      )


def _train(flat, several, bank, plan, recipe, number, count, images):
  """(tasks, first weights, weights, losses, accuracies) of one shard, still being computed."""
  seed = int(np.random.SeedSequence([plan.seed, number]).generate_state(1)[0])
  tasks = bank.split.draw(plan.part, count, seed)
  draw = lambda side, k: jnp.asarray(bank.draw(tasks, plan.part, side, k, seed))
  own = jax.random.split(seeds.key(seeds.key(plan.seed, plan.part), f'shard {number}'), 2)
  starts = plan.starts if plan.start == 'shared' else 0
  rng = np.random.default_rng([seed, plan.starts])
  first = first_weights.draw(flat, several, count, starts, plan.seed, rng, own[0])
  # Both are drawn before any work: there may be too few images.
  train, test = draw('train', plan.per_class), draw('test', plan.test_per_class)
  keys = jax.random.split(own[1], count)
  run = members.train(flat, recipe, first.vectors, images, train, keys)
  vectors = members.refresh(flat, run.vector, images, train)
  found = members.accuracy(flat, vectors, images, test)
  return tasks, first, vectors, run.loss, found


def load(path: str | os.PathLike[str]) -> Zoo:
  """Reads a zoo.

  Raises:
    FileNotFoundError: if there is none, or shards are missing.
    ValueError: for a damaged file; the message names it.
  """
  head, records, vectors = shards.read(pathlib.Path(path))
  return Zoo(head, [task_lib.Task.parse(r['task']) for r in records], records, vectors)


def _describe(several, bank, plan, recipe, more) -> dict[str, Any]:
  split = dataclasses.asdict(bank.split)
  head = {
    'model': several.models[0].spec,
    'narrower': [m.spec for m in several.models[1:]],
    'split': {**split, 'held_classes': sorted(map(list, split['held_classes']))},
    'plan': dataclasses.asdict(plan),
    'recipe': dataclasses.asdict(recipe),
    **more,
  }
  return json.loads(json.dumps(writers.jsonable(head)))
