"""From gate logits to an architecture: threshold, or an exact budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dapt_jax.graph import checks, chunks, gating, selection
from dapt_jax.graph.architecture import Architecture
from dapt_jax.types import Gates

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph

Masks = dict[str, np.ndarray]


def decide(
  graph: ChannelGraph,
  theta: Gates,
  *,
  budget: float | None = None,
  unit: str = 'macs',
  round_to: int | Mapping[str, int] = 1,
  min_width: int | Mapping[str, int] = 1,
  max_cut: float | Mapping[str, float] = 1.0,
  keep_branches: bool = False,
  within: Architecture | None = None,
  provenance: dict[str, Any] | None = None,
) -> Architecture:
  """Chooses what stays.

  Without a budget a gate stays where theta > 0, which no temperature changes. With one, gates are
  added in decreasing theta until the next would exceed it, branches only where theta > 0; then
  widths that still fit; then widths of low theta are exchanged where that comes closer to the
  budget. Where more than 2% of it would stay unspent, the branches with the smallest |theta| open
  or close against its sign (see `selection`).

  Args:
    graph: from `trace`.
    theta: `{group: f32[width]}` gate logits; groups left out stay whole.
    budget: share of the whole network's cost, in (0, 1].
    unit: 'macs', 'params', 'bytes', or 'latency' on a graph from `calibrate`.
    round_to: keep multiples of this many channels on every axis (all of them is always allowed).
      The gates of a chunk stay or go together. Like the next two either one value for all groups
      or {regular expression: value}; the first expression found in a group's name counts.
    min_width: with a budget, the least number of channels on every axis of a living group, and
      every sum keeps a summand; both go before theta.
    max_cut: with a budget, the largest share of an axis that may be cut; {'head': 0.5, '': 0.9}.
    keep_branches: with a budget, a branch is open where theta > 0 (and where a sum would have no
      summand), however much of the budget widths alone leave; `decision['missed_by']` says it.
    within: an earlier decision on this graph; what it has cut stays cut, whatever theta says.
    provenance: stored with the architecture.

  Returns:
    The architecture with its costs in every unit that the graph has.

  Raises:
    ValueError: for a budget outside (0, 1], an unknown unit, logits that do not fit or are not
      finite, an earlier decision on groups that theta leaves out, a budget below the cheapest
      network, or an architecture that would cut a path through; the message names the layer.
  """
  _check(graph, theta, budget, unit)
  _check_limits(graph, round_to, min_width, max_cut)
  checks.instance(keep_branches, (bool, np.bool_), 'keep_branches', 'it must be True or False')
  if within is not None:
    checks.instance(within, Architecture, 'within', 'pass an earlier Architecture of this graph')
  if provenance is not None:
    checks.instance(provenance, Mapping, 'provenance', 'it must be a dict that JSON can hold')
  logits = {n: np.asarray(t, np.float64) for n, t in theta.items()}
  alive = _alive(graph, logits, within)
  if budget is None:
    gates = chunks.threshold(graph, logits, alive, round_to)
  else:
    limits = selection.Limits(budget, unit, round_to, min_width, max_cut, keep_branches)
    gates = selection.within_budget(graph, logits, alive, limits)
  _check_paths(graph, gates)
  gates = _drop_dead(graph, gates)
  record: dict[str, Any] = {
    'budget': budget,
    'unit': unit,
    'round_to': round_to,
    'min_width': min_width,
    'max_cut': max_cut,
    'keep_branches': keep_branches,
  }
  costs = _costs(graph, gates)
  if budget is not None:
    record['missed_by'] = abs(costs[unit]['share'] - budget)
  return Architecture(
    {n: np.flatnonzero(g).astype(np.int32) for n, g in gates.items()},
    {n: len(g) for n, g in gates.items()},
    costs,
    {'decision': record, **(provenance or {})},
  )


def _alive(
  graph: ChannelGraph, logits: Mapping[str, np.ndarray], within: Architecture | None
) -> Masks:
  """Gates that may stay, `{group: bool[width]}`."""
  alive = {n: np.ones(len(t), bool) for n, t in logits.items()}
  if within is None:
    return alive
  within.check(graph)
  lost = sorted(set(within.kept) - set(alive))
  if lost:
    raise ValueError(
      f'within has decided on the groups {lost}, which theta leaves out and would keep whole; '
      'give theta for every group of the earlier decision'
    )
  return alive | {n: m > 0 for n, m in within.masks().items()}


def _costs(graph: ChannelGraph, gates: Masks) -> dict[str, dict[str, float]]:
  out = {}
  for unit in graph.cost_model.units:
    whole = graph.total(unit)
    kept = float(graph.cost_model.absolute(gates, unit, np))
    out[unit] = {'whole': whole, 'kept': kept, 'share': kept / whole if whole else 1.0}
  return out


def _check(
  graph: ChannelGraph,
  theta: Gates,
  budget: float | None,
  unit: str,
) -> None:
  gating.check(graph, theta, 'theta')
  graph.cost_model.check(unit)
  if budget is not None:
    rule = 'it is a share of the whole network and must lie in (0, 1], e.g. 0.25 for a quarter'
    checks.number(budget, 'budget', rule)
    if not 0.0 < budget <= 1.0:
      raise ValueError(f'budget is {budget!r}; {rule}')


def _check_limits(
  graph: ChannelGraph,
  round_to: int | Mapping[str, int],
  min_width: int | Mapping[str, int],
  max_cut: float | Mapping[str, float],
) -> None:
  whole = 'it is a number of channels and must be at least 1'
  share = 'it is a share of an axis and must lie in [0, 1]'
  settings = (('round_to', round_to, whole), ('min_width', min_width, whole))
  for name, setting, rule in (*settings, ('max_cut', max_cut, share)):
    for value in checks.by_name(setting, name, graph.gated_groups):
      checks.number(value, name, rule)
      fits = 0.0 <= value <= 1.0 if rule is share else value >= 1 and value % 1 == 0
      if not fits:
        raise ValueError(f'{name} is {value!r}; {rule}')


def _living(graph: ChannelGraph, gates: Masks) -> set[str]:
  """Groups that some living parameter or input belongs to."""
  alive = graph.cost_model.live.evaluate(gates)
  of_value = graph.cost_model.live.of_value
  leaves = [alive[of_value[value]] > 0 for value in graph.program.inputs]
  return {
    name
    for name, group in graph.groups.items()
    if any(leaves[i] for i in {s.leaf for s in group.slices} | set(group.carriers))
  }


def _check_paths(graph: ChannelGraph, gates: Masks) -> None:
  """Raises ValueError for a sum without summands or a living layer without channels."""
  for names, is_open in zip(graph.sums, graph.open_sums):
    if not is_open and all(n in gates and gates[n][0] == 0 for n in names):
      raise ValueError(
        f'this would cut the path through: every summand of the sum {names} is removed; '
        'keep one of them, or give decide a budget'
      )
  living = _living(graph, gates)
  for name, gate in gates.items():
    group = graph.groups[name]
    if group.kind in ('branch', 'link') or name not in living:
      continue
    for layer in group.layers:
      if not gate[layer].any():
        raise ValueError(
          f'this would cut the path through: layer {_layer_name(graph, name, layer)!r} keeps 0 '
          f'of its {len(layer)} channels; keep at least one, or give decide a budget'
        )


def _layer_name(graph: ChannelGraph, name: str, layer: np.ndarray) -> str:
  """The group, with an argument that has exactly this layer where the group is wider."""
  group = graph.groups[name]
  if len(layer) == group.width:
    return name
  found = next(s for s in group.slices if np.array_equal(np.unique(s.index), layer))
  return f'{graph.tree.names[found.leaf]} of {name}'


def _drop_dead(graph: ChannelGraph, gates: Mapping[str, np.ndarray]) -> Masks:
  """Groups whose branch is gone keep nothing, so that equal networks are equal architectures."""
  living = _living(graph, dict(gates))
  return {
    n: g if n in living or graph.groups[n].kind == 'branch' else np.zeros_like(g)
    for n, g in gates.items()
  }
