"""Every lowering of convolution and pooling equals lax, value and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax.models import conv, pooling, products

CASES = {
  'same': ((7, 6), (3, 3), 3, 5, {}),
  'widening': ((7, 6), (3, 3), 2, 5, {}),
  'deep': ((2, 3), (3, 3), 6, 6, {}),
  'wide_window': ((6, 7), (5, 3), 3, 4, {'padding': ((2, 1), (0, 1)), 'strides': (1, 2)}),
  'valid': ((7, 6), (3, 2), 3, 5, {'padding': 'VALID'}),
  'explicit': ((7, 6), (3, 3), 3, 5, {'padding': ((0, 2), (1, 0))}),
  'cropped': ((7, 6), (3, 3), 3, 5, {'padding': ((-1, 2), (1, -1))}),
  'strided': ((7, 6), (3, 3), 3, 5, {'strides': (2, 3)}),
  'dilated': ((9, 8), (3, 3), 3, 5, {'dilation': (2, 1)}),
  'apart': ((8, 8), (4, 4), 1, 5, {'strides': (4, 4)}),
  'apart_cut': ((7, 8), (2, 3), 3, 5, {'strides': (2, 3), 'padding': 'VALID'}),
  'wide_strides': ((9, 8), (2, 3), 3, 5, {'strides': (3, 2), 'padding': ((2, 1), (0, 3))}),
  'dilated_strided': ((9, 8), (3, 3), 3, 5, {'dilation': (2, 2), 'strides': (2, 2)}),
  'pointwise': ((5, 5), (1, 1), 3, 5, {}),
  'pointwise_strided': ((5, 5), (1, 1), 3, 5, {'strides': (2, 2)}),
  'depthwise': ((6, 7), (3, 3), 4, 4, {'groups': 4}),
  'depthwise_multiplier': ((6, 7), (3, 3), 4, 8, {'groups': 4, 'strides': (2, 1)}),
  'grouped': ((6, 7), (3, 3), 6, 4, {'groups': 2, 'dilation': (1, 2)}),
}


def _operands(case):
  size, window, channels, width, options = CASES[case]
  keys = jax.random.split(jax.random.key(len(case)), 2)
  x = jax.random.normal(keys[0], (2, *size, channels))
  groups = options.get('groups', 1)
  kernel = jax.random.normal(keys[1], (*window, channels // groups, width))
  return x, kernel, options


def _values_and_grads(functions, *args):
  """Value and gradients of several functions, compiled together."""
  loss = lambda fn: lambda *args: jnp.sum(jnp.sin(fn(*args)))
  grads = [jax.grad(loss(fn), tuple(range(len(args)))) for fn in functions]
  return jax.jit(lambda *args: [(f(*args), g(*args)) for f, g in zip(functions, grads)])(*args)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('in_chunks', [False, True])
def test_every_lowering_equals_lax(case, in_chunks, monkeypatch):
  if in_chunks:
    monkeypatch.setattr(products, 'ROWS_BYTES', 1)  # image by image
    monkeypatch.setattr(products, 'WHOLE_BYTES', 1)
  x, kernel, options = _operands(case)
  functions = [
    functools.partial(conv.conv2d, lowering=lowering, **options)
    for lowering in ('lax', 'mixed', 'patches')
  ]
  wanted, *others = _values_and_grads(functions, x, kernel)
  for got in others:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), got, wanted)


@pytest.mark.parametrize('lowering', ['mixed', 'patches'])
def test_second_derivatives(lowering):
  x, kernel, options = _operands('strided')

  def penalty(kernel, lowering):
    loss = lambda x: jnp.sum(jnp.sin(conv.conv2d(x, kernel, lowering=lowering, **options)))
    return jnp.sum(jnp.square(jax.grad(loss)(x)))

  got, wanted = (jax.jit(jax.grad(penalty), static_argnums=1)(kernel, n) for n in (lowering, 'lax'))
  np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('case', ['explicit', 'dilated_strided', 'depthwise', 'grouped'])
@pytest.mark.parametrize('layout', [('NHWC', 'HWIO', 'NHWC'), ('NCHW', 'OIHW', 'NCHW')])
def test_drop_in_replays_the_primitive(case, layout):
  x, kernel, options = _operands(case)
  x = x.transpose(*('NHWC'.index(a) for a in layout[0]))
  kernel = kernel.transpose(*('HWIO'.index(a) for a in layout[1]))
  fn = lambda x, kernel: jax.lax.conv_general_dilated(
    x,
    kernel,
    options.get('strides', (1, 1)),
    options.get('padding', 'SAME'),
    rhs_dilation=options.get('dilation', (1, 1)),
    dimension_numbers=layout,
    feature_group_count=options.get('groups', 1),
  )
  (eqn,) = jax.make_jaxpr(fn)(x, kernel).eqns
  drop_in = functools.partial(conv.conv_general_dilated, lowering='patches', **eqn.params)
  got = jax.jit(drop_in)(x, kernel)
  np.testing.assert_allclose(got, fn(x, kernel), atol=1e-5, rtol=1e-5)
  replayed = jax.make_jaxpr(drop_in)(x, kernel)
  assert 'conv_general_dilated' not in str(replayed)


def test_drop_in_falls_back_on_input_dilation():
  x, kernel, _ = _operands('same')
  fn = lambda x, kernel: jax.lax.conv_transpose(x, kernel, (2, 2), 'SAME')
  eqns = [e for e in jax.make_jaxpr(fn)(x, kernel).eqns if e.primitive.name.startswith('conv')]
  got = conv.conv_general_dilated(x, kernel, lowering='patches', **eqns[0].params)
  np.testing.assert_allclose(got, fn(x, kernel), atol=1e-5, rtol=1e-5)


WINDOWS = [((2, 2), (2, 2)), ((3, 3), (1, 1)), ((3, 2), (2, 1)), ((2, 2), (3, 3))]


@pytest.mark.parametrize('pool', [pooling.max_pool, pooling.avg_pool])
@pytest.mark.parametrize('padding', ['SAME', 'VALID', ((1, 0), (0, 1))])
def test_pools_equal_lax_on_ties_too(pool, padding):
  # Small integers make most windows tie, as zeros after a ReLU do.
  x = jnp.round(jax.random.normal(jax.random.key(0), (2, 7, 8, 3)))

  def pools(x, lowering):
    return [
      pool(x, window=window, strides=strides, padding=padding, lowering=lowering)
      for window, strides in WINDOWS
    ]

  def values_and_grads(x, lowering):
    values, pullback = jax.vjp(lambda x: pools(x, lowering), x)
    cotangents = [jnp.sin(1.0 + jnp.arange(v.size, dtype=v.dtype)).reshape(v.shape) for v in values]
    grads = [
      pullback([c if i == j else 0 * c for j, c in enumerate(cotangents)])
      for i in range(len(values))
    ]
    return values, grads

  results = [jax.jit(values_and_grads, static_argnums=1)(x, name) for name in ('lax', 'patches')]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), *results)


def test_avg_pool_does_not_count_padding():
  ones = jnp.ones((1, 5, 5, 1))
  y = pooling.avg_pool(ones, window=(3, 3), strides=(1, 1), lowering='patches')
  np.testing.assert_allclose(y, ones, rtol=1e-6)


def test_max_pool_lets_nan_through():
  x = jnp.zeros((1, 2, 2, 1)).at[0, 1, 0, 0].set(jnp.nan)
  assert bool(jnp.isnan(pooling.max_pool(x, lowering='patches')).all())


def test_choice_by_backend_and_place():
  wide, size = (3, 3, 32, 32), (8, 8)
  on_cpu = functools.partial(conv.choose, backend='cpu')
  for backend in ('gpu', 'tpu'):
    assert conv.choose(wide, size, backend=backend, in_loop=True) == 'lax'
  assert on_cpu(wide, size) == 'mixed'
  assert on_cpu(wide, size, in_loop=True) == 'patches'
  assert on_cpu((1, 1, 32, 32), size) == 'patches'
  assert on_cpu((3, 3, 1, 32), size, groups=32) == 'patches'


@pytest.mark.parametrize('shape', [(0, 6, 6, 3), (2, 6, 6, 0)])
def test_empty_operands(shape):
  x, kernel = jnp.ones(shape), jnp.ones((3, 3, shape[3], 4))
  assert conv.conv2d(x, kernel, lowering='patches').shape == (shape[0], 6, 6, 4)


def test_kernel_gradient_of_half_precision_is_summed_in_single(monkeypatch):
  monkeypatch.setattr(products, 'ROWS_BYTES', 1)
  x = jax.random.normal(jax.random.key(0), (64, 8, 8, 4), jnp.bfloat16)
  kernel = jnp.ones((3, 3, 4, 4), jnp.bfloat16)
  loss = lambda kernel, x: jnp.sum(conv.conv2d(x, kernel, lowering='patches').astype(jnp.float32))
  found = jax.grad(loss)(kernel, x)
  exact = jax.grad(loss)(kernel.astype(jnp.float32), x.astype(jnp.float32))
  error = jnp.abs(found.astype(jnp.float32) - exact).max() / jnp.abs(exact).max()
  assert found.dtype == jnp.bfloat16 and error < 0.01


def test_choice_by_shape():
  size = (8, 8)
  on_cpu = functools.partial(conv.choose, backend='cpu')
  assert on_cpu((3, 3, 1, 16), size) == 'patches'
  assert on_cpu((3, 3, 3, 64), size) == 'mixed'
  assert on_cpu((3, 3, 64, 64), (8, 2)) == 'patches'  # smaller than the window
  assert on_cpu((3, 3, 64, 64), (4, 4)) == 'mixed'
  assert on_cpu((3, 3, 64, 64), (4, 4), dilation=(1, 2)) == 'patches'


@pytest.mark.parametrize(
  'kwargs,message',
  [
    ({'lowering': 'fast'}, "'fast'.*patches"),
    ({'padding': 'CAUSAL'}, "'CAUSAL'.*VALID"),
    ({'padding': ((1, 1),)}, 'each of 2 axes'),
    ({'groups': 2}, 'groups=2'),
    ({'padding': 'VALID', 'dilation': (9, 9)}, 'larger than'),
  ],
)
def test_conv_refuses(kwargs, message):
  x, kernel, _ = _operands('same')
  with pytest.raises(ValueError, match=message):
    conv.conv2d(x, kernel, **{'lowering': 'patches', **kwargs})
