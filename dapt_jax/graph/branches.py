"""Branches: the summands of an addition, and the parameters that can carry their gates.

A summand is gated exactly by multiplying parameters through which it is linear: the kernel of a
last convolution together with its bias, or scale and bias of a last normalisation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

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
_BILINEAR = ('mul', 'dot_general', 'conv_general_dilated')
#: Candidates kept per value.
_MOST = 8


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
    self.uses = self.program.users
    self.outputs = set(self.program.outputs)
    self.maker = {v: i for i, n in enumerate(self.program.nodes) for v in n.outs}
    self.parameters = parameters
    self.known: dict[int, list[frozenset[int]]] = {}

  def sums(self) -> list[list[Summand]]:
    inner: set[int] = set()
    out = []
    for index in reversed(range(len(self.program.nodes))):
      if index in inner or not self._is_sum(index):
        continue
      members = self._flatten(index, inner)
      found = [Summand(n, o, v, self._carriers(v)) for n, o, v in members]
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
        deeper = {maker}
        parts = self._flatten(maker, deeper)
        # A sum that is only gated as a whole (x * scale + shift of a normaliser) is one summand.
        if all(self._carriers(v) for _, _, v in parts) or not self._carriers(value):
          inner |= deeper
          members += parts
          continue
      members.append((index, operand, value))
    return members

  def _once(self, value: int) -> bool:
    return len(self.uses.get(value, ())) == 1 and value not in self.outputs

  def _carriers(self, value: int) -> tuple[int, ...]:
    """Parameters that `value` is proportional to and that serve nothing else."""
    if self._once(value):
      for candidate in self._candidates(value):
        if self._proportional(value, candidate):
          return tuple(sorted(candidate))
    return ()

  def _candidates(self, value: int) -> list[frozenset[int]]:
    """Sets of parameters that `value` may be proportional to, smallest arrays first."""
    if value not in self.known:
      self.known[value] = []  # closes cycles of the search; programs have none
      found = set(self._search(value))
      size = lambda c: sum(int(np.prod(self.program.shape(v))) for v in c)
      self.known[value] = sorted(found, key=lambda c: (size(c), sorted(c)))[:_MOST]
    return self.known[value]

  def _search(self, value: int) -> list[frozenset[int]]:
    if value in self.parameters:
      return [frozenset([value])]
    if value not in self.maker:
      return []
    node = self.program.nodes[self.maker[value]]
    if node.name in (*_LINEAR, 'div', 'pad'):
      return self._candidates(node.ins[0])
    if node.name in (*_ADD, 'sub'):
      left, right = (self._candidates(v) for v in node.ins)
      return [a | b for a in left for b in right]
    if node.name in _BILINEAR:
      kernels = [v for v in node.ins if not self.analysis.depends_on_input(v)]
      from_kernel = [c for v in kernels for c in self._candidates(v)]
      # Through a contraction without a usable kernel the search would run through the network.
      return (
        from_kernel
        if node.name != 'mul'
        else from_kernel + [c for v in node.ins if v not in kernels for c in self._candidates(v)]
      )
    return []

  def _proportional(self, target: int, carriers: frozenset[int]) -> bool:
    """Whether scaling the carriers scales `target` and changes nothing else."""
    degree: dict[int, int | None] = dict.fromkeys(carriers, 1)
    first = min(self.uses[v][0] for v in carriers)
    for node in self.program.nodes[first : self.maker.get(target, -1) + 1]:
      if target in degree or not any(v in degree for v in node.ins):
        continue
      for out in node.outs:
        degree[out] = _degree(self.program, node, [degree.get(v, 0) for v in node.ins])
    touched = set(degree)
    leaks = any(
      v != target and (v in self.outputs or not touched.issuperset(self._consumers(v)))
      for v in touched
    )
    return degree.get(target) == 1 and not leaks

  def _consumers(self, value: int) -> set[int]:
    return {o for i in self.uses.get(value, ()) for o in self.program.nodes[i].outs}


def _degree(
  program: program_lib.Program, node: program_lib.Node, ins: list[int | None]
) -> int | None:
  """Degree of a result that is homogeneous in the carriers; None if it is not homogeneous."""
  if None in ins:
    return None
  known = [d for d in ins if d is not None]
  if node.name in _LINEAR:
    return known[0]
  if node.name in (*_ADD, 'sub'):
    return known[0] if known[0] == known[1] else None
  if node.name in _BILINEAR:
    return sum(known)
  if node.name == 'div' and known[1] == 0:
    return known[0]
  if node.name == 'pad' and not np.any(program.constants.get(node.ins[1], 1)):
    return known[0]
  return None
