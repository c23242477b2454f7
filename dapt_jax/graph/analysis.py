"""One reading of a program: labels of every axis, which parameters read and which write."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dapt_jax.graph import carriers, labels
from dapt_jax.graph import program as program_lib
from dapt_jax.graph.primitives import (
  control,
  elementwise,
  join,
  linear,
  lookup,
  reduce,
  rules,
  shape,
)

# The rule tables register themselves on import.
_TABLES = (control, elementwise, join, linear, lookup, reduce, shape)
#: Where a node is: indices of the nodes around it, number of the body, its own index.
Place = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Site:
  """A reshape that splits or merges axes of which several may be cut.

  Attributes:
    key: place of the reshape and number of its run of axes.
    candidates: (axis, its labels); one of them can stay open.
    parent: labels of the axis that is split, None for a merge.
  """

  key: Place
  candidates: tuple[tuple[int, np.ndarray], ...]
  parent: np.ndarray | None


class Record:
  """What all bodies of a program write down together; parameters by their top value numbers.

  Attributes:
    reads: {(parameter, axis): labels of the axes that it is contracted with}.
    writes: {(parameter, axis)} that make new channels.
    carriers: {(parameter, axis): labels of the axes whose gates it carries, by linearity}.
    sites: reshapes that ask for a choice.
    choices: {site key: the axis that stays open, or None}.
    weights: whether gates may act as weights of a reduction.
  """

  def __init__(self, choices: Mapping[Place, int | None], weights: bool) -> None:
    self.reads: dict[tuple[int, int], list[np.ndarray]] = {}
    self.writes: set[tuple[int, int]] = set()
    self.carriers: dict[tuple[int, int], list[np.ndarray]] = {}
    self.sites: list[Site] = []
    self.choices = choices
    self.weights = weights


class Analysis:
  """Labels of all values of a program.

  Attributes:
    program: the program read.
    space: labels, equalities and refusals; shared with bodies.
    record: roles of the parameters; shared with bodies.
    axes: value number -> labels of its axes.
    sources: {(value, axis)} whose labels start at that value.
    bodies: node index -> analyses of its bodies.
    weighed: node index -> axes of its operand over which it reduces, with gates as weights.
    counts: index of a division -> index of the weighed sum that it turns into a mean.
  """

  def __init__(
    self,
    program: program_lib.Program,
    space: labels.LabelSpace,
    inputs: Sequence[rules.Given],
    record: Record,
    place: Place = (),
    exact: bool = True,
  ) -> None:
    """Reads the program; `exact=False` in bodies with a derivative rule of their own."""
    self.program = program
    self.space = space
    self.record = record
    self.axes: dict[int, labels.Axes] = {}
    self.sources: set[tuple[int, int]] = set()
    self.bodies: dict[int, list[Analysis]] = {}
    self.weighed: dict[int, tuple[int, ...]] = {}
    self.counts: dict[int, int] = {}
    self._place = place
    self._exact = exact
    self._at = -1
    #: Node index -> the refusals that it made, as a range of `space.refusals`.
    self.refusing: dict[int, range] = {}
    self._views: dict[int, tuple[rules.View, ...]] = {}
    # What values without activations are computed from.
    self._roots: dict[int, frozenset[int]] = {}
    for value, given in zip(program.inputs, inputs):
      self.axes[value], self._views[value], self._roots[value] = (
        given.axes,
        given.views,
        given.roots,
      )
    active = [v for v, g in zip(program.inputs, inputs) if g.active]
    self._activations = program_lib.depends_on(program, active)
    for index, node in enumerate(program.nodes):
      self._at = index
      self._follow(node)

  def _follow(self, node: program_lib.Node) -> None:
    for value in node.ins:
      if value not in self.axes:  # a constant, met for the first time
        self.axes[value] = self.space.fresh_axes(self.program.shape(value))
    rule, before = rules.RULES.get(node.name), len(self.space.refusals)
    outs = (rule.follow if rule else rules.opaque)(self, node, [self.axes[v] for v in node.ins])
    self.refusing[self._at] = range(before, len(self.space.refusals))
    self.axes.update(zip(node.outs, outs))
    if node.outs and node.outs[0] not in self._activations:
      roots = frozenset().union(*(self._roots.get(v, frozenset()) for v in node.ins))
      self._roots.update(dict.fromkeys(node.outs, roots))

  def labels_of(self, value: int) -> labels.Axes:
    """Labels of a value; outputs that are constants get labels when first asked for."""
    if value not in self.axes:
      self.axes[value] = self.space.fresh_axes(self.program.shape(value))
    return self.axes[value]

  # What rules may ask and say; `rules.Context` says what each is for.

  def views(self, value: int) -> tuple[rules.View, ...]:
    """See `rules.Context.views`."""
    return self._views.get(value, ())

  def set_views(self, value: int, views: Sequence[rules.View]) -> None:
    """See `rules.Context.set_views`."""
    self._views[value] = tuple(views)

  def depends_on_input(self, value: int) -> bool:
    """Whether the value is an activation (depends on an input, not only on parameters)."""
    return value in self._activations

  def has_roots(self, value: int) -> bool:
    """See `rules.Context.has_roots`."""
    return self.depends_on_input(value) or bool(self._roots.get(value))

  def depends_on(self, value: int, parameter: int) -> bool:
    """Whether the value may be computed from the parameter (an activation always may)."""
    return self.depends_on_input(value) or parameter in self._roots.get(value, ())

  def read(self, parameter: int, axis: int, label: np.ndarray) -> None:
    """See `rules.Context.read`."""
    self.record.reads.setdefault((parameter, axis), []).append(label)

  def write(self, parameter: int, axis: int) -> None:
    """See `rules.Context.write`."""
    self.record.writes.add((parameter, axis))

  def source(self, value: int, axis: int) -> None:
    """See `rules.Context.source`."""
    self.sources.add((value, axis))

  def given(self, value: int, skip: int = 0) -> rules.Given:
    """See `rules.Context.given`."""
    views = tuple(rules.View(v.parameter, v.axes[skip:]) for v in self.views(value))
    roots = self._roots.get(value, frozenset())
    return rules.Given(self.axes[value][skip:], views, self.depends_on_input(value), roots)

  def enter(
    self, body: program_lib.Program, inputs: Sequence[rules.Given], exact: bool = True
  ) -> Analysis:
    """See `rules.Context.enter`."""
    known = self.bodies.setdefault(self._at, [])
    place = (*self._place, self._at, len(known))
    exact = exact and self._exact
    known.append(Analysis(body, self.space, inputs, self.record, place, exact))
    return known[-1]

  def choice(
    self,
    run: int,
    candidates: Sequence[tuple[int, np.ndarray]],
    parent: np.ndarray | None = None,
  ) -> int | None:
    """See `rules.Context.choice`."""
    key = (*self._place, self._at, run)
    self.record.sites.append(Site(key, tuple(candidates), parent))
    return self.record.choices.get(key)

  def carry(self, value: int, axis: int, other: int) -> bool:
    """See `rules.Context.carry`."""
    found = carriers.find(self, value, axis)
    starts = [
      u for u in self.program.inputs if {v.parameter for v in self.views(u)} & {p for p, _ in found}
    ]
    if not found or other in program_lib.depends_on(self.program, starts):
      return False
    for end in found:
      self.record.carriers.setdefault(end, []).append(self.axes[value][axis])
    return True

  def weigh(self, node: program_lib.Node, axes: Sequence[int]) -> None:
    """See `rules.Context.weigh`."""
    operand = self.axes[node.ins[0]]
    if not (self.record.weights and self._exact):
      for axis in axes:
        reason = f'{node.name} runs over it, with no parameter to carry a gate'
        self.space.refuse(operand[axis], reason)
      return
    self.weighed[self._at] = tuple(axes)
    self.space.weighed += [operand[axis] for axis in axes]
    if node.name == 'reduce_sum':
      size = int(np.prod([len(operand[a]) for a in axes]))
      self.counts.update(
        dict.fromkeys(program_lib.divisions(self.program, node.outs[0], size), self._at)
      )
