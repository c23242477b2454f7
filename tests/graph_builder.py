"""Random networks for the channel graph: images, sequences, tokens and vectors."""

import functools

import graph_layers as layers
import graph_pieces as pieces
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def conv(net, x):
  """Strided, dilated, or with channels first."""
  kernel = net.get('kernel', *net.pick((1, 1), (2, 2), (3, 2)), x.shape[-1], net.width())
  options = net.pick({}, {'rhs_dilation': (2, 1)}, {'window_strides': (2, 1)})
  if net.pick(True, False):
    return _conv(x, kernel, **options)
  numbers = ('NCHW', 'OIHW', 'NCHW')
  out = _conv(jnp.moveaxis(x, 3, 1), kernel.transpose(3, 2, 0, 1), numbers=numbers, **options)
  return jnp.moveaxis(out, 1, 3)


def _conv(x, kernel, numbers=('NHWC', 'HWIO', 'NHWC'), window_strides=(1, 1), **options):
  return lax.conv_general_dilated(
    x, kernel, window_strides, 'SAME', dimension_numbers=numbers, **options
  )


def depthwise(net, x):
  kernel = net.get('kernel', 2, 2, 1, net.pick(1, 2) * x.shape[-1])
  return layers.act(net, _conv(x, kernel, feature_group_count=x.shape[-1]))


def grouped(net, x):
  h = jnp.sin(layers.dense(net, x, 6, 'before'))
  return _conv(h, net.get('kernel', 2, 1, 2, 3 * net.pick(1, 2)), feature_group_count=3)


def transposed(net, x):
  kernel = net.get('kernel', 2, 2, x.shape[-1], net.width())
  numbers = ('NHWC', 'HWIO', 'NHWC')
  return lax.conv_transpose(x, kernel, (2, 1), 'SAME', dimension_numbers=numbers)


def pool(net, x):
  if net.pick(True, False):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), 'SAME')
  return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 1, 1), 'SAME') / 4


def group_norm(net, x):
  h = layers.dense(net, x, 6)
  h = h.reshape(*x.shape[:-1], 3, 2)
  centred = h - h.mean((1, 2, 4), keepdims=True)
  h = centred * lax.rsqrt((centred * centred).mean((1, 2, 4), keepdims=True) + 1e-2)
  return h.reshape(*x.shape[:-1], 6) * net.get('scale', 6)


def space(net, x):
  """Flattens space, mixes its positions, and unfolds it again."""
  flat = x.reshape(len(x), -1, x.shape[-1])
  positions = flat.shape[1]
  mixed = jnp.einsum('bpc,pq->bqc', flat, net.get('mix', positions, positions))
  return (flat + net.get('place', positions, 1) * mixed).reshape(x.shape)


def attention(net, x):
  """Heads as an axis of the kernels, by reshape, from a fused kernel; keys may serve many."""
  count, width, dim = 2, 4, x.shape[-1]
  shape = (*x.shape[:2], count, width)
  kind = net.pick('axis', 'reshape', 'fused', 'grouped')
  if kind == 'axis':
    named = [(n, net.get(n, dim, count, width), net.get('b' + n, count, width)) for n in 'qkv']
    q, k, v = (jnp.einsum('btd,dhk->bthk', x, w) + b for _, w, b in named)
  elif kind == 'reshape':
    q, k, v = (layers.dense(net, x, count * width, n).reshape(shape) for n in 'qkv')
  elif kind == 'fused':
    fused = layers.dense(net, x, 3 * count * width).reshape(*x.shape[:2], 3, count, width)
    q, k, v = (fused[:, :, i] for i in range(3))
  else:
    q = layers.dense(net, x, count * width, 'q').reshape(shape)
    k, v = (layers.dense(net, x, width, n)[:, :, None] for n in 'kv')
    k, v = (jnp.repeat(a, count, 2) for a in (k, v))
  if net.pick(True, False):
    q, k = _rotated(q), _rotated(k)
  scores = jnp.einsum('bqhk,bshk->bhqs', q / np.sqrt(width), k)
  scores = jnp.where(jnp.tril(jnp.ones(scores.shape[2:], bool)), scores, -1e9)
  out = jnp.einsum('bhqs,bshk->bqhk', jax.nn.softmax(scores), v)
  if net.pick(True, False):
    return x + jnp.einsum('bqhk,hkd->bqd', out, net.get('o', count, width, dim))
  return layers.dense(net, out.reshape(*x.shape[:2], -1), name='o')


def _rotated(h):
  """Rotary positions: pairs of features are turned."""
  angle = jnp.arange(h.shape[1])[:, None, None] * jnp.array([1.0, 0.3])
  a, b = jnp.split(h, 2, -1)
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def recurrent(net, x):
  """A cell of an LSTM or a GRU under scan, its gates fused or apart."""
  hidden, dim = net.width(), x.shape[-1]
  lstm = net.pick(True, False)
  parts = 4 if lstm else 3
  wx, wh = net.get('input', dim, parts * hidden), net.get('hidden', hidden, parts * hidden)

  def turn(state, row):
    h, c = state
    i, f, g, *o = jnp.split(row @ wx + h @ wh, parts, -1)
    i, f = jax.nn.sigmoid(i), jax.nn.sigmoid(f)
    if lstm:
      c = f * c + i * jnp.tanh(g)
      h = jax.nn.sigmoid(o[0]) * jnp.tanh(c)
    else:
      h = (1 - i) * h + i * jnp.tanh(f * g)
    return (h, c), h

  start = jnp.zeros((len(x), hidden))
  return jnp.swapaxes(lax.scan(turn, (start, start), jnp.swapaxes(x, 0, 1))[1], 0, 1)


def token_mixing(net, x):
  time = x.shape[1]
  h = jnp.swapaxes(x, 1, 2) @ net.get('up', time, net.width())
  return x + jnp.swapaxes(jnp.sin(h) @ net.get('down', h.shape[-1], time), 1, 2)


def positions(net, x):
  return x + net.get('table', 7, x.shape[-1])[jnp.arange(x.shape[1])] + net.get('all', x.shape[-1])


IMAGE = (conv, conv, depthwise, grouped, transposed, pool, group_norm, space)
SEQUENCE = (attention, attention, recurrent, token_mixing, positions)


class Net:
  """Draws a network; its parameters are declared while it is first run on shapes.

  Attributes:
    seed: what all choices follow from.
    refuses: whether pieces that mix channels for good may occur.
    shapes: {layer: {name: shape and dtype}}; the statistics of normalisers under 'stats'.
    used: names of the pieces, in order.
  """

  def __init__(self, seed):
    self.seed = seed
    self.refuses = seed % 4 == 3
    self.shapes = {}
    self.params = None
    self.used = []

  def pick(self, *options):
    return options[self.rng.integers(len(options))]

  def width(self):
    return int(self.rng.integers(2, 6))

  def get(self, name, *shape):
    return self._leaf(self.layer, name, shape)

  def update(self, name, value):
    """Mixes a new value into a statistic, and keeps it as the new state."""
    name = f'{self.layer}_{name}'
    self.state[name] = 0.9 * self._leaf('stats', name, value.shape) + 0.1 * value

  def inputs_sum(self):
    return jnp.sum(self.inputs)

  def _leaf(self, layer, name, shape):
    self.shapes.setdefault(layer, {})[name] = jax.ShapeDtypeStruct(shape, jnp.float64)
    return jnp.ones(shape) if self.params is None else self.params[layer][name]

  def example(self):
    """Inputs: images, sequences, tokens or vectors; sizes are often equal by accident."""
    rng = np.random.default_rng(self.seed)
    batch = int(rng.integers(2, 5))
    shape = [(4, 3, 3), (4, 3), (5,), (6,)][self.seed % 4]
    if self.seed % 8 == 2:
      return rng.integers(0, 7, (batch, 4))
    return rng.normal(size=(batch, *shape))

  def __call__(self, params, x):
    self.params, self.inputs, self.state, self.used = params, x, {}, []
    self.rng = np.random.default_rng(self.seed)
    self.layer = 'stem'
    if jnp.issubdtype(x.dtype, jnp.integer):
      x = self.get('table', 7, self.width())[x]
    else:
      x = layers.dense(self, x)
    own = {4: IMAGE, 3: SEQUENCE}.get(x.ndim, ())
    for number in range(self.pick(2, 3, 4)):
      piece = self.pick(*(own if own and self.pick(True, False) else pieces.PIECES))
      self.layer = f'layer{number}'
      self.used.append(piece.__name__)
      x = piece(self, x)
    self.layer = 'head'
    if x.ndim > 2:
      x = x.mean(tuple(range(1, x.ndim - 1))) if self.pick(1, 1, 0) else x.reshape(len(x), -1)
    out = jnp.sin(layers.dense(self, x, 5, 'hidden')) @ self.get('out', 5, 3)
    return (out, {'stats': self.state}) if self.state else out


@functools.cache
def declared(seed):
  """(network, example input), its parameters declared."""
  net = Net(seed)
  x = net.example()
  jax.eval_shape(lambda x: net(None, x), x)
  return net, x
