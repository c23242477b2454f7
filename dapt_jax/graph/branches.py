"""Branches: the summands of an addition, and the parameters that can carry their gates.

A summand is gated exactly by multiplying parameters through which it is linear: the kernel of a
last convolution together with its bias, or scale and bias of a last normalisation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import program as program_lib

_LINEAR = {
  'neg',
  'copy',
  'convert_element_type',
  'reshape',
  'transpose',
  'squeeze',
  'broadcast_in_dim',
  'slice',
  'reduce_sum',
  'reduce_window_sum',
}
_ADD = ('add', 'add_any')


@dataclasses.dataclass(frozen=True)
class Summand:
  """One operand of a sum.

  Attributes:
    node: index of the addition that reads it.
    operand: which operand of that addition.
    value: its value number.
    carriers: parameter values that multiply it as a whole, empty if there are none.
  """

  node: int
  operand: int
  value: int
  carriers: tuple[int, ...]


def find(analysis: analysis_lib.Analysis, parameters: Sequence[int]) -> list[list[Summand]]:
  """All sums of at least two activations.

  Args:
    analysis: of the whole program.
    parameters: value numbers of the parameters that may carry gates.

  Returns:
    One list of summands per sum; nested additions used nowhere else count as one sum.
  """
  return _Finder(analysis, set(parameters)).sums()


class _Finder:
  def __init__(self, analysis: analysis_lib.Analysis, parameters: set[int]) -> None:
    self.analysis = analysis
    self.program = analysis.program
    self.uses = program_lib.uses(self.program)
    self.outputs = set(self.program.outputs)
    self.maker = {v: i for i, n in enumerate(self.program.nodes) for v in n.outs}
    self.parameters = parameters
    self.from_parameters = program_lib.depends_on(self.program, sorted(parameters))

  def sums(self) -> list[list[Summand]]:
    inner = set()
    out = []
    for index in reversed(range(len(self.program.nodes))):
      if index in inner or not self._is_sum(index):
        continue
      members = self._flatten(index, inner)
      found = [Summand(n, o, v, tuple(sorted(self._carriers(v) or ()))) for n, o, v in members]
      if any(s.carriers for s in found):
        out.append(found)
    return out[::-1]

  def _is_sum(self, index: int) -> bool:
    node = self.program.nodes[index]
    shape = self.program.shape(node.outs[0])
    return node.name in _ADD and all(
      self.analysis.depends_on_input(v) and self.program.shape(v) == shape for v in node.ins
    )

  def _flatten(self, index: int, inner: set[int]) -> list[tuple[int, int, int]]:
    members = []
    for operand, value in enumerate(self.program.nodes[index].ins):
      maker = self.maker.get(value)
      if maker is not None and self._once(value) and self._is_sum(maker):
        inner.add(maker)
        members += self._flatten(maker, inner)
      else:
        members.append((index, operand, value))
    return members

  def _once(self, value: int) -> bool:
    return len(self.uses.get(value, ())) == 1 and value not in self.outputs

  def _carriers(self, value: int) -> set[int] | None:
    """Parameters through which `value` is linear, or None. All must serve this value alone."""
    if value in self.parameters:
      return {value} if self._once(value) else None
    if not self._once(value) or value not in self.from_parameters or value not in self.maker:
      return None
    node = self.program.nodes[self.maker[value]]
    if node.name in _LINEAR:
      return self._carriers(node.ins[0])
    if node.name in (*_ADD, 'sub'):
      parts = [self._carriers(v) for v in node.ins]
      return None if None in parts else set().union(*parts)
    if node.name in ('dot_general', 'conv_general_dilated', 'mul'):
      parts = [p for p in (self._carriers(v) for v in reversed(node.ins)) if p]
      return min(parts, key=len, default=None)
    if node.name == 'div':
      return self._carriers(node.ins[0])
    if node.name == 'pad' and not self.program.constants.get(node.ins[1], 1):
      return self._carriers(node.ins[0])
    return None
