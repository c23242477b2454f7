"""Pieces of random networks that work on the last axis of a value of any rank.

A piece is `piece(net, x) -> y`, both [batch, ..., channels]; `graph_builder.Net` gives it named
parameters and random choices. Layers are in `graph_layers`; here is what else programs do: they
move and mix channels, loop, branch, and bring their own derivatives. `PIECES` lists them all.
"""

import functools

import graph_layers as layers
import jax
import jax.numpy as jnp
from jax import lax


def moves(net, x):
  width = x.shape[-1]
  return net.pick(
    lambda: x[..., ::-1] + jnp.roll(x, 1, -1),
    lambda: jnp.tile(x, 2)[..., :width],
    lambda: lax.pad(x, 0.5, [(0, 0, 0)] * (x.ndim - 1) + [(1, 2, 0)]),
    lambda: jnp.concatenate([x[..., 1::2], x[..., ::2]], -1),
    lambda: jnp.stack([x, 2 * x], 1).sum(1),
    lambda: sum(jnp.unstack(jnp.stack([x, jnp.sin(x)], 1), axis=1)),
    lambda: jnp.swapaxes(jnp.swapaxes(x[None], 0, -1)[..., None], 0, -1)[0, ..., 0],
    lambda: jnp.concatenate(jnp.split(x, [1], axis=-1)[::-1], -1),
    lambda: x[..., 1:] if width > 2 else x,
    lambda: x * jnp.arange(width) + jnp.eye(width)[0],
  )()


def other_axis(net, x):
  """Primitives that mix positions of the batch, not of the channels."""
  rows = len(x)
  return net.pick(
    lambda: jnp.sort(x, 0) + jnp.cumsum(x, 0),
    lambda: jnp.concatenate([jnp.moveaxis(lax.top_k(jnp.moveaxis(x, 0, -1), 1)[0], -1, 0)] * rows),
    lambda: x[jnp.argsort(x.sum(tuple(range(1, x.ndim))) if net.refuses else jnp.arange(rows))],
    lambda: x.at[0].set(2 * x[-1]).at[jnp.array([0, 1])].add(1.0),
    lambda: lax.dynamic_update_slice_in_dim(x, lax.dynamic_slice_in_dim(x, 1, 1, 0), 0, 0),
    lambda: jnp.take_along_axis(x, jnp.argsort(x, 0), 0),
    lambda: (x - lax.stop_gradient(x.max(0))) * jax.nn.softmax(x, 0),
    lambda: lax.associative_scan(jnp.add, x),
    lambda: x + jnp.where((x > 0).any(0), x, 1.0) * (x > 0).sum(0),
  )()


def refused(net, x):
  """Mixes channels for good: what is before it stays whole."""
  if not net.refuses:
    return layers.act(net, x)
  return net.pick(
    lambda: jnp.sort(x, -1),
    lambda: lax.top_k(x, 2)[0],
    lambda: jnp.cumsum(x, -1),
    lambda: x * jnp.argmax(x, -1, keepdims=True),
    lambda: jnp.fft.fft(x).real,
    lambda: x + x[..., :1],
    lambda: x[..., jnp.array([1, 0])],
  )()


def shuffle(net, x):
  h = layers.dense(net, x, 4)
  groups = net.pick(2, 4)
  h = h.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(h.shape)
  return jnp.sin(h)


def stacked_layers(net, x):
  def layer(h, w):
    return h + jnp.tanh(h @ w['up']) @ w['down'], None

  width, inner = x.shape[-1], net.width()
  stack = {'up': net.get('up', 2, width, inner), 'down': net.get('down', 2, inner, width)}
  return lax.scan(layer, x, stack, reverse=net.pick(True, False))[0]


def loops(net, x):
  w = net.get('kernel', 2, x.shape[-1], x.shape[-1])
  return net.pick(
    lambda: lax.fori_loop(0, 2, lambda i, c: jnp.sin(c @ w[0]) + c * i, x),
    lambda: lax.fori_loop(0, 2, lambda i, c: jnp.sin(c @ w[i]), x),
    lambda: lax.scan(lambda c, _: (jnp.sin(c @ w[0]), None), x, length=2)[0],
    lambda: lax.fori_loop(0, 2, lambda i, c: (c[1], jnp.sin(c[0])), (x, 2 * x))[0],
  )()


def condition(net, x):
  a = net.get('kernel', x.shape[-1], net.width())
  hot = net.inputs_sum() > 0
  return lax.cond(hot, lambda h: jnp.tanh(h @ a), lambda h: jnp.sin(h[..., :1]) * a.sum(0), x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _clipped(h, factor, scale, mask):
  return h * scale * mask


def _clipped_back(factor, saved, g):
  h, scale, _ = saved
  axes = tuple(range(h.ndim - 1))
  return factor * jnp.clip(g, -0.1, 0.1) * scale, (g * h).sum(axes), None


_clipped.defvjp(lambda h, f, s, m: (h * s * m, (h, s, m)), _clipped_back)


@jax.custom_jvp
def _step(h):
  return jnp.where(h > 0, h, 0.0)


@_step.defjvp
def _step_jvp(primals, tangents):
  return _step(primals[0]), tangents[0] * jnp.exp(-(primals[0] ** 2))


def custom(net, x):
  scale = net.get('scale', x.shape[-1])
  return _step(x) if net.pick(1, 0) else _clipped(x, 2.0, scale, (x > 0).astype(int))


def nested(net, x):
  """Functions inside `jit` and `checkpoint`."""
  kernel = net.get('kernel', x.shape[-1], net.width())
  return net.pick(jax.checkpoint, jax.jit)(lambda h: jnp.sin(h @ kernel))(x)


def casts(net, x):
  keep = (x > 0).astype(jnp.int32) + jnp.isfinite(x).astype(jnp.int8)
  return x * keep.astype(x.dtype) + lax.stop_gradient(jnp.cos(x)) - (x.astype(bool) & (x < 1))


PIECES = (
  layers.dense,
  layers.act,
  layers.chain,
  layers.residual,
  layers.branches,
  layers.batch_norm,
  layers.layer_norm,
  layers.pre_norm,
  layers.softmax,
  layers.concat,
  layers.glu,
  moves,
  moves,
  other_axis,
  refused,
  shuffle,
  layers.heads,
  layers.bilinear,
  layers.kernel_forms,
  layers.kernel_forms,
  layers.tied,
  stacked_layers,
  loops,
  condition,
  custom,
  nested,
  casts,
  layers.dropout,
  layers.gates,
)
