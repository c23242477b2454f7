"""`trace` and `ChannelGraph`: what can be cut out of a function, and everything done with it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import (
  architecture,
  branches,
  calibrate,
  checks,
  choice,
  cost,
  cost_terms,
  decide,
  explain,
  gating,
  grouping,
  groups,
  passes,
  shrink,
)
from dapt_jax.graph import program as program_lib
from dapt_jax.graph import tree as tree_lib
from dapt_jax.graph.picture import draw
from dapt_jax.types import ApplyFn, Gates, Params, PRNGKey

LEVELS = ('channel', 'normalised', 'input', 'branch', 'link')


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
    chosen: choice.Choice,
  ) -> None:
    self.apply_fn = apply_fn
    self.levels = tuple(levels)
    self.choice = chosen
    self.tree = tree_lib.describe(apply_fn, params, inputs)
    self.program = program_lib.flatten(self.tree.jaxpr)
    parameters = self.program.inputs[: self.tree.num_params]
    self.analysis = passes.settle(
      self.program, self.tree.num_params, self._close_outputs, 'normalised' in levels
    )
    find = lambda: grouping.find(self.analysis, self.tree.names, self.tree.num_params)
    found, self.members = find()
    if chosen.join(self.analysis, found, self.members):
      found, self.members = find()
    self.groups = {g.name: g for g in found}
    self.branches: list[Branch] = []
    self.sums: list[list[str]] = []
    self.open_sums: list[bool] = []
    self._add_branches(parameters)
    self._add_links(parameters)
    self.gated_groups = {n: g for n, g in self.groups.items() if self._selected(g)}
    self._siblings = {tree_lib.signature(self.tree.input_shapes): self}

  def _close_outputs(self, analysis: analysis_lib.Analysis) -> None:
    """Results stay whole, but for state that is handed back in the shape of a parameter."""
    for number, value in enumerate(self.program.outputs):
      twin = self.tree.state_outputs.get(number)
      for axis, label in enumerate(analysis.labels_of(value)):
        if twin is None:
          analysis.space.refuse(label, 'an output of the function')
        else:
          analysis.space.unify(label, analysis.axes[self.program.inputs[twin]][axis])

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
    readers = {v for v, _ in self.analysis.record.reads}
    for leaf, value in enumerate(parameters):
      if value in readers:
        name = f'link:{self.tree.names[leaf]}'
        size = int(np.prod(self.program.shape(value)))
        self.groups[name] = groups.Group(name, 'link', size, carriers=(leaf,))

  def _selected(self, group: groups.Group) -> bool:
    return not group.refused and group.kind in self.levels and self.choice.takes(group.name)

  @functools.cached_property
  def cost_model(self) -> cost.CostModel:
    """The terms of the cost, read off the program when first asked for."""
    return cost_terms.build(self)

  def init_gates(self, key: PRNGKey | None = None, mean: float = 0.0, std: float = 0.01) -> Gates:
    """Gate logits theta ~ N(mean, std^2), `{group: f32[width]}`; without a key exactly `mean`."""
    for what, value in (('mean', mean), ('std', std)):
      checks.number(value, what, 'it must be a finite number')
      if not np.isfinite(value) or (what == 'std' and value < 0):
        raise ValueError(f'{what} is {value!r}; logits need a finite mean and a std of at least 0')
    if key is not None and not hasattr(key, 'dtype'):
      raise TypeError(f'key is {checks.kind_of(key)}; pass jax.random.key(seed), or None')
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

  def apply(self, params: Params, gates: Gates, *inputs: Any) -> Any:
    """The gated network's results, for groups of every level; see `gating.call`."""
    return gating.call(self, params, gates, *inputs)

  def cost(self, gates: Gates, unit: str = 'macs') -> jax.Array:
    """Share of the whole network's cost at these gate values, f32[] in [0, 1], differentiable.

    Args:
      gates: `{group: f32[width]}` in [0, 1]; groups left out count as open.
      unit: 'macs', 'params', 'bytes', or 'latency' on a graph from `calibrate`.
    """
    gating.check(self, gates)
    gating.check_range(gates)
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

  def picture(
    self, arch: architecture.Architecture | None = None, fold: bool | None = None
  ) -> draw.Picture:
    """Draws the network: layers as boxes, groups as colours.

    Args:
      arch: shows widths before and after its cut, and the branches that it cuts.
      fold: whether blocks that follow each other and are built alike are drawn once, with a row of
        widths each; None folds deep networks only.

    Returns:
      The picture: `.svg`, `.html`, `.save(path)`; notebooks show it.

    Raises:
      ValueError: for an architecture of another network.
    """
    return draw.draw(self, arch, fold)

  def select(
    self,
    select: choice.Pattern | None = None,
    *,
    ignore: choice.Pattern | None = None,
    tie: str | None = None,
  ) -> ChannelGraph:
    """The same graph with gates on these groups only; patterns not given stay as they are.

    Args:
      select: regular expression or predicate on group names, e.g. 'encoder/.*'.
      ignore: such groups stay whole.
      tie: what repeats in names: groups that are equal without it share one decision.

    Raises:
      ValueError: as `trace`.
    """
    old = self.choice
    new = choice.Choice(select or old.select, ignore or old.ignore, tie or old.tie)
    inputs = self.tree.input_shapes
    return _checked(ChannelGraph(self.apply_fn, self.tree.param_shapes, inputs, self.levels, new))

  def at(self, inputs: Sequence[Any]) -> ChannelGraph:
    """The same graph for inputs of other shapes (another batch size, say); kept once made."""
    checks.instance(inputs, (tuple, list), 'inputs', 'pass a tuple of the inputs, (x,) for one')
    shapes = tree_lib.shapes_of(tuple(inputs))
    key = tree_lib.signature(shapes)
    if key not in self._siblings:
      other = ChannelGraph(self.apply_fn, self.tree.param_shapes, shapes, self.levels, self.choice)
      for name, group in self.gated_groups.items():
        if name not in other.gated_groups or other.gated_groups[name].width != group.width:
          raise ValueError(
            f'group {name!r} is another one for inputs of shapes {_shapes(shapes)} than for '
            f'{_shapes(self.tree.input_shapes)}, which were traced: the function cuts its axes up '
            'differently there; trace it with inputs like these (a batch of 2 says more than one '
            'of 1)'
          )
      self._siblings[key] = other
    return self._siblings[key]


def _shapes(inputs: Any) -> str:
  return ', '.join(str(x.shape) for x in jax.tree.leaves(inputs))


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
  select: choice.Pattern | None = None,
  ignore: choice.Pattern | None = None,
  tie: str | None = None,
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
    levels: which kinds of groups carry gates: 'channel' (widths), 'normalised' (widths that a
      normaliser averages over, such as the stream of a transformer: use `graph.apply`), 'branch'
      (summands), 'input' (positions of an input axis), 'link' (entries of kernels).
    select: regular expression or predicate on group names; others stay whole.
    ignore: groups with such names stay whole, even if selected.
    tie: regular expression of what repeats in names ('_block[0-9]+'): groups of equal width whose
      names are equal without it share one decision. Branches are not tied.

  Returns:
    The graph.

  Raises:
    TypeError: for something that is not a function, or when it fails on these shapes.
    ValueError: for an unknown level, a pattern that is no regular expression, or when nothing at
      all can be gated.
  """
  levels = (levels,) if isinstance(levels, str) else levels
  checks.instance(levels, Sequence, 'levels', f'it must be some of {list(LEVELS)}')
  unknown = [level for level in levels if level not in LEVELS]
  if unknown:
    raise ValueError(f'levels has {unknown}; allowed are {list(LEVELS)}')
  chosen = choice.Choice(select, ignore, tie)
  return _checked(ChannelGraph(apply_fn, params, example_inputs, levels, chosen))


def _checked(graph: ChannelGraph) -> ChannelGraph:
  if not graph.gated_groups:
    chosen = [f'{n}={v!r}' for n, v in vars(graph.choice).items() if v is not None]
    raise ValueError(
      f'no group of levels {list(graph.levels)} can be gated in this function'
      + (f' with {", ".join(chosen)}' if chosen else '')
      + '; the reasons:\n'
      + graph.explain(verbose=True)
    )
  return graph
