"""The table of primitives: how labels travel through each, and how each is replayed when cut.

A rule is two functions. `follow(ctx, node, ins) -> outs` states, for labels `ins` of the operands,
the labels of the results, adding equalities and refusals on the way. `replay(cut, node, args)`
evaluates the primitive on operands that have lost positions; rules without one bind the primitive
with the parameters as traced. A primitive without a rule keeps all its operands and results whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dapt_jax.graph import labels
from dapt_jax.graph import program as program_lib


class View(NamedTuple):
  """A value that is linear in a parameter, entry by entry: moved, cast, scaled, or a part of it.

  Attributes:
    parameter: its value number in the whole program.
    axes: for every axis of the value, the parameter's axes behind it (none, one, or merged ones).
  """

  parameter: int
  axes: tuple[tuple[int, ...], ...]


class Given(NamedTuple):
  """What the body of a loop or a branch knows of one of its inputs.

  Attributes:
    axes: labels.
    views: parameters that it shows.
    active: whether it is an activation.
    roots: parameters that it may be computed from.
  """

  axes: labels.Axes
  views: tuple[View, ...] = ()
  active: bool = False
  roots: frozenset[int] = frozenset()


class Context(Protocol):
  """What a `follow` function may use of the running analysis."""

  space: labels.LabelSpace
  program: program_lib.Program

  def depends_on_input(self, value: int) -> bool:
    """Whether the value is an activation (depends on an input, not only on parameters)."""

  def has_roots(self, value: int) -> bool:
    """Whether the value is computed from an input or a parameter."""

  def depends_on(self, value: int, parameter: int) -> bool:
    """Whether the value may be computed from the parameter (an activation always may)."""

  def views(self, value: int) -> tuple[View, ...]:
    """The parameters that `value` shows; several where it joins them; none for other values."""

  def set_views(self, value: int, views: Sequence[View]) -> None:
    """Declares that `value` shows these parameters and nothing else."""

  def given(self, value: int, skip: int = 0) -> Given:
    """What a body learns of an operand, `skip` leading axes left out."""

  def enter(self, body: program_lib.Program, inputs: Sequence[Given]) -> Any:
    """Reads a body of the node at hand; gives its `Analysis`."""

  def choice(
    self,
    run: int,
    candidates: Sequence[tuple[int, np.ndarray]],
    parent: np.ndarray | None = None,
  ) -> int | None:
    """Which axis of a reshape's run stays open to cuts; None for none of them.

    Candidates are (axis, labels); all other axes of the run then stay whole. `parent` has the
    labels of the axis that is split.
    """

  def carry(self, value: int, axis: int, other: int) -> bool:
    """Lets the parameters that write the axis carry its gates; False where they cannot.

    `other` is the value that multiplies this one: it must not depend on those parameters.
    """

  def read(self, parameter: int, axis: int, label: np.ndarray) -> None:
    """The parameter's axis is contracted: it can carry the gates of these labels."""

  def write(self, parameter: int, axis: int) -> None:
    """The parameter's axis makes new channels."""

  def source(self, value: int, axis: int) -> None:
    """The axis starts here: a replay makes it whole and then takes the live positions."""

  def weigh(self, node: program_lib.Node, axes: Sequence[int]) -> None:
    """The node reduces these axes of its operand: gates have to act inside of it, as weights."""


class Cut(Protocol):
  """What a `replay` function may ask."""

  def bind(self, node: program_lib.Node, args: Sequence[Any], params: dict[str, Any]) -> Any:
    """Applies the node's primitive with these parameters."""

  def sizes(self, value: int) -> tuple[int, ...]:
    """Shape of the value after the cut, source axes still whole."""

  def whole_size(self, value: int, axis: int) -> int:
    """Size of the axis before the cut."""

  def alive(self, value: int, axis: int) -> np.ndarray:
    """bool[axis size]: the positions that stay."""


Follow = Callable[[Any, program_lib.Node, Sequence[labels.Axes]], list[labels.Axes]]
Replay = Callable[[Any, program_lib.Node, Sequence[Any]], Any]


class Rule(NamedTuple):
  """How one primitive is followed and replayed."""

  follow: Follow
  replay: Replay | None = None


RULES: dict[str, Rule] = {}


def register(
  names: str | Sequence[str], replay: Replay | None = None
) -> Callable[[Follow], Follow]:
  """Decorator: makes a `follow` function the rule of the named primitives."""

  def add(follow: Follow) -> Follow:
    for name in [names] if isinstance(names, str) else names:
      RULES[name] = Rule(follow, replay)
    return follow

  return add


def opaque(ctx: Context, node: program_lib.Node, ins: Sequence[labels.Axes]) -> list[labels.Axes]:
  """The rule of unknown primitives: everything that enters or leaves stays whole."""
  reason = f'enters the primitive {node.name!r}, which has no rule'
  for axes in ins:
    for axis in axes:
      ctx.space.refuse(axis, reason)
  return made_here(ctx, node, f'comes out of the primitive {node.name!r}, which has no rule')


def drop(ctx: Context, axis: np.ndarray, how: str) -> None:
  """States that an axis of size one vanishes; whatever it was a position of stays whole."""
  ctx.space.refuse(axis, f'a single position of it is {how}')


def made_here(ctx: Context, node: program_lib.Node, reason: str | None = None) -> list[labels.Axes]:
  """Fresh labels for all results; refused where a reason is given."""
  outs = []
  for value in node.outs:
    axes = ctx.space.fresh_axes(ctx.program.shape(value))
    for number, axis in enumerate(axes):
      ctx.source(value, number)
      if reason is not None:
        ctx.space.refuse(axis, reason)
    outs.append(axes)
  return outs


def move_views(ctx: Context, source: int, target: int, origins: Sequence[int]) -> None:
  """Declares that `target` shows what `source` does; `origins` are the axes behind it, or -1."""
  ctx.set_views(
    target,
    [
      View(v.parameter, tuple(v.axes[i] if i >= 0 else () for i in origins))
      for v in ctx.views(source)
    ],
  )
