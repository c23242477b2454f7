"""`trace` and `ChannelGraph`: what can be cut out of a function, and everything done with it."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import (
  architecture,
  branches,
  calibrate,
  cost,
  cost_terms,
  decide,
  explain,
  gating,
  grouping,
  groups,
  labels,
  shrink,
)
from dapt_jax.graph import program as program_lib
from dapt_jax.graph import tree as tree_lib
from dapt_jax.types import ApplyFn, Gates, Params, PRNGKey

LEVELS = ('channel', 'input', 'branch', 'link')


@dataclasses.dataclass(frozen=True)
class Branch:
  """A gated summand.

  Attributes:
    group: name of its gate group (width 1).
    node: index of the addition.
    operand: which operand.
  """

  group: str
  node: int
  operand: int


class ChannelGraph:
  """The channels, branches, links and inputs of a function that gates can act on.

  Built by `trace`. Gate trees are plain dicts `{group: f32[width]}` over `gated_groups`.

  Attributes:
    groups: all groups found, refused ones too, by name.
    gated_groups: those that carry gates, in the order of the program.
    members: group and gate of every label of the program.
    branches: the gated summands.
    sums: for every sum with a gated summand, the names of its gated summands.
    open_sums: for every such sum, whether it has other summands too, which always stay.
  """

  def __init__(
    self,
    apply_fn: ApplyFn,
    params: Params,
    inputs: Sequence[Any],
    levels: Sequence[str],
    select: str | Callable[[str], bool] | None,
  ) -> None:
    self.apply_fn = apply_fn
    self.levels = tuple(levels)
    self._choose = select
    self.tree = tree_lib.describe(apply_fn, params, inputs)
    self.program = program_lib.flatten(self.tree.jaxpr)
    parameters = self.program.inputs[: self.tree.num_params]
    space = labels.LabelSpace()
    self.analysis = analysis_lib.Analysis(self.program, space, parameters=parameters)
    self._close_outputs(space)
    found, self.members = grouping.find(self.analysis, self.tree.names, self.tree.num_params)
    self.groups = {g.name: g for g in found}
    self.branches: list[Branch] = []
    self.sums: list[list[str]] = []
    self.open_sums: list[bool] = []
    self._add_branches(parameters)
    self._add_links(parameters)
    self.gated_groups = {n: g for n, g in self.groups.items() if self._selected(g)}

  def _close_outputs(self, space: labels.LabelSpace) -> None:
    """Results stay whole, but for state that is handed back in the shape of a parameter."""
    for number, value in enumerate(self.program.outputs):
      axes = self.analysis.labels_of(value)
      twin = self.tree.state_outputs.get(number)
      for axis, label in enumerate(axes):
        if twin is None:
          space.refuse(label, 'an output of the function')
        else:
          space.unify(label, self.analysis.axes[self.program.inputs[twin]][axis])

  def _add_branches(self, parameters: Sequence[int]) -> None:
    if 'branch' not in self.levels:
      return
    leaf = {v: i for i, v in enumerate(parameters) if self.tree.counted[i]}
    for members in branches.find(self.analysis, list(leaf)):
      names = []
      for summand in members:
        carriers = tuple(leaf[v] for v in summand.carriers)
        if not carriers:
          continue
        name = 'branch:' + _common_path([self.tree.names[i] for i in carriers])
        name = groups.unique(name, self.groups)
        self.groups[name] = groups.Group(name, 'branch', 1, carriers=carriers)
        if self._selected(self.groups[name]):
          self.branches.append(Branch(name, summand.node, summand.operand))
          names.append(name)
      if names:
        self.sums.append(names)
        self.open_sums.append(len(names) < len(members))

  def _add_links(self, parameters: Sequence[int]) -> None:
    if 'link' not in self.levels:
      return
    readers = {v for v, _ in self.analysis.reads}
    for leaf, value in enumerate(parameters):
      if value in readers:
        name = f'link:{self.tree.names[leaf]}'
        size = int(np.prod(self.program.shape(value)))
        self.groups[name] = groups.Group(name, 'link', size, carriers=(leaf,))

  def _selected(self, group: groups.Group) -> bool:
    if group.refused or group.kind not in self.levels:
      return False
    if self._choose is None:
      return True
    if callable(self._choose):
      return self._choose(group.name)
    return re.search(self._choose, group.name) is not None

  @functools.cached_property
  def cost_model(self) -> cost.CostModel:
    """The terms of the cost, read off the program when first asked for."""
    return cost_terms.build(self)

  def init_gates(self, key: PRNGKey | None = None, mean: float = 0.0, std: float = 0.01) -> Gates:
    """Gate logits theta ~ N(mean, std^2), `{group: f32[width]}`; without a key exactly `mean`."""
    out = {}
    for number, (name, group) in enumerate(self.gated_groups.items()):
      out[name] = jnp.full((group.width,), mean, jnp.float32)
      if key is not None:
        noise = jax.random.normal(jax.random.fold_in(key, number), (group.width,), jnp.float32)
        out[name] += std * noise
    return out

  def apply_gates(self, params: Params, gates: Gates) -> Params:
    """Multiplies the reading slices of `params` by the gates; see `gating.apply`."""
    return gating.apply(self, params, gates)

  def cost(self, gates: Gates, unit: str = 'macs') -> jax.Array:
    """Share of the whole network's cost at these gate values, f32[] in [0, 1], differentiable.

    Args:
      gates: `{group: f32[width]}` in [0, 1]; groups left out count as open.
      unit: 'macs', 'params', 'bytes', or 'latency' on a graph from `calibrate`.
    """
    gating.check(self, gates)
    return self.cost_model.share(gates, unit)

  def total(self, unit: str = 'macs') -> float:
    """Cost of the whole network, for the example inputs that were traced."""
    return self.cost_model.total(unit)

  def calibrate(self, **options: Any) -> ChannelGraph:
    """A copy whose cost has the unit 'latency', measured here; see `calibrate.calibrate`."""
    return calibrate.calibrate(self, **options)

  def decide(self, theta: Gates, **options: Any) -> architecture.Architecture:
    """Makes an `Architecture` out of gate logits; see `decide.decide`."""
    return decide.decide(self, theta, **options)

  def shrink(
    self, arch: architecture.Architecture, params: Params, **options: Any
  ) -> tuple[ApplyFn, Params]:
    """(smaller function, smaller params) with masked == shrunk; see `shrink.shrink`."""
    return shrink.shrink(self, arch, params, **options)

  def explain(self, arch: architecture.Architecture | None = None, verbose: bool = False) -> str:
    """A table of the groups: width, who writes, who reads, why refused."""
    return explain.table(self, arch, verbose)

  def retrace(self, inputs: Sequence[Any]) -> ChannelGraph:
    """The same graph for inputs of other shapes (another batch size, say)."""
    return ChannelGraph(self.apply_fn, self.tree.param_shapes, inputs, self.levels, self._choose)


def _common_path(names: Sequence[str]) -> str:
  parts = [n.split('/') for n in names]
  if len(parts) == 1:
    return '/'.join(parts[0][:-1] or parts[0])
  depth = 0
  while all(len(p) > depth and p[depth] == parts[0][depth] for p in parts):
    depth += 1
  return '/'.join(parts[0][:depth]) or '+'.join(names)


def trace(
  apply_fn: ApplyFn,
  params: Params,
  *example_inputs: Any,
  levels: Sequence[str] = ('channel', 'branch'),
  select: str | Callable[[str], bool] | None = None,
) -> ChannelGraph:
  """Reads a JAX function and finds what can be cut out of it exactly.

  Args:
    apply_fn: `apply_fn(params, *inputs)`, any function that JAX can trace. Results that are new
      state (their path and shape are those of a leaf of `params`, as `batch_stats` are) are cut
      along with it; all other results stay whole.
    params: any pytree of arrays or `jax.ShapeDtypeStruct`. Where it is a dict with a 'params'
      entry, only that entry counts as parameters in the cost.
    *example_inputs: pytrees of arrays (or `jax.ShapeDtypeStruct`) of the right shapes; a batch of
      one makes `total('macs')` the cost per example.
    levels: which kinds of groups carry gates: 'channel' (widths), 'branch' (summands), 'input'
      (positions of an input axis), 'link' (entries of kernels).
    select: regular expression or predicate on group names; others stay whole.

  Returns:
    The graph.

  Raises:
    ValueError: for an unknown level, or when nothing at all can be gated.
  """
  levels = (levels,) if isinstance(levels, str) else tuple(levels)
  unknown = set(levels) - set(LEVELS)
  if unknown:
    raise ValueError(f'levels has {sorted(unknown)}; allowed are {list(LEVELS)}')
  graph = ChannelGraph(apply_fn, params, example_inputs, levels, select)
  if not graph.gated_groups:
    raise ValueError(
      f'no group of levels {list(levels)} can be gated in this function'
      + (f' with select={select!r}' if select else '')
      + '; the reasons:\n'
      + graph.explain(verbose=True)
    )
  return graph
