"""Loops, branches, and calls with a derivative rule of their own: labels go through their bodies.

One body serves all turns of a loop, so what a loop carries has the same labels in every turn:
layers stacked along the axis of a scan share one decision per position.
"""

from __future__ import annotations

from typing import Any

from jax import lax

from dapt_jax.graph.primitives import rules


def _loop(ctx, body, consts, carry, xs):
  """Reads a loop body; what it carries counts as an activation: any turn may make it one."""
  state = [g._replace(active=True, views=()) for g in carry]
  inner = ctx.enter(body, [*consts, *state, *xs])
  for value, given in zip(body.outputs, carry):
    for a, b in zip(inner.labels_of(value), given.axes):
      ctx.space.unify(a, b)
  return inner


def _replay_scan(cut, node, args):
  p = node.params
  consts, carry = p['num_consts'], p['num_carry']
  body = cut.inside(node, 0)

  def turn(state: Any, xs: Any) -> Any:
    outs = body.run([*args[:consts], *state, *xs], body.analysis.program.outputs)
    return tuple(outs[:carry]), tuple(outs[carry:])

  state, ys = lax.scan(
    turn,
    tuple(args[consts : consts + carry]),
    tuple(args[consts + carry :]),
    length=p['length'],
    reverse=p['reverse'],
    unroll=p['unroll'],
  )
  return [*state, *ys]


@rules.register('scan', _replay_scan)
def _scan(ctx, node, ins):
  consts, carry = node.params['num_consts'], node.params['num_carry']
  for axes in ins[consts + carry :]:
    ctx.space.refuse(axes[0], 'a loop runs along it')
  given = [ctx.given(v) for v in node.ins[: consts + carry]]
  turns = [ctx.given(v, skip=1) for v in node.ins[consts + carry :]]
  body = node.bodies[0]
  inner = _loop(ctx, body, given[:consts], given[consts:], turns)
  outs = list(ins[consts : consts + carry])
  for value in body.outputs[carry:]:
    along = ctx.space.fresh(node.params['length'])
    ctx.space.refuse(along, 'a loop runs along it')
    outs.append((along, *inner.labels_of(value)))
  return outs


def _replay_while(cut, node, args):
  p = node.params
  test, body = cut.inside(node, 0), cut.inside(node, 1)
  first, second = p['cond_nconsts'], p['cond_nconsts'] + p['body_nconsts']
  run = lambda part, given: part.run(given, part.analysis.program.outputs)
  return lax.while_loop(
    lambda state: run(test, [*args[:first], *state])[0],
    lambda state: run(body, [*args[first:second], *state]),
    list(args[second:]),
  )


@rules.register('while', _replay_while)
def _while(ctx, node, ins):
  p = node.params
  first, second = p['cond_nconsts'], p['cond_nconsts'] + p['body_nconsts']
  given = [ctx.given(v) for v in node.ins]
  test, body = node.bodies
  ctx.enter(test, [*given[:first], *(g._replace(active=True, views=()) for g in given[second:])])
  _loop(ctx, body, given[first:second], given[second:], [])
  return list(ins[second:])


def _replay_cond(cut, node, args):
  parts = [cut.inside(node, i) for i in range(len(node.bodies))]
  calls = [lambda *xs, c=c: c.run(xs, c.analysis.program.outputs) for c in parts]
  return lax.switch(args[0], calls, *args[1:])


@rules.register('cond', _replay_cond)
def _cond(ctx, node, ins):
  given = [ctx.given(v) for v in node.ins[1:]]
  inner = [ctx.enter(body, given) for body in node.bodies]
  outs = [[a.labels_of(v) for v in a.program.outputs] for a in inner]
  for other in outs[1:]:
    for mine, theirs in zip(outs[0], other):
      for a, b in zip(mine, theirs):
        ctx.space.unify(a, b)
  return outs[0]


@rules.register(['custom_jvp_call', 'custom_vjp_call'])
def _custom(ctx, node, ins):
  """The body is read for its labels; `custom` cuts its derivative rule the same way."""
  inner = ctx.enter(node.bodies[0], [ctx.given(v) for v in node.ins], exact=False)
  return [inner.labels_of(v) for v in node.bodies[0].outputs]
