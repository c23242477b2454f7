"""One reading of a program: labels of every axis, which parameters read and which write."""

from __future__ import annotations

from collections.abc import Sequence

from dapt_jax.graph import labels, rules, rules_elementwise, rules_join, rules_linear, rules_shape
from dapt_jax.graph import program as program_lib

# The rule tables register themselves on import.
_TABLES = (rules_elementwise, rules_join, rules_linear, rules_shape)


class Analysis:
  """Labels of all values of a program.

  Attributes:
    program: the program read.
    space: labels, equalities and refusals; shared with the bodies of custom_jvp calls.
    axes: value number -> labels of its axes.
    reads: {(parameter value, axis)} contracted with what they read.
    writes: {(parameter value, axis)} that make new channels.
    sources: {(value, axis)} whose labels start at that value.
    bodies: node index -> Analysis of a custom_jvp body.
  """

  def __init__(
    self,
    program: program_lib.Program,
    space: labels.LabelSpace,
    inputs: Sequence[labels.Axes] | None = None,
    parameters: Sequence[int] = (),
  ) -> None:
    self.program = program
    self.space = space
    self.axes: dict[int, labels.Axes] = {}
    self.reads: set[tuple[int, int]] = set()
    self.writes: set[tuple[int, int]] = set()
    self.sources: set[tuple[int, int]] = set()
    self.bodies: dict[int, Analysis] = {}
    self._views = {v: (v, tuple(range(len(program.shape(v))))) for v in parameters}
    self._activations = program_lib.depends_on(
      program, [v for v in program.inputs if v not in self._views]
    )
    # What values without activations are computed from.
    self._roots: dict[int, frozenset[int]] = {v: frozenset([v]) for v in parameters}
    for number, value in enumerate(program.inputs):
      given = None if inputs is None else inputs[number]
      self.axes[value] = space.fresh_axes(program.shape(value)) if given is None else given
    for index, node in enumerate(program.nodes):
      self._follow(index, node)

  def _follow(self, index: int, node: program_lib.Node) -> None:
    for value in node.ins:
      if value not in self.axes:  # a constant, met for the first time
        self.axes[value] = self.space.fresh_axes(self.program.shape(value))
    ins = [self.axes[v] for v in node.ins]
    if node.body is not None:
      body = Analysis(node.body, self.space, ins)
      self.bodies[index] = body
      outs = [body.labels_of(v) for v in node.body.outputs]
    else:
      rule = rules.RULES.get(node.name)
      outs = (rule.follow if rule else rules.opaque)(self, node, ins)
    self.axes.update(zip(node.outs, outs))
    if node.outs and node.outs[0] not in self._activations:
      roots = frozenset().union(*(self._roots.get(v, frozenset()) for v in node.ins))
      self._roots.update(dict.fromkeys(node.outs, roots))

  def labels_of(self, value: int) -> labels.Axes:
    """Labels of a value; outputs that are constants get labels when first asked for."""
    if value not in self.axes:
      self.axes[value] = self.space.fresh_axes(self.program.shape(value))
    return self.axes[value]

  # What rules may ask and say.

  def view(self, value: int) -> tuple[int, tuple[int, ...]] | None:
    """See `rules.Context.view`."""
    return self._views.get(value)

  def set_view(self, value: int, parameter: int, axes: tuple[int, ...]) -> None:
    """See `rules.Context.set_view`."""
    self._views[value] = (parameter, axes)

  def depends_on_input(self, value: int) -> bool:
    """Whether the value is an activation (depends on an input, not only on parameters)."""
    return value in self._activations

  def depends_on(self, value: int, parameter: int) -> bool:
    """Whether the value may be computed from the parameter (an activation always may)."""
    return self.depends_on_input(value) or parameter in self._roots.get(value, ())

  def read(self, parameter: int, axis: int) -> None:
    """See `rules.Context.read`."""
    self.reads.add((parameter, axis))

  def write(self, parameter: int, axis: int) -> None:
    """See `rules.Context.write`."""
    self.writes.add((parameter, axis))

  def source(self, value: int, axis: int) -> None:
    """See `rules.Context.source`."""
    self.sources.add((value, axis))
