"""Runs a traced program with positions and branches left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import labels, rules
from dapt_jax.graph import program as program_lib

Overrides = Mapping[str, Callable[..., Any]]


class Cut:
  """A program without its dead labels and dead summands.

  Rules ask it for shapes after the cut; `run` evaluates it.
  """

  def __init__(
    self,
    analysis: analysis_lib.Analysis,
    dead: np.ndarray,
    dead_edges: frozenset[tuple[int, int]] = frozenset(),
    overrides: Overrides | None = None,
  ) -> None:
    """Args: the analysis; bool per label; {(node, operand)} of summands that are zero."""
    self.analysis = analysis
    self.dead = dead
    self.dead_edges = dead_edges
    self.overrides = overrides or {}

  def alive(self, value: int, axis: int) -> np.ndarray:
    """bool[axis size]: positions that stay."""
    return ~self.dead[self.analysis.labels_of(value)[axis]]

  def whole_size(self, value: int, axis: int) -> int:
    """Size of the axis before the cut."""
    return self.analysis.program.shape(value)[axis]

  def is_whole(self, value: int) -> bool:
    """Whether the value loses nothing."""
    return not any(self.dead[a].any() for a in self.analysis.labels_of(value))

  def sizes(self, value: int) -> tuple[int, ...]:
    """Shape after the cut, axes that start here still whole."""
    shape = self.analysis.program.shape(value)
    source = self.analysis.sources
    return tuple(
      n if (value, i) in source else int(self.alive(value, i).sum()) for i, n in enumerate(shape)
    )

  def take(self, value: int, array: Any, axes: Sequence[int] | None = None) -> Any:
    """The live positions of a whole array."""
    for axis in range(array.ndim) if axes is None else axes:
      alive = self.alive(value, axis)
      if not alive.all():
        array = array.take(np.flatnonzero(alive), axis=axis)
    return array

  def bind(self, node: program_lib.Node, args: Sequence[Any], params: dict[str, Any]) -> Any:
    """Applies the node's primitive (or its override) with these parameters."""
    override = self.overrides.get(node.name)
    if override is not None:
      return override(*args, **params)
    return node.primitive.bind(*args, **node.primitive.get_bind_params(params))

  def needed(self, results: Sequence[int]) -> set[int]:
    """Values that the results need, dead summands left out."""
    return program_lib.needed(self.analysis.program, results, self.dead_edges)

  def run(self, args: Sequence[Any], results: Sequence[int]) -> list[Any]:
    """Evaluates the program.

    Args:
      args: one array per input, already cut (None where it is not needed).
      results: value numbers to return.

    Returns:
      Their arrays, cut.
    """
    program = self.analysis.program
    needed = self.needed(results)
    env: dict[int, Any] = dict(zip(program.inputs, args))
    zero: set[int] = set()
    for index, node in enumerate(program.nodes):
      if not any(v in needed for v in node.outs):
        continue
      dead = [i for i, v in enumerate(node.ins) if (index, i) in self.dead_edges or v in zero]
      if node.name in ('add', 'add_any') and dead:
        left = [v for i, v in enumerate(node.ins) if i not in dead]
        if left and self.sizes(left[0]) == self.sizes(node.outs[0]):
          env[node.outs[0]] = self._read(env, left[0])
        else:
          zero.add(node.outs[0])
          env[node.outs[0]] = self._zeros(node.outs[0])
        continue
      outs = self._apply(index, node, [self._read(env, v) for v in node.ins])
      env.update(zip(node.outs, outs))
    return [self._read(env, v) for v in results]

  def _read(self, env: dict[int, Any], value: int) -> Any:
    if value not in env:
      constant = self.analysis.program.constants[value]
      env[value] = constant if self.is_whole(value) else self.take(value, jnp.asarray(constant))
    return env[value]

  def _zeros(self, value: int) -> Any:
    return jnp.zeros(self.sizes(value), self.analysis.program.avals[value].dtype)

  def _apply(self, index: int, node: program_lib.Node, args: list[Any]) -> list[Any]:
    rule = rules.RULES.get(node.name)
    if all(self.is_whole(v) for v in (*node.ins, *node.outs)):
      out = self.bind(node, args, node.params)
    elif node.body is not None:
      out = self._custom_jvp(index, node, args)
    elif rule is not None and rule.replay is not None:
      out = rule.replay(self, node, args)
    else:
      out = self.bind(node, args, node.params)
    outs = list(out) if isinstance(out, (list, tuple)) else [out]
    for number, value in enumerate(node.outs):
      started = [a for v, a in self.analysis.sources if v == value]
      outs[number] = self.take(value, outs[number], started)
    return outs

  def _custom_jvp(self, index: int, node: program_lib.Node, args: list[Any]) -> list[Any]:
    """A cut custom_jvp call keeps its own derivative rule, cut the same way."""
    body = Cut(self.analysis.bodies[index], self.dead, overrides=self.overrides)
    results = body.analysis.program.outputs
    given = [self.analysis.axes[v] for v in node.ins]

    @jax.custom_jvp
    def call(*xs: Any) -> tuple[Any, ...]:
      return tuple(body.run(xs, results))

    @call.defjvp
    def _jvp(primals: Any, tangents: Any) -> Any:
      return _replay_jvp(self, node, given, primals, tangents)

    return list(call(*args))


def _replay_jvp(cut, node, given, primals, tangents):
  """Replays the derivative rule of a custom_jvp call on cut operands."""
  fixed = [not jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in primals]
  jaxpr, consts, out_zeros = node.params['jvp_jaxpr_fun'].call_wrapped(*fixed)
  program = program_lib.flatten(jax.extend.core.ClosedJaxpr(jaxpr, consts))
  space = labels.LabelSpace(len(cut.dead))
  moving = [i for i, f in enumerate(fixed) if not f]
  analysis = analysis_lib.Analysis(program, space, [*given, *[given[i] for i in moving]])
  primal_axes = [cut.analysis.axes[v] for v in node.outs]
  tangent_axes = [a for a, z in zip(primal_axes, out_zeros) if not z]
  for value, axes in zip(program.outputs, [*primal_axes, *tangent_axes]):
    for a, b in zip(analysis.labels_of(value), axes):
      space.unify(a, b)
  components = space.components()
  dead = np.isin(components, np.unique(components[: len(cut.dead)][cut.dead]))
  inner = Cut(analysis, dead, overrides=cut.overrides)
  outs = inner.run([*primals, *[tangents[i] for i in moving]], program.outputs)
  primal_out, rest = outs[: len(primal_axes)], iter(outs[len(primal_axes) :])
  tangent_out = [lax.full_like(p, 0) if z else next(rest) for p, z in zip(primal_out, out_zeros)]
  return tuple(primal_out), tuple(tangent_out)
