"""Layers of random networks that work on the last axis of a value of any rank.

A layer is a piece as in `graph_pieces`.
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


def dropout(net, x):
  bits = jax.random.bernoulli(jax.random.key(net.seed), 0.7, x.shape)
  return np.float64(1.2) * jnp.where(bits, x, 0.0)


def gates(net, x):
  """Squeeze and excitation: a sigmoid made of all channels multiplies each of them."""
  pooled = x.mean(tuple(range(1, x.ndim - 1)), keepdims=True)
  return x * jax.nn.sigmoid(dense(net, act(net, dense(net, pooled, 3, 'a')), x.shape[-1], 'b'))
