"""Which values matter, as a function of the branch gates.

A value lives if some path from it to a result lives; a path through a gated summand lives as much
as its gate. Values are or-ed as independent events, which is exact for gates in {0, 1}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dapt_jax.graph import program as program_lib

DEAD, ALIVE = 0, 1
#: An or over (branch group or None, number of an earlier expression).
_Expression = frozenset[tuple[str | None, int]]


class Liveness:
  """Liveness expressions of all values, shared where they are equal.

  Attributes:
    of_value: expression number of every value.
  """

  def __init__(
    self,
    program: program_lib.Program,
    results: list[int],
    edges: Mapping[tuple[int, int], str],
  ) -> None:
    """Args: the program, its results that count, and {(node, operand): branch group}."""
    self._expressions: list[_Expression] = [frozenset(), frozenset()]
    self._known: dict[_Expression, int] = {}
    terms: dict[int, set[tuple[str | None, int]]] = {}
    for value in results:
      terms.setdefault(value, set()).add((None, ALIVE))
    self.of_value: dict[int, int] = {}
    self.of_node: list[int] = [DEAD] * len(program.nodes)
    for index in reversed(range(len(program.nodes))):
      node = program.nodes[index]
      out_terms: set[tuple[str | None, int]] = set()
      for value in node.outs:
        self.of_value[value] = self._number(terms.get(value, set()))
        out_terms.add((None, self.of_value[value]))
      alive = self._number(out_terms)
      self.of_node[index] = alive
      if alive == DEAD:
        continue
      for operand, value in enumerate(node.ins):
        terms.setdefault(value, set()).add((edges.get((index, operand)), alive))
    for value in range(len(program.avals)):
      if value not in self.of_value:
        self.of_value[value] = self._number(terms.get(value, set()))

  def _number(self, terms: set[tuple[str | None, int]]) -> int:
    useful = frozenset(t for t in terms if t[1] != DEAD)
    if (None, ALIVE) in useful:
      return ALIVE
    if not useful:
      return DEAD
    if len(useful) == 1:
      branch, expression = next(iter(useful))
      if branch is None:
        return expression
    if useful not in self._known:
      self._known[useful] = len(self._expressions)
      self._expressions.append(useful)
    return self._known[useful]

  def evaluate(self, gates: Mapping[str, Any]) -> list[Any]:
    """Value of every expression at these gates (`{branch group: array[1]}`; absent: open)."""
    out: list[Any] = [0.0, 1.0]
    for terms in self._expressions[2:]:
      missed = 1.0
      for branch, expression in sorted(terms, key=lambda t: (t[1], t[0] or '')):
        gate = gates[branch][0] if branch is not None and branch in gates else 1.0
        missed = missed * (1.0 - gate * out[expression])
      out.append(1.0 - missed)
    return out
