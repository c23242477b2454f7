"""Calls with a derivative rule of their own, cut together with that rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import labels
from dapt_jax.graph import program as program_lib
from dapt_jax.graph.primitives import rules

if TYPE_CHECKING:
  from dapt_jax.graph.replay import Cut

NAMES = ('custom_jvp_call', 'custom_vjp_call')


def replay(cut: Cut, node: program_lib.Node, args: Sequence[Any]) -> list[Any]:
  """Evaluates such a call on cut operands; its derivative is the call's own, cut the same way."""
  body = cut.inside(node, 0)
  results = body.analysis.program.outputs
  return (_with_jvp if node.name == NAMES[0] else _with_vjp)(cut, node, args, body, results)


def _with_jvp(cut, node, args, body, results):
  @jax.custom_jvp
  def call(*xs: Any) -> tuple[Any, ...]:
    return tuple(body.run(xs, results))

  @call.defjvp
  def _jvp(primals: Any, tangents: Any) -> Any:
    return _cut_jvp(cut, node, primals, tangents)

  return list(call(*args))


def _with_vjp(cut, node, args, body, results):
  @jax.custom_vjp
  def call(*xs: Any) -> tuple[Any, ...]:
    return tuple(body.run(xs, results))

  call.defvjp(lambda *xs: (call(*xs), xs), lambda xs, cts: _cut_vjp(cut, node, xs, cts))
  return list(call(*args))


def _run(cut, what, program, inputs, outputs, args):
  """Runs a derivative program whose inputs and outputs have labels of the cut program."""
  space = labels.LabelSpace(len(cut.dead))
  record = analysis_lib.Record({}, False)
  analysis = analysis_lib.Analysis(program, space, [rules.Given(a) for a in inputs], record)
  for value, axes in zip(program.outputs, outputs):
    for a, b in zip(analysis.labels_of(value), axes):
      space.unify(a, b)
  components = space.components()
  dead = np.isin(components, np.unique(components[: len(cut.dead)][cut.dead]))
  _check_mixing(analysis, what, dead)
  return type(cut)(analysis, dead, overrides=cut.overrides).run(args, program.outputs)


def _check_mixing(analysis, what, dead):
  """Refuses a rule that brings something back to an axis of which it has mixed cut positions."""
  program = analysis.program
  for index, numbers in analysis.refusing.items():
    mixed = [r for r in (analysis.space.refusals[i] for i in numbers) if dead[r.labels].any()]
    reached = program_lib.depends_on(program, program.nodes[index].outs) if mixed else ()
    for value in program.outputs:
      if value in reached and any(dead[a].any() for a in analysis.labels_of(value)):
        raise ValueError(
          f'a {what} has a derivative rule that mixes positions which were cut '
          f'({mixed[0].reason}): leave the group out by select or ignore'
        )


def _inexact(values: Sequence[Any]) -> list[int]:
  return [i for i, x in enumerate(values) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]


def _cut_jvp(cut, node, primals, tangents):
  """The derivative rule of a custom_jvp call on cut operands."""
  moving = _inexact(primals)
  fixed = [i not in moving for i in range(len(primals))]
  jaxpr, consts, out_zeros = node.params['jvp_jaxpr_fun'].call_wrapped(*fixed)
  program = program_lib.flatten(jax.extend.core.ClosedJaxpr(jaxpr, consts))
  given = [cut.analysis.axes[v] for v in node.ins]
  count = len(node.outs)
  primal_axes = [cut.analysis.axes[v] for v in node.outs]
  moved = [a for a, z in zip(primal_axes, out_zeros) if not z]
  # Tangents of integers carry nothing.
  real = [program.avals[v].dtype != jax.dtypes.float0 for v in program.outputs[count:]]
  tangent_axes = [a for a, r in zip(moved, real) if r]
  program.outputs[count:] = [v for v, r in zip(program.outputs[count:], real) if r]
  args = [*primals, *[tangents[i] for i in moving]]
  inputs, outputs = [*given, *[given[i] for i in moving]], [*primal_axes, *tangent_axes]
  outs = _run(cut, node.name, program, inputs, outputs, args)
  primal_out, rest = outs[:count], iter(outs[count:])
  tangent_out = [_tangent(p, z, rest) for p, z in zip(primal_out, out_zeros)]
  return tuple(primal_out), tuple(tangent_out)


def _tangent(primal, is_zero, rest):
  if not jnp.issubdtype(primal.dtype, jnp.inexact):
    return np.zeros(primal.shape, jax.dtypes.float0)
  return lax.full_like(primal, 0) if is_zero else next(rest)


def _cut_vjp(cut, node, args, cotangents):
  """The derivative rule of a custom_vjp call on cut operands; its forward pass runs again."""
  moving = _inexact(args)
  avals = cut.analysis.program.avals
  shape = lambda v: jax.ShapeDtypeStruct(avals[v].shape, avals[v].dtype)

  def pull(xs: Sequence[Any], cts: Sequence[Any]) -> Any:
    def call(*moved: Any) -> Any:
      full = list(xs)
      for i, x in zip(moving, moved):
        full[i] = x
      return node.primitive.bind(*full, **node.primitive.get_bind_params(node.params))

    return jax.vjp(call, *(xs[i] for i in moving))[1](list(cts))

  jaxpr = jax.make_jaxpr(pull)([shape(v) for v in node.ins], [shape(v) for v in node.outs])
  given = [cut.analysis.axes[v] for v in node.ins]
  ends = [cut.analysis.axes[v] for v in node.outs]
  program = program_lib.flatten(jaxpr)
  wanted = [given[i] for i in moving]
  out = _run(cut, node.name, program, [*given, *ends], wanted, [*args, *cotangents])
  found = dict(zip(moving, out))
  return tuple(found.get(i) for i in range(len(args)))
