"""Pruning by a classical criterion: at once, or little by little with retraining in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from dapt_jax.graph import Architecture, ChannelGraph
from dapt_jax.pruning import criteria, losses
from dapt_jax.types import Gates, Params, PRNGKey

PATHS = ('polynomial', 'geometric')

#: `retrain(params, gates, number) -> params`: trains weights of the whole network under fixed gates
#: in {0, 1}, before decision `number` (from 1; the first is made without).
Retrain = Callable[[Params, Gates, int], Params]


class Pruned(NamedTuple):
  """What `prune` returns.

  Attributes:
    architecture: the last decision.
    theta: the logits it was made from, `{group: f32[width]}`.
    params: weights of the whole network before it, retrained under the decision before the last.
    decisions: one architecture a step, each inside the one before.
  """

  architecture: Architecture
  theta: Gates
  params: Params
  decisions: tuple[Architecture, ...]


def budgets(budget: float, steps: int, path: str = 'polynomial') -> list[float]:
  """The budgets of all steps, falling from below 1 to the last one.

  'polynomial' cuts most in the first steps, while there is much to spare: what is cut of the cost
  after step t of n is (1 - budget) (1 - (1 - t / n)^3) (Zhu and Gupta, 2018). 'geometric' cuts the
  same share of what is left in every step.

  Args:
    budget: share of the whole network's cost after the last step, in (0, 1].
    steps: at least 1.
    path: one of `PATHS`.

  Returns:
    `steps` shares, the last one exactly the budget.

  Raises:
    ValueError: for an argument out of range.
  """
  if not 0.0 < budget <= 1.0:
    raise ValueError(f'budget is {budget!r}; it is a share and must lie in (0, 1], e.g. 0.25')
  if steps < 1:
    raise ValueError(f'steps is {steps}; it must be at least 1, which prunes at once')
  if path not in PATHS:
    raise ValueError(f'path is {path!r}; allowed are {list(PATHS)}')
  done = [t / steps for t in range(1, steps)]
  if path == 'geometric':
    return [*[budget**t for t in done], budget]
  return [*[budget + (1.0 - budget) * (1.0 - t) ** 3 for t in done], budget]


def prune(
  graph: ChannelGraph,
  params: Params,
  criterion: str,
  budget: float,
  *,
  steps: int = 1,
  path: str = 'polynomial',
  retrain: Retrain | None = None,
  key: PRNGKey | None = None,
  loss_fn: losses.LossFn | None = None,
  batches: Sequence[Any] | None = None,
  **options: Any,
) -> Pruned:
  """Scores and decides, `steps` times with a falling budget; what is cut stays cut.

  Args:
    graph: from `dapt.trace`.
    params: trained weights of the whole network.
    criterion: one of `criteria.NAMES`.
    budget: share of the whole network's cost, in (0, 1].
    steps: 1 decides once; more decide on the way of `budgets`.
    path: one of `PATHS`.
    retrain: called between two steps; None scores the same weights again, as they have been cut.
      `prune` is as pure as this.
    key: for criteria with chance; every step has its own.
    loss_fn: see `criteria.scores`.
    batches: see `criteria.scores`.
    **options: passed to `graph.decide` (unit, round_to, min_width, keep_branches).

  Returns:
    The decisions, with criterion and steps in the provenance of the last one.

  Raises:
    ValueError: as `budgets`, `criteria.scores` and `graph.decide`.
  """
  decisions: list[Architecture] = []
  theta: Gates = {}
  for number, share in enumerate(budgets(budget, steps, path)):
    within = decisions[-1] if decisions else None
    if within is not None and retrain is not None:
      params = retrain(params, within.gates(graph), number)
    theta = criteria.scores(
      criterion,
      graph,
      params,
      key=None if key is None else jax.random.fold_in(key, number),
      loss_fn=loss_fn,
      batches=batches,
      within=within,
    )
    decisions.append(graph.decide(theta, budget=share, within=within, **options))
  made = {'criterion': criterion, 'steps': steps, 'path': path}
  arch = decisions[-1].with_provenance(method=criterion, pruning=made)
  return Pruned(arch, theta, params, (*decisions[:-1], arch))
