"""From gate logits to an architecture: threshold, or an exact budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dapt_jax.graph import cost, gating
from dapt_jax.graph.architecture import Architecture
from dapt_jax.types import Gates

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph


def decide(
  graph: ChannelGraph,
  theta: Gates,
  *,
  budget: float | None = None,
  unit: str = 'macs',
  round_to: int = 1,
  min_width: int = 1,
  provenance: dict[str, Any] | None = None,
) -> Architecture:
  """Chooses what stays.

  Without a budget a gate stays where theta > 0, which no temperature changes. With one, gates are
  added in decreasing theta until the next would exceed it, then whatever still fits is added.
  With a budget every group keeps at least `min_width` and every sum one summand.

  Args:
    graph: from `trace`.
    theta: `{group: f32[width]}` gate logits; groups left out stay whole.
    budget: share of the whole network's cost, in (0, 1].
    unit: 'macs' or 'params'.
    round_to: keep multiples of this many channels (a group's full width is always allowed).
    min_width: least number of channels a living group keeps.
    provenance: stored with the architecture.

  Returns:
    The architecture with its costs in every unit.

  Raises:
    ValueError: for a budget outside (0, 1], an unknown unit, logits that do not fit or are not
      finite, a budget below the cheapest network, or an architecture that would cut a path
      through; the message names the layer.
  """
  _check(graph, theta, budget, unit, round_to, min_width)
  logits = {n: np.asarray(t, np.float64) for n, t in theta.items()}
  if budget is None:
    gates = _threshold(logits, graph, round_to)
  else:
    gates = _Greedy(graph, logits, unit, round_to, min_width).run(budget)
  _check_paths(graph, gates)
  gates = _drop_dead(graph, gates)
  costs = {}
  for name in cost.UNITS:
    whole, kept = graph.total(name), float(graph.cost_model.absolute(gates, name, np))
    costs[name] = {'whole': whole, 'kept': kept, 'share': kept / whole}
  record = {'decision': {'budget': budget, 'unit': unit, 'round_to': round_to}}
  if budget is not None:
    record['decision']['missed_by'] = abs(costs[unit]['share'] - budget)
  return Architecture(
    {n: np.flatnonzero(g).astype(np.int32) for n, g in gates.items()},
    {n: len(g) for n, g in gates.items()},
    costs,
    {**record, **(provenance or {})},
  )


def _check(graph, theta, budget, unit, round_to, min_width):
  gating.check(graph, theta)
  if unit not in cost.UNITS:
    raise ValueError(f'unit is {unit!r}; allowed are {list(cost.UNITS)}')
  if budget is not None and not 0.0 < budget <= 1.0:
    raise ValueError(
      f'budget is {budget!r}; it is a share of the whole network and must lie in (0, 1], '
      'e.g. 0.25 for a quarter'
    )
  if round_to < 1 or min_width < 1:
    raise ValueError(f'round_to and min_width must be at least 1, got {round_to} and {min_width}')
  for name, logits in theta.items():
    if not np.isfinite(np.asarray(logits)).all():
      raise ValueError(f'theta[{name!r}] is not finite; the search has diverged, lower its rate')


def _chunks(logits, group, round_to):
  """Index sets that are added together, best first, with their priorities."""
  order = np.argsort(-logits, kind='stable')
  size = 1 if group.kind in ('branch', 'link') else round_to
  parts = [order[i : i + size] for i in range(0, len(order), size)]
  return [(float(logits[p].mean()), p) for p in parts]


def _threshold(logits, graph, round_to):
  gates = {}
  for name, values in logits.items():
    gate = np.zeros(len(values), np.float32)
    for _, part in _chunks(values, graph.groups[name], round_to):
      if values[part].mean() > 0:
        gate[part] = 1.0
    gates[name] = gate
  return gates


class _Greedy:
  """Adds chunks of gates in decreasing logit up to a budget."""

  def __init__(self, graph, logits, unit, round_to, min_width):
    self.graph = graph
    self.unit = unit
    self.total = graph.total(unit)
    self.must: list[tuple[str, np.ndarray]] = []
    free: list[tuple[float, str, np.ndarray]] = []
    closed = [s for s, is_open in zip(graph.sums, graph.open_sums) if not is_open]
    saved = {max(s, key=lambda n: logits[n][0]) for s in closed if all(n in logits for n in s)}
    for name, values in logits.items():
      group = graph.groups[name]
      least = {'branch': int(name in saved), 'link': 0}.get(group.kind, min_width)
      have = 0
      for priority, part in _chunks(values, group, round_to):
        if have < least:
          self.must.append((name, part))
        else:
          free.append((priority, name, part))
        have += len(part)
    self.free = sorted(free, key=lambda f: -f[0])
    self.empty = {n: np.zeros(len(v), np.float32) for n, v in logits.items()}

  def _with(self, count):
    gates = {n: g.copy() for n, g in self.empty.items()}
    for name, part in self.must:
      gates[name][part] = 1.0
    for _, name, part in self.free[:count]:
      gates[name][part] = 1.0
    return gates

  def share(self, gates):
    return float(self.graph.cost_model.absolute(gates, self.unit, np)) / self.total

  def run(self, budget):
    limit = budget * (1 + 1e-9)
    least = self.share(self._with(0))
    if least > limit:
      raise ValueError(
        f'budget is {budget} of the {self.unit}, but the cheapest network that leaves a path '
        f'through every layer takes {least:.4f}; the widest of its layers is '
        f'{self._widest()!r}: raise the budget, lower min_width or round_to, or gate more levels'
      )
    low, high = 0, len(self.free)
    while low < high:
      middle = (low + high + 1) // 2
      low, high = (
        (middle, high) if self.share(self._with(middle)) <= limit else (low, middle - 1)
      )
    gates = self._with(low)
    full: set[str] = set()
    for _, name, part in self.free[low:]:
      if name in full:
        continue
      gates[name][part] = 1.0
      if self.share(gates) > limit:
        gates[name][part] = 0.0
        full.add(name)
    return gates

  def _widest(self):
    gates = self._with(0)
    names = [n for n in gates if self.graph.groups[n].kind != 'branch']
    return max(names, key=lambda n: gates[n].sum(), default='?')


def _living(graph, gates):
  """Groups that some living parameter belongs to."""
  alive = graph.cost_model.live.evaluate(gates)
  of_value = graph.cost_model.live.of_value
  out = set()
  for name, group in graph.groups.items():
    leaves = {s.leaf for s in group.slices} | set(group.carriers)
    if any(alive[of_value[graph.program.inputs[leaf]]] > 0 for leaf in leaves):
      out.add(name)
  return out


def _check_paths(graph, gates):
  for names, is_open in zip(graph.sums, graph.open_sums):
    if not is_open and all(n in gates and gates[n][0] == 0 for n in names):
      raise ValueError(
        f'this would cut the path through: every summand of the sum {names} is removed; '
        'keep one of them, or give decide a budget'
      )
  living = _living(graph, gates)
  for name, gate in gates.items():
    if graph.groups[name].kind != 'branch' and name in living and not gate.any():
      raise ValueError(
        f'this would cut the path through: layer {name!r} keeps 0 of its {len(gate)} channels; '
        'keep at least one, or give decide a budget'
      )


def _drop_dead(graph, gates):
  """Groups whose branch is gone keep nothing, so that equal networks are equal architectures."""
  living = _living(graph, gates)
  return {
    n: g if n in living or graph.groups[n].kind == 'branch' else np.zeros_like(g)
    for n, g in gates.items()
  }
