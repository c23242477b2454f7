"""Pieces of random networks that work on the last axis of a value of any rank.

A piece is `piece(net, x) -> y`, both [batch, ..., channels]; `graph_builder.Net` gives it named
parameters and random choices. `PIECES` lists them all.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def dense(net, x, width=None, name='kernel'):
  """A linear layer, its kernel and operands in any order."""
  width, last = width or net.width(), x.ndim - 1
  order = net.pick('io', 'oi', 'left', 'general')
  if order == 'io':
    return x @ net.get(name, x.shape[-1], width)
  kernel = net.get(name, width, x.shape[-1])
  if order == 'oi':
    return jnp.einsum('...c,oc->...o', x, kernel)
  if order == 'left':
    return jnp.moveaxis(jnp.tensordot(kernel, x, ((1,), (last,))), 0, -1)
  return lax.dot_general(x, kernel, (((last,), (1,)), ((), ()))) + net.get(name + '_bias', width)


def act(net, x):
  functions = [jax.nn.relu, jnp.sin, jax.nn.gelu, jax.nn.silu, jnp.tanh, jnp.cos, jax.nn.leaky_relu]
  return net.pick(*functions)(x)


def chain(net, x):
  return dense(net, act(net, dense(net, x, name='first')), name='second')


def residual(net, x):
  inner = act(net, dense(net, x, name='up'))
  return x + dense(net, inner, x.shape[-1], name='down')


def branches(net, x):
  width = net.width()
  ends = [batch_norm(net, dense(net, x, width, f'way{i}'), f'norm{i}') for i in range(3)]
  return jnp.tanh(functools.reduce(jnp.add, ends[: net.pick(2, 3)]))


def batch_norm(net, x, name='norm'):
  """With fixed statistics, or with those of the batch, whose running means are new state."""
  if net.pick(True, False):
    mean, var = net.get(f'{name}_mean', x.shape[-1]), net.get(f'{name}_var', x.shape[-1])
  else:
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    net.update(f'{name}_mean', mean)
    net.update(f'{name}_var', var)
  y = (x - mean) * lax.rsqrt(var + 1e-2)
  return y * net.get(f'{name}_scale', x.shape[-1]) + net.get(f'{name}_bias', x.shape[-1])


def layer_norm(net, x, name='norm'):
  if net.pick(True, False):
    x = x - x.mean(-1, keepdims=True)
    x = x / jnp.sqrt(x.var(-1, keepdims=True) + 1e-2)
  else:
    x = x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-2)
  return x * net.get(f'{name}_scale', x.shape[-1])


def pre_norm(net, x):
  inner = act(net, dense(net, layer_norm(net, x), name='up'))
  return x + dense(net, inner, x.shape[-1], name='down')


def softmax(net, x):
  """Softmax, or a largest entry without its gradient: that compares floats for equality."""
  if net.pick(True, False):
    return dense(net, jax.nn.softmax(x, axis=-1), name='after')
  return x * lax.stop_gradient(x.max()) - lax.stop_gradient(x.min(-1, keepdims=True))


def concat(net, x):
  y = jnp.cos(dense(net, x))
  return jnp.concatenate([y, x] if net.pick(1, 0) else [x, y, x[..., :1]], -1)


def glu(net, x):
  half = net.width()
  h = dense(net, x, 2 * half)
  a, b = jnp.split(h, 2, -1) if net.pick(1, 0) else (h[..., ::2], h[..., 1::2])
  return a * jax.nn.sigmoid(b)


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
    return act(net, x)
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
  h = dense(net, x, 4)
  groups = net.pick(2, 4)
  h = h.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(h.shape)
  return jnp.sin(h)


def heads(net, x):
  """Splits the channels, works on one part, and merges them or leaves them merged otherwise."""
  count, width = net.pick(2, 3), net.pick(2, 3)
  h = jnp.sin(dense(net, x, count * width)).reshape(*x.shape[:-1], count, width)
  kind = net.pick('each', 'within', 'merge', 'contract')
  if kind == 'each':
    h = jnp.einsum('...hk,hkj->...hj', h, net.get('heads', count, width, net.width()))
  elif kind == 'within':
    h = h @ net.get('heads', width, net.width())
  elif kind == 'contract':
    return jnp.einsum('...hk,hko->...o', h, net.get('out', count, width, net.width()))
  return h.reshape(*x.shape[:-1], -1)


def bilinear(net, x):
  a, b = dense(net, x, name='left'), jnp.sin(dense(net, x, name='right'))
  return jnp.einsum('...i,...j,ijo->...o', a, b, net.get('out', a.shape[-1], b.shape[-1], 4))


def kernel_forms(net, x):
  """Kernels that are joined, cut, reshaped, scaled, multiplied, repeated or standardised first."""
  width, out = x.shape[-1], net.width()
  kernel = net.pick(
    lambda: net.get('kernel', width + 2, out)[1:-1],
    lambda: jnp.concatenate([net.get('a', width, 2), net.get('b', width, out)], 1),
    lambda: jnp.concatenate([net.get('a', 1, out), net.get('b', width - 1, out)], 0),
    lambda: net.get('kernel', width * out).reshape(width, out),
    lambda: net.get('kernel', 2, width, out)[1] * net.get('scale', out) * 2.0,
    lambda: net.get('kernel', out, width).T / net.get('scale', width)[:, None],
    lambda: net.get('a', width, 3) @ net.get('b', 3, out),
    lambda: jnp.broadcast_to(net.get('kernel', 1, out), (width, out)),
    lambda: lax.dynamic_index_in_dim(net.get('kernel', 3, width, out), 1, 0, False),
    lambda: jnp.tanh(net.get('kernel', width, out)),
    lambda: net.get('kernel', out, width)[::-1].T,
  )()
  return jnp.sin(x @ kernel) + (x @ net.get('other', width, 1) if net.pick(1, 0) else 0.0)


def tied(net, x):
  """One kernel that reads twice, or reads here and scales there."""
  kernel = net.get('kernel', x.shape[-1], net.width())
  twice = x @ kernel + jnp.cos(x) @ kernel
  return net.pick(twice, x @ kernel + (x * kernel[:, 0]) @ kernel)


def stacked_layers(net, x):
  def layer(h, w):
    return h + jnp.tanh(h @ w['up']) @ w['down'], None

  width, inner = x.shape[-1], net.width()
  layers = {'up': net.get('up', 2, width, inner), 'down': net.get('down', 2, inner, width)}
  return lax.scan(layer, x, layers, reverse=net.pick(True, False))[0]


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


def dropout(net, x):
  bits = jax.random.bernoulli(jax.random.key(net.seed), 0.7, x.shape)
  return np.float64(1.2) * jnp.where(bits, x, 0.0)


def gates(net, x):
  """Squeeze and excitation: a sigmoid made of all channels multiplies each of them."""
  pooled = x.mean(tuple(range(1, x.ndim - 1)), keepdims=True)
  return x * jax.nn.sigmoid(dense(net, act(net, dense(net, pooled, 3, 'a')), x.shape[-1], 'b'))


PIECES = (
  *(dense, act, chain, residual, branches, batch_norm, layer_norm, pre_norm, softmax, concat, glu),
  *(moves, moves, other_axis, refused, shuffle, heads, bilinear, kernel_forms, kernel_forms, tied),
  *(stacked_layers, loops, condition, custom, nested, casts, dropout, gates),
)
