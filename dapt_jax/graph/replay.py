"""Runs a traced program with positions and branches left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import custom, rules
from dapt_jax.graph import program as program_lib

Overrides = Mapping[str, Callable[..., Any]]


class Cut:
  """A program without its dead labels and dead summands, or one with gates as weights.

  Rules ask it for shapes after the cut; `run` evaluates it.
  """

  def __init__(
    self,
    analysis: analysis_lib.Analysis,
    dead: np.ndarray,
    dead_edges: frozenset[tuple[int, int]] = frozenset(),
    overrides: Overrides | None = None,
    weights: Callable[[np.ndarray], Any] | None = None,
  ) -> None:
    """Sets up a replay.

    Args:
      analysis: the analysis of the program.
      dead: bool per label.
      dead_edges: {(node, operand)} of summands that are zero.
      overrides: {primitive name: function evaluated instead}.
      weights: gate values of an axis with these labels, which then weigh its reductions; None
        where nothing is gated.
    """
    self.analysis = analysis
    self.dead = dead
    self.dead_edges = dead_edges
    self.overrides = overrides or {}
    self.weights = weights
    self._index = {id(n): i for i, n in enumerate(analysis.program.nodes)}

  def inside(self, node: program_lib.Node, number: int) -> Cut:
    """The cut of a body of a node."""
    body = self.analysis.bodies[self._index[id(node)]][number]
    return Cut(body, self.dead, overrides=self.overrides, weights=self.weights)

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
        if left:  # a number may be added to an array: then the zeros still give the shape
          other = self._read(env, left[0])
          env[node.outs[0]] = jnp.broadcast_to(other, self.sizes(node.outs[0]))
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
    args = self._weighted(index, node, args)
    plain = all(self.is_whole(v) for v in (*node.ins, *node.outs))
    if plain and not self._weighs_inside(index):
      out = self.bind(node, args, node.params)
    elif node.name in custom.NAMES:
      out = custom.replay(self, node, args)
    elif rule is not None and rule.replay is not None:
      out = rule.replay(self, node, args)
    else:
      out = self.bind(node, args, node.params)
    outs = list(out) if isinstance(out, (list, tuple)) else [out]
    for number, value in enumerate(node.outs):
      started = [a for v, a in self.analysis.sources if v == value]
      outs[number] = self.take(value, outs[number], started)
    return outs

  def _weighs_inside(self, index: int) -> bool:
    """Whether gates act as weights in a body of the node."""
    return self.weights is not None and index in self.analysis.bodies

  def _weighted(self, index: int, node: program_lib.Node, args: list[Any]) -> list[Any]:
    """Reductions: the operand times its gates; means: the divisor times the share that lives."""
    analysis = self.analysis
    if index in analysis.weighed and self.weights is not None:
      for axis in analysis.weighed[index]:
        gate = self.weights(analysis.axes[node.ins[0]][axis])
        if gate is not None:
          gate = jnp.expand_dims(gate, [i for i in range(args[0].ndim) if i != axis])
          args = [_weigh(node.name, args[0], gate), *args[1:]]
    elif index in analysis.counts:
      share = self._share(analysis.counts[index], args[0].dtype)
      args = [args[0], (args[1] * share).astype(args[1].dtype)]
    return args

  def _share(self, index: int, dtype: Any) -> Any:
    """Part of the positions under a reduction that lives: their mean gate."""
    operand = self.analysis.axes[self.analysis.program.nodes[index].ins[0]]
    share: Any = 1.0
    for axis in self.analysis.weighed[index]:
      gate = self.weights(operand[axis]) if self.weights is not None else None
      share *= (~self.dead[operand[axis]]).mean() if gate is None else gate.astype(dtype).mean()
    return jnp.where(share > 0, share, 1.0)  # the mean of nothing is zero


def _weigh(name: str, x: Any, gate: Any) -> Any:
  exact = jnp.issubdtype(x.dtype, jnp.inexact)
  if name == 'reduce_sum':
    return x * gate.astype(x.dtype) if exact else jnp.where(gate > 0, x, 0)
  ends = (-jnp.inf, jnp.inf) if exact else (jnp.iinfo(x.dtype).min, jnp.iinfo(x.dtype).max)
  return jnp.where(gate > 0, x, jnp.asarray(ends[name == 'reduce_min'], x.dtype))
