"""Classical pruning criteria as gate logits: `graph.decide` cuts by them as by learned ones.

A saliency (see `saliency`) is divided by the mean of its layer: the gates of one group, or the
branches of one sum. The logit is this ratio minus 1. So layers are compared by how far their gates
stand out from their like, whatever the units; without a budget what is at or above the mean stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dapt_jax.graph import Architecture, ChannelGraph
from dapt_jax.pruning import losses, saliency
from dapt_jax.types import Gates, Params, PRNGKey

NAMES = (
  'magnitude_l1',
  'magnitude_l2',
  'bn_scale',
  'taylor',
  'random',
  'hessian',
  'fpgm',
)
_NEEDS = {
  'taylor': ('loss_fn', 'batches'),
  'random': ('key',),
  'hessian': ('key', 'loss_fn', 'batches'),
}
#: Keeps what is as good as the mean of its layer, whatever the rounding of the last digit.
_TIE = 1e-6


def scores(
  name: str,
  graph: ChannelGraph,
  params: Params,
  *,
  key: PRNGKey | None = None,
  loss_fn: losses.LossFn | None = None,
  batches: Sequence[Any] | None = None,
  within: Architecture | None = None,
) -> Gates:
  """Gate logits of a criterion, to be handed to `graph.decide`.

  Branches: those of one sum are compared with each other, and those below the mean get a logit
  below 0, so they open only where widths cannot spend a budget. A branch that is the only gated
  summand of its sum (a residual block) has no rival: its logit is its saliency over the mean of all
  such branches, above 0 unless the saliency is 0. So blocks stay, and the least of them go first
  where widths cannot meet the budget. Branches that a criterion has nothing to say about count as
  average; other such groups are left out, and stay whole.

  Args:
    name: one of `NAMES`.
    graph: from `dapt.trace`.
    params: trained weights of the whole network.
    key: for 'random' and 'hessian'.
    loss_fn: `loss_fn(params, batch) -> f32[]`, for 'taylor' and 'hessian'.
    batches: what it is averaged over, likewise.
    within: an earlier decision: the network is scored as it has been cut so far. To be given to
      `decide`, too.

  Returns:
    `{group: f32[width]}`; at least -1, 0 at the mean of the layer.

  Raises:
    ValueError: for an unknown name, a missing argument, weights or losses that are not finite, or a
      network about which the criterion has nothing to say.
  """
  _check(name, {'key': key, 'loss_fn': loss_fn, 'batches': batches})
  alive = {n: np.ones(g.width, bool) for n, g in graph.gated_groups.items()}
  if within is not None:
    params = graph.apply_gates(params, within.gates(graph))
    alive |= {n: m > 0 for n, m in within.masks().items()}
  given: dict[str, Any] = {'loss_fn': loss_fn, 'batches': batches}
  measure: dict[str, Callable[[], saliency.Saliency]] = {
    'magnitude_l1': lambda: saliency.magnitude(graph, params, order=1),
    'magnitude_l2': lambda: saliency.magnitude(graph, params, order=2),
    'bn_scale': lambda: saliency.bn_scale(graph, params),
    'taylor': lambda: saliency.taylor(graph, params, **given),
    'random': lambda: saliency.random(graph, key),  # type: ignore[arg-type]
    'hessian': lambda: saliency.hessian(graph, params, key=key, **given),  # type: ignore[arg-type]
    'fpgm': lambda: saliency.fpgm(graph, params, alive),
  }
  found = measure[name]()
  _check_found(name, graph, found)
  logits = relative(graph, found, alive)
  return jax.device_put({n: t.astype(np.float32) for n, t in logits.items()})


def relative(
  graph: ChannelGraph, found: Mapping[str, np.ndarray], alive: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Logits of saliencies: over the mean of the layer, minus 1; see `scores` for branches.

  Args:
    graph: from `dapt.trace`.
    found: `{group: f[width]}`, none below 0.
    alive: `{group: bool[width]}`; the others count as 0, and not in the means of channels. In those
      of branches they do: else half of a sum would close in every step of a schedule.

  Returns:
    `{group: f[width]}`, in the order of the graph.
  """
  lone = [names[0] for names in graph.sums if len(names) == 1]
  kinds = {n: g.kind for n, g in graph.gated_groups.items()}
  out = {}
  for names in [lone, *[n for n in layers(graph) if n[0] not in lone]]:
    known = {n: found[n] * alive[n] for n in names if n in found}
    total = sum(v.sum() for v in known.values())
    count = sum(len(v) if kinds[n] == 'branch' else alive[n].sum() for n, v in known.items())
    mean = total / count if total else 1.0
    for name, values in known.items():
      out[name] = values / mean - (0.0 if name in lone else 1.0 - _TIE)
  for name, kind in kinds.items():
    if kind == 'branch' and name not in out:
      out[name] = np.full(1, _TIE)
  return {n: out[n] for n in graph.gated_groups if n in out}


def layers(graph: ChannelGraph) -> list[list[str]]:
  """Gates that are compared with each other: the branches of one sum; those inside one group."""
  branches = {n for names in graph.sums for n in names}
  return [*graph.sums, *[[n] for n in graph.gated_groups if n not in branches]]


def _check(name: str, given: Mapping[str, Any]) -> None:
  if name not in NAMES:
    raise ValueError(f'criterion is {name!r}; allowed are {list(NAMES)}')
  for need in _NEEDS.get(name, ()):
    if given[need] is None or (need == 'batches' and not len(given[need])):
      raise ValueError(f'criterion {name!r} needs {need}; pass {need}=...')


def _check_found(name: str, graph: ChannelGraph, found: Mapping[str, np.ndarray]) -> None:
  if not found:
    what = 'scale of a normalisation' if name == 'bn_scale' else 'filters to compare'
    raise ValueError(
      f'criterion {name!r} finds no {what} along any of the groups {list(graph.gated_groups)}; '
      "take another criterion, such as 'magnitude_l2', or gate the level 'channel'"
    )
  for group, values in found.items():
    if not np.isfinite(values).all():
      raise ValueError(
        f'criterion {name!r} is not finite in group {group!r}; weights, batches or the loss hold '
        'inf or NaN: score a network whose training has not diverged'
      )
