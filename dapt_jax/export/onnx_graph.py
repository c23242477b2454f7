"""A traced program rewritten as an ONNX graph, whose batch size stays open.

The function is traced at two batch sizes. The traces must be the same program; sizes that grow in
proportion are the batch, written `-k` for k times the batch, and everything else must agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from dapt_jax.graph import program as program_lib

#: A NumPy array known now, or the name of an ONNX value.
Operand: TypeAlias = np.ndarray | str
#: Sizes of axes; -k stands for k times the batch.
Shape: TypeAlias = tuple[int, ...]
#: The two batch sizes of the traces.
BATCHES = (2, 3)


@dataclasses.dataclass(frozen=True)
class Call:
  """One primitive to translate.

  Attributes:
    name: of the primitive.
    params: its static parameters; those that name sizes belong to a batch of two.
    shapes: shapes of the operands.
    out_shapes: shapes of the results.
    out_dtypes: their dtypes.
  """

  name: str
  params: Mapping[str, Any]
  shapes: list[Shape]
  out_shapes: list[Shape]
  out_dtypes: list[np.dtype]


Rule: TypeAlias = Callable[['Writer', Call, list[Operand]], Any]


class Writer:
  """Collects the nodes of an ONNX graph; the rules call it.

  Attributes:
    nodes: (operator, input names, output names, attributes).
    initializers: constants by name.
  """

  def __init__(self, rules: Mapping[str, Rule], inputs: Sequence[str]) -> None:
    """Args: rule by primitive; names of the graph's inputs, all with the batch in front."""
    self.nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
    self.initializers: dict[str, np.ndarray] = {}
    self._rules = rules
    self._first = inputs[0]
    self._batch: str | None = None

  def node(self, operator: str, *ins: Operand, outs: int = 1, **attributes: Any) -> Any:
    """Adds a node; returns the name of its result (a list of names if it has several)."""
    names = [f'{operator.lower()}_{len(self.nodes)}_{i}' for i in range(outs)]
    self.nodes.append((operator, [self.name(x) for x in ins], names, attributes))
    return names[0] if outs == 1 else names

  def name(self, operand: Operand) -> str:
    """The operand's name; an array becomes an initializer."""
    if isinstance(operand, str):
      return operand
    name = f'constant_{len(self.initializers)}'
    self.initializers[name] = operand
    return name

  def reshape(self, x: Operand, shape: Shape) -> Operand:
    """`x` with another shape."""
    if isinstance(x, np.ndarray):
      return x.reshape(shape)
    if sum(n < 0 for n in shape) == 1 and 0 not in shape:
      return self.node('Reshape', x, ints([max(n, -1) for n in shape]))
    return self.node('Reshape', x, self.sizes(shape))

  def transpose(self, x: Operand, perm: Sequence[int] | np.ndarray) -> Operand:
    """`x` with its axes in another order."""
    perm = [int(p) for p in perm]
    if perm == sorted(perm):
      return x
    return x.transpose(perm) if isinstance(x, np.ndarray) else self.node('Transpose', x, perm=perm)

  def sizes(self, shape: Shape) -> Operand:
    """A shape as an int64 vector, the batch read off the first input."""
    if all(n >= 0 for n in shape):
      return ints(shape)
    if self._batch is None:
      whole = self.node('Shape', self._first)
      self._batch = self.node('Slice', whole, ints([0]), ints([1]))
    pieces = [self.node('Mul', self._batch, ints([-n])) if n < 0 else ints([n]) for n in shape]
    return self.node('Concat', *pieces, axis=0)

  def run(
    self, program: program_lib.Program, twin: program_lib.Program, args: Sequence[Operand]
  ) -> list[Operand]:
    """Translates a program.

    Args:
      program: traced at the first of `BATCHES`.
      twin: traced at the second.
      args: operands for its inputs.

    Returns:
      Operands of its outputs.

    Raises:
      ValueError: for a primitive without a rule, or a dependence on the batch size.
    """
    if [n.name for n in program.nodes] != [n.name for n in twin.nodes]:
      raise ValueError('the function is another program at another batch size')
    env: dict[int, Operand] = dict(zip(program.inputs, args))
    for (value, array), other in zip(program.constants.items(), twin.constants.values()):
      if np.asarray(array).tobytes() != np.asarray(other).tobytes():
        raise ValueError(
          'a constant of the function depends on the batch size (a mean over the batch, say); '
          'export the function that evaluates'
        )
      env[value] = np.asarray(array)
    for node, other_node in zip(program.nodes, twin.nodes):
      ins = [env[v] for v in node.ins]
      outs = self._translate(program, twin, node, other_node, ins)
      env.update(zip(node.outs, outs))
    return [env[v] for v in program.outputs]

  def _translate(self, program, twin, node, other, ins: list[Operand]) -> list[Operand]:
    out_shapes = [_shape(program, a, twin, b) for a, b in zip(node.outs, other.outs)]
    if node.name in ('custom_jvp_call', 'custom_vjp_call'):
      return self.run(_body(node), _body(other), ins)
    fixed = all(n >= 0 for shape in out_shapes for n in shape)
    if fixed and all(isinstance(x, np.ndarray) for x in ins):
      outs = node.primitive.bind(*ins, **node.primitive.get_bind_params(node.params))
      return [np.asarray(x) for x in (outs if isinstance(outs, list | tuple) else [outs])]
    rule = self._rules.get(node.name)
    if rule is None:
      raise ValueError(
        f'the primitive {node.name!r} has no ONNX rule; those that have one: '
        f"{', '.join(sorted(self._rules))}; save with format='stablehlo' instead"
      )
    call = Call(
      node.name,
      node.params,
      [_shape(program, a, twin, b) for a, b in zip(node.ins, other.ins)],
      out_shapes,
      [np.dtype(program.avals[v].dtype) for v in node.outs],
    )
    out = rule(self, call, ins)
    return list(out) if isinstance(out, list) else [out]


def trace(fn: Callable[..., Any], inputs: Callable[[int], Any]) -> list[program_lib.Program]:
  """The program of `fn(*inputs(batch))` at both batch sizes, for the leaves of inputs and results.

  Args:
    fn: the function.
    inputs: batch size -> tuple of pytrees of `jax.ShapeDtypeStruct`.
  """
  found = []
  for batch in BATCHES:
    leaves, treedef = jax.tree.flatten(inputs(batch))
    flat = lambda *xs, t=treedef: jax.tree.leaves(fn(*jax.tree.unflatten(t, xs)))
    found.append(program_lib.flatten(jax.make_jaxpr(flat)(*leaves)))
  return found


def shapes(programs: Sequence[program_lib.Program], values: str) -> list[Shape]:
  """Shapes of the 'inputs' or 'outputs' of a pair of programs."""
  a, b = programs
  return [_shape(a, v, b, w) for v, w in zip(getattr(a, values), getattr(b, values))]


def ints(values: Sequence[int]) -> np.ndarray:
  """An int64 vector, as ONNX wants sizes and axes."""
  return np.asarray([int(v) for v in values], np.int64)


def _body(node: program_lib.Node) -> program_lib.Program:
  return node.bodies[0]


def _shape(program: Any, value: int, twin: Any, other: int) -> Shape:
  """The shape of a value that is the same in both programs but for the batch."""
  out = []
  for a, b in zip(program.shape(value), twin.shape(other)):
    if a != b and a * BATCHES[1] != b * BATCHES[0]:
      raise ValueError(
        f'a size is {a} for a batch of {BATCHES[0]} and {b} for one of {BATCHES[1]}: ONNX export '
        'knows sizes that are fixed or a multiple of the batch'
      )
    out.append(a if a == b else -(a // BATCHES[0]))
  return tuple(out)
