"""Architectures to compare with, at the same budget and through the same decision.

Those that score the weights of a trained network are in `criteria`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.graph import Architecture, ChannelGraph, choice
from dapt_jax.pruning import criteria
from dapt_jax.types import Gates, PRNGKey

NAMES = ('dense', 'random', 'uniform', 'same_counts', 'shuffled')

#: Random sets of branches tried.
_DRAWS = 1000
_NEEDS = {
  'random': ('key',),
  'same_counts': ('theta', 'key'),
  'shuffled': ('theta', 'key'),
}


def make(
  name: str,
  graph: ChannelGraph,
  *,
  budget: float,
  unit: str = 'macs',
  key: PRNGKey | None = None,
  theta: Gates | None = None,
  **options: Any,
) -> Architecture:
  """A baseline by name.

  Args:
    name: 'dense' (everything), 'random' (random widths and branches), 'uniform' (the same share of
      every layer), 'same_counts' (random, with the learned counts per layer), 'shuffled' (learned
      logits permuted within layers).
    graph: from `dapt.trace`.
    budget: share of the whole network's cost; without effect on 'dense' and 'same_counts'.
    unit: one of `graph.UNITS`.
    key: for the random ones.
    theta: learned logits, for 'same_counts' and 'shuffled'.
    **options: passed to `graph.decide` (round_to, min_width).

  Returns:
    The architecture, with the baseline's name in its provenance.

  Raises:
    ValueError: for an unknown name, or where key or theta is needed and missing.
  """
  if name not in NAMES:
    raise ValueError(f'baseline is {name!r}; allowed are {list(NAMES)}')
  have: Mapping[str, Any] = {'key': key, 'theta': theta}
  for need in _NEEDS.get(name, ()):
    if have[need] is None:
      raise ValueError(f'baseline {name!r} needs {need}; pass {need}=...')
  exact = {'budget': budget, 'unit': unit, **options}
  make_logits: dict[str, Callable[..., Gates]] = {
    'dense': lambda: graph.init_gates(mean=1.0),
    'uniform': lambda: uniform_logits(graph),
    'same_counts': lambda: _signs(graph, graph.decide(have['theta'], **exact)),
    'shuffled': lambda: have['theta'],
  }
  if name == 'random':
    return random_architecture(graph, have['key'], **exact).with_provenance(method=name)
  logits = make_logits[name]()
  if name in ('same_counts', 'shuffled'):
    logits = shuffle(graph, logits, have['key'])
  arch = graph.decide(logits, **({} if name in ('dense', 'same_counts') else exact))
  return arch.with_provenance(method=name)


def _signs(graph: ChannelGraph, arch: Architecture) -> Gates:
  """1 where the architecture keeps a gate, -1 elsewhere, for a shuffle.

  A dead branch has no counts inside, but a shuffle may bring it to life: its groups get the mean
  share of the living ones.
  """
  masks = arch.masks()
  inner = [n for n in masks if graph.gated_groups[n].kind not in ('branch', 'link')]
  share = float(np.mean([masks[n].mean() for n in inner if masks[n].any()] or [1.0]))
  round_to = arch.provenance['decision']['round_to']
  for name in inner:
    step = choice.value_for(round_to, name, 1)
    if not masks[name].any():
      width = len(masks[name])
      masks[name] = (np.arange(width) < max(step, round(share * width / step) * step)) * 1.0
  return {n: jnp.asarray(2 * m - 1, jnp.float32) for n, m in masks.items()}


def random_architecture(
  graph: ChannelGraph, key: PRNGKey, *, budget: float, unit: str = 'macs', **options: Any
) -> Architecture:
  """Random branches at random widths that meet the budget.

  A random set of branches (each open with one probability, itself uniform in [.1, .9]) is drawn
  until widths between random levels bring it to the budget within 2%, all of it open.

  Args:
    graph: from `dapt.trace`.
    key: of the draws.
    budget: share of the whole network's cost.
    unit: one of `graph.UNITS`.
    **options: passed to `graph.decide`.

  Returns:
    The first architecture that fits, or after 1000 draws the one that came closest. Where none fits
    as drawn, one whose branches `graph.decide` has changed to fit.

  Raises:
    ValueError: as `graph.decide`.
  """
  best = None
  random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  exact = {**options, 'budget': budget, 'unit': unit}
  for _ in range(_DRAWS):
    logits = random_logits(graph, random)
    if not _may_fit(graph, logits, budget, unit):
      continue
    try:
      arch = graph.decide(logits, **{**exact, 'keep_branches': True})
    except ValueError:  # dearer than the budget at its least widths
      continue
    missed = arch.provenance['decision']['missed_by']
    if best is None or missed < best[0]:
      best = missed, arch
    if missed <= 0.02 * budget:
      break
  if best is None:  # no set of branches fits as drawn
    return graph.decide(random_logits(graph, random), **exact)
  return best[1]


def _may_fit(graph: ChannelGraph, logits: Gates, budget: float, unit: str) -> bool:
  """Whether the open branches cost less than the budget at no width, and enough at full width."""
  goal = budget * graph.total(unit)
  full = {
    n: np.ones(len(t)) if graph.gated_groups[n].kind != 'branch' else np.asarray(t) > 0
    for n, t in logits.items()
  }
  least = {
    n: np.eye(1, len(g))[0] if graph.gated_groups[n].kind != 'branch' else g
    for n, g in full.items()
  }
  cost = lambda gates: float(graph.cost_model.absolute(gates, unit, np))
  sums = all(
    is_open or any(full[n][0] for n in names if n in full)
    for names, is_open in zip(graph.sums, graph.open_sums)
  )
  return sums and cost(least) <= goal and cost(full) >= 0.98 * goal


def random_logits(graph: ChannelGraph, random: np.random.Generator) -> Gates:
  """A level for every group of widths, N(0, 1), and N(0, 1) around it; branches open or closed.

  Were the spread inside a group much smaller than the levels, a budget would keep some layers
  whole and one channel of the others: no fair opponent. Open branches come before all widths.
  """
  out: dict[str, Any] = {}
  share = random.uniform(0.1, 0.9)
  for name, group in graph.gated_groups.items():
    if group.kind == 'branch':
      out[name] = random.standard_normal(1) + (10.0 if random.uniform() < share else -10.0)
    else:
      out[name] = random.standard_normal() + random.standard_normal(group.width)
  return out


def uniform_logits(graph: ChannelGraph) -> Gates:
  """Logits whose decision keeps the same share of every group; branches come first.

  A network without channel groups has no widths to make uniform: then the cheapest branches of
  every sum come first, as many in each.
  """
  out: dict[str, jax.Array] = {}
  channels = [n for n, g in graph.gated_groups.items() if g.kind != 'branch']
  for name, group in graph.gated_groups.items():
    if group.kind == 'branch':
      out[name] = jnp.full((1,), 2.0)
    else:
      out[name] = jnp.linspace(1.0, -1.0, group.width)
  if not channels:
    for names in graph.sums:
      for rank, name in enumerate(sorted(names, key=lambda n: _branch_price(graph, n))):
        out[name] = jnp.full((1,), -float(rank))
  return out


def _branch_price(graph: ChannelGraph, name: str) -> float:
  return -float(graph.cost({name: jnp.zeros(1)}))


def shuffle(graph: ChannelGraph, theta: Gates, key: PRNGKey) -> Gates:
  """Permutes logits within layers: channels inside a group, branches inside a sum."""
  out = dict(theta)
  for number, names in enumerate(criteria.layers(graph)):
    names = [n for n in names if n in theta]
    if not names:
      continue
    together = jnp.concatenate([theta[n] for n in names])
    mixed = jax.random.permutation(jax.random.fold_in(key, number), together)
    for name, part in zip(names, np.split(mixed, np.cumsum([len(theta[n]) for n in names])[:-1])):
      out[name] = jnp.asarray(part)
  return out
