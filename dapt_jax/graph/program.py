"""A jaxpr as a flat list of primitive applications on numbered values.

`jit` and `checkpoint` calls are inlined, so that an analysis sees plain primitives only. Loops,
branches, and calls with a derivative rule of their own stay nodes with bodies.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex_core

# Rematerialisation is inlined too: a replay keeps the values, not the schedule.
_BODIES = {'while': ('cond_jaxpr', 'body_jaxpr')}
_INLINED = {'jit', 'pjit', 'closed_call', 'core_call', 'remat2', 'checkpoint'}


_MOVES = ('reshape', 'broadcast_in_dim', 'squeeze', 'convert_element_type', 'transpose', 'copy')
_FOLDED: dict[str, Any] = {
  'convert_element_type': lambda x: x,
  'broadcast_in_dim': lambda x: x,
  'reshape': lambda x: x,
  'add': lambda x, y: x + y,
  'sub': lambda x, y: x - y,
  'mul': lambda x, y: x * y,
  'max': max,
}


@dataclasses.dataclass
class Node:
  """One primitive application.

  Attributes:
    primitive: the JAX primitive.
    params: its static parameters.
    ins: value numbers read.
    outs: value numbers written.
    flat: the bodies flattened so far, by the identity of their jaxpr; shared by all nodes.
    bodies: the flattened jaxprs among its parameters: bodies of a loop, branches, and so on.
  """

  primitive: Any
  params: dict[str, Any]
  ins: list[int]
  outs: list[int]
  flat: dict[int, Program] = dataclasses.field(default_factory=dict, repr=False, compare=False)

  @functools.cached_property
  def bodies(self) -> tuple[Program, ...]:
    """The programs among its parameters, in the order of their names' appearance."""
    found: list[Any] = []
    for name in _BODIES.get(self.name, self.params):
      value = self.params[name]
      found += [v for v in (value if isinstance(value, tuple) else (value,)) if _is_jaxpr(v)]
    for jaxpr in found:
      if id(jaxpr) not in self.flat:  # the params of the node keep the jaxpr alive
        self.flat[id(jaxpr)] = flatten(jaxpr)
    return tuple(self.flat[id(jaxpr)] for jaxpr in found)

  @property
  def name(self) -> str:
    """Name of the primitive, e.g. 'dot_general'."""
    return self.primitive.name


@dataclasses.dataclass
class Program:
  """A flat program over values 0..len(avals)-1.

  Attributes:
    nodes: in execution order.
    avals: shape and dtype of every value.
    constants: value number -> array, for literals and closed-over arrays.
    inputs: value numbers of the arguments.
    outputs: value numbers of the results (a value may occur twice).
  """

  nodes: list[Node]
  avals: list[Any]
  constants: dict[int, Any]
  inputs: list[int]
  outputs: list[int]

  @functools.cached_property
  def makers(self) -> dict[int, Node]:
    """Value number -> the node that makes it."""
    return {v: node for node in self.nodes for v in node.outs}

  @functools.cached_property
  def users(self) -> dict[int, list[int]]:
    """Value number -> indices of the nodes that read it."""
    out: dict[int, list[int]] = {}
    for index, node in enumerate(self.nodes):
      for value in node.ins:
        out.setdefault(value, []).append(index)
    return out

  def shape(self, value: int) -> tuple[int, ...]:
    """Shape of a value."""
    return tuple(self.avals[value].shape)


class _Flattener:
  """Numbers the variables of nested jaxprs; each inlining gets fresh numbers."""

  def __init__(self) -> None:
    self.nodes: list[Node] = []
    self.avals: list[Any] = []
    self.constants: dict[int, Any] = {}
    self.flat: dict[int, Program] = {}

  def new(self, aval: Any) -> int:
    self.avals.append(aval)
    return len(self.avals) - 1

  def constant(self, array: Any, aval: Any = None) -> int:
    value = self.new(jax.typeof(array) if aval is None else aval)
    self.constants[value] = array
    return value

  def _literal(self, atom: Any) -> int:
    return self.constant(np.asarray(atom.val, atom.aval.dtype), atom.aval)

  def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[int]) -> list[int]:
    env: dict[Any, int] = {}
    for var, const in zip(jaxpr.constvars, consts):
      env[var] = self.constant(const)
    env.update(zip(jaxpr.invars, args))

    def read(atom: Any) -> int:
      if isinstance(atom, jex_core.Literal):
        return self._literal(atom)
      return env[atom]

    for eqn in jaxpr.eqns:
      ins = [read(a) for a in eqn.invars]
      inner = eqn.params.get('jaxpr', eqn.params.get('call_jaxpr'))
      if eqn.primitive.name in _INLINED and inner is not None:
        outs = self.run(*_open(inner), ins)
        env.update(zip(eqn.outvars, outs))
        continue
      outs = [self.new(v.aval) for v in eqn.outvars]
      env.update(zip(eqn.outvars, outs))
      self.nodes.append(Node(eqn.primitive, eqn.params, ins, outs, self.flat))
    return [read(a) for a in jaxpr.outvars]


def _open(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
  return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, 'consts') else (jaxpr, ())


def flatten(closed_jaxpr: Any) -> Program:
  """Flattens a (closed) jaxpr into a `Program`.

  Args:
    closed_jaxpr: what `jax.make_jaxpr(fn)(*args)` returns.

  Returns:
    The program; its inputs are the jaxpr's flat arguments in order.
  """
  jaxpr, consts = _open(closed_jaxpr)
  flat = _Flattener()
  inputs = [flat.new(v.aval) for v in jaxpr.invars]
  outputs = flat.run(jaxpr, consts, inputs)
  return Program(flat.nodes, flat.avals, flat.constants, inputs, outputs)


def _is_jaxpr(value: Any) -> bool:
  return isinstance(value, (jex_core.Jaxpr, jex_core.ClosedJaxpr))


def needed(
  program: Program,
  results: Collection[int],
  dead_edges: Collection[tuple[int, int]] = (),
) -> set[int]:
  """All values that the results are computed from (themselves included).

  Args:
    program: the program.
    results: value numbers.
    dead_edges: {(node index, operand)} along which nothing is needed.
  """
  out = set(results)
  for index in reversed(range(len(program.nodes))):
    node = program.nodes[index]
    if out.isdisjoint(node.outs):
      continue
    if dead_edges:
      out.update(v for i, v in enumerate(node.ins) if (index, i) not in dead_edges)
    else:
      out.update(node.ins)
  return out


def nearest(program: Program, value: int, among: Collection[int]) -> set[int]:
  """The members of `among` that `value` is computed from directly, or `value` itself."""
  out, open_values, seen = set(), [value], {value}
  while open_values:
    v = open_values.pop()
    if v in among:
      out.add(v)
    elif v in program.makers:
      fresh = [u for u in program.makers[v].ins if u not in seen]
      seen.update(fresh)
      open_values += fresh
  return out


def depends_on(program: Program, values: Sequence[int]) -> set[int]:
  """All values computed from any of `values` (themselves included)."""
  reached = set(values)
  for node in program.nodes:
    if any(v in reached for v in node.ins):
      reached.update(node.outs)
  return reached


def scalar(program: Program, value: int) -> float | None:
  """The number that a scalar computed from constants alone has, or None."""
  if program.avals[value].size != 1:
    return None
  if value in program.constants:
    constant = np.asarray(program.constants[value])
    return float(constant.reshape(())) if constant.dtype.kind in 'iufb' else None
  node = program.makers.get(value)
  if node is None or node.name not in _FOLDED:
    return None
  ins = [scalar(program, v) for v in node.ins]
  return None if None in ins else float(_FOLDED[node.name](*ins))


def divisions(program: Program, total: int, size: int) -> list[int]:
  """Indices of the nodes that turn a sum over `size` positions into a mean.

  Args:
    program: the program.
    total: value number of the sum.
    size: number of positions summed.
  """
  found, open_values = [], [total]
  while open_values:
    value = open_values.pop()
    for index in program.users.get(value, ()):
      node = program.nodes[index]
      if node.name in _MOVES:
        open_values += node.outs
      elif node.name == 'div' and node.ins[0] == value and scalar(program, node.ins[1]) == size:
        found.append(index)
  return found
