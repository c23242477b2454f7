"""`ChannelGraph`: what can be cut out of a function, and everything done with it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import (
  architecture,
  branch_groups,
  checks,
  choice,
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
from dapt_jax.graph.costs import calibrate, cost, cost_terms
from dapt_jax.graph.picture import draw
from dapt_jax.types import ApplyFn, Gates, Params, PRNGKey


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
    self.analysis = passes.settle(
      self.program, self.tree.num_params, self._close_outputs, 'normalised' in levels
    )
    find = lambda: grouping.find(self.analysis, self.tree.names, self.tree.num_params)
    found, self.members = find()
    if chosen.join(self.analysis, found, self.members):
      found, self.members = find()
    self.groups = {g.name: g for g in found}
    sums = branch_groups.Sums()
    if 'branch' in levels:
      sums = branch_groups.of_sums(self.analysis, self.tree, self.groups, self._selected)
      self.groups |= sums.groups
    self.branches, self.sums, self.open_sums = sums.branches, sums.names, sums.is_open
    if 'link' in levels:
      self.groups |= branch_groups.of_links(self.analysis, self.tree)
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
    return checked(ChannelGraph(self.apply_fn, self.tree.param_shapes, inputs, self.levels, new))

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


def checked(graph: ChannelGraph) -> ChannelGraph:
  """The graph; raises ValueError with the reasons if it has no gates at all."""
  if not graph.gated_groups:
    chosen = [f'{n}={v!r}' for n, v in vars(graph.choice).items() if v is not None]
    raise ValueError(
      f'no group of levels {list(graph.levels)} can be gated in this function'
      + (f' with {", ".join(chosen)}' if chosen else '')
      + '; the reasons:\n'
      + graph.explain(verbose=True)
    )
  return graph
