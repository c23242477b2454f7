"""The few-shot protocol: every candidate on every draw, as rows of one table."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.data import Dataset
from dapt_jax.transfer import draws, retrain
from dapt_jax.transfer import ledger as ledger_lib
from dapt_jax.types import PRNGKey


class Candidate(NamedTuple):
  """One thing to compare.

  Attributes:
    method: e.g. 'learned', 'random', 'dense'.
    architecture: names it among those of its method, e.g. 'seed0'.
    build: makes the trainable structure; called when its turn comes.
    budget: share asked for, or 1.0 where no budget applies.
    unit: of the budget.
    search_seed: seed of the search it comes from, -1 where there is none.
    weights: 'fresh' or 'inherited'.
    costs: as in `Architecture.costs`.
    content: candidates of equal content are the same network from the same first weights, so they
      are retrained once; None: like no other.
  """

  method: str
  architecture: str
  build: Callable[[], retrain.Structure]
  budget: float
  unit: str
  search_seed: int
  weights: str
  costs: dict[str, dict[str, float]]
  content: str | None = None

  def label(self, target: str) -> str:
    """Identity of the candidate on a target, for resuming."""
    return f'{target}|{self.unit}|{self.budget:g}|{self.method}|{self.architecture}'


class Target(NamedTuple):
  """A task with little data.

  Attributes:
    name: of the data set.
    source: name of the data set the structures come from.
    train: the split that supports are drawn from.
    test: the split that accuracies are measured on.
    standardizer: what a network is shown of images in [0, 1], nothing fitted on the target.
  """

  name: str
  source: str
  train: Dataset
  test: Dataset
  standardizer: Callable[[np.ndarray], np.ndarray]


def compare(
  candidates: Sequence[Candidate],
  target: Target,
  *,
  shots: Sequence[int],
  num_draws: int,
  recipe: retrain.Recipe,
  key: PRNGKey,
  draw_seed: int = 0,
  workers: int = 1,
  devices: Sequence[jax.Device] | None = None,
  ledger: ledger_lib.Ledger | None = None,
  on_done: Callable[[Candidate], None] | None = None,
) -> list[dict[str, Any]]:
  """Retrains and tests every candidate on every draw.

  All candidates see the same draws, and the same first-weight keys, so differences can be paired.
  Images are prepared by `target.standardizer`, which knows the *source*, as a deployed structure
  does; the test split is touched once per run, after training.

  Args:
    candidates: what to compare.
    target: the task.
    shots: examples a class.
    num_draws: independent support sets for every number of shots.
    recipe: how to retrain, the same for all.
    key: of first weights and batches.
    draw_seed: of the support sets.
    workers: threads; each compiles and runs one candidate at a time.
    devices: that the draws of a candidate are spread over, see `retrain.retrain`; with one worker.
    ledger: finished candidates are read from and added to it.
    on_done: called as each candidate finishes.

  Returns:
    Rows in the order of the candidates, one per candidate, number of shots and draw.

  Raises:
    ValueError: if two candidates have one label, a class has too few examples, or the ledger holds
      results of other draws.
    FloatingPointError: if a retraining diverged.
  """
  support = draws.supports(target.train.labels, shots, num_draws, draw_seed)
  ledger = ledger or ledger_lib.Ledger(None)
  _check(candidates, target, support, ledger)
  images = _images(target, support, num_draws)

  def one(equal: list[Candidate]) -> None:
    missing = [c for c in equal if c.label(target.name) not in ledger.rows]
    if missing:
      outcome = retrain.retrain(
        missing[0].build(), *images, recipe=recipe, key=key, devices=devices
      )
    for candidate in equal:
      if candidate in missing:
        rows = list(_rows(candidate, target, support, outcome))
        ledger.add(candidate.label(target.name), rows)
      if on_done is not None:
        on_done(candidate)

  _in_threads(one, _equal(candidates), workers)
  return [row for c in candidates for row in ledger.rows[c.label(target.name)]]


class _Images(NamedTuple):
  """What `retrain.retrain` is given of a target, in its order; images are standardised."""

  train_images: jax.Array
  train_labels: jax.Array
  support: draws.Support
  test_images: jax.Array
  test_labels: jax.Array


def _images(target: Target, support: draws.Support, num_draws: int) -> _Images:
  """Only the examples that some support set holds travel to the device."""
  used, index = np.unique(support.index, return_inverse=True)
  # As many for every target, so that a compilation cache serves the next one as well.
  used = np.resize(used, num_draws * support.index.shape[1])
  supports = target.train.subset(used)
  return _Images(
    jnp.asarray(target.standardizer(supports.images)),
    jnp.asarray(supports.labels),
    support._replace(index=index.reshape(support.index.shape).astype(np.int32)),
    jnp.asarray(target.standardizer(target.test.images)),
    jnp.asarray(target.test.labels),
  )


def _in_threads(
  one: Callable[[list[Candidate]], None], jobs: Sequence[list[Candidate]], workers: int
) -> None:
  """Does all jobs; after an error those that have not begun are dropped."""
  with concurrent.futures.ThreadPoolExecutor(max(workers, 1)) as pool:
    futures = [pool.submit(one, job) for job in jobs]
    try:
      for future in concurrent.futures.as_completed(futures):
        future.result()
    except BaseException:
      for future in futures:
        future.cancel()
      raise


def _equal(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
  """Candidates in groups of equal content."""
  groups: dict[Any, list[Candidate]] = {}
  for number, candidate in enumerate(candidates):
    groups.setdefault(candidate.content or number, []).append(candidate)
  return list(groups.values())


def _check(
  candidates: Sequence[Candidate], target: Target, support: draws.Support, ledger: ledger_lib.Ledger
) -> None:
  labels = [c.label(target.name) for c in candidates]
  twice = sorted({label for label in labels if labels.count(label) > 1})
  if twice:
    raise ValueError(f'candidates {twice} come twice; give each architecture its own name')
  wanted = list(zip(support.shots.tolist(), support.draw.tolist()))
  for label in labels:
    found = [(row['shots'], row['draw']) for row in ledger.rows.get(label, ())]
    if found and found != wanted:
      raise ValueError(
        f'{ledger.path or "the ledger"} holds {label!r} with other shots or draws; start a new '
        'ledger, or ask for the same ones'
      )


def _rows(
  candidate: Candidate, target: Target, support: draws.Support, outcome: retrain.Outcome
) -> Iterable[dict[str, Any]]:
  for run in range(len(support.shots)):
    yield {
      'source': target.source,
      'target': target.name,
      'unit': candidate.unit,
      'budget': candidate.budget,
      'method': candidate.method,
      'architecture': candidate.architecture,
      'search_seed': candidate.search_seed,
      'shots': int(support.shots[run]),
      'draw': int(support.draw[run]),
      'weights': candidate.weights,
      'accuracy': float(outcome.accuracy[run]),
      'support_loss': float(outcome.loss[run]),
      'steps': int(outcome.steps[run]),
      'macs': candidate.costs['macs']['kept'],
      'macs_share': candidate.costs['macs']['share'],
      'params': candidate.costs['params']['kept'],
      'params_share': candidate.costs['params']['share'],
    }
