"""ONNX in onnxruntime: equal to JAX at any batch size, every rule, and refusals by name."""

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import linen as nn
from jax import lax

from dapt_jax import export
from dapt_jax import graph as graph_lib
from dapt_jax.export import onnx_rules
from dapt_jax.export import small as small_lib
from dapt_jax.models import multibranch


def _check(apply_fn, params, x, path, batches=(1, 7)):
  """Saves a random cut; returns the ONNX operators in it."""
  graph = graph_lib.trace(apply_fn, params, x)
  arch = nets.architecture(nets.random_gates(graph, 3, 0.5, 0.7))
  export.save(graph, arch, params, path, format='onnx')
  session = onnxruntime.InferenceSession(path.with_suffix('.onnx'))
  small, small_params = graph.shrink(arch, params)
  for n in batches:
    given = np.resize(x, (n, *x.shape[1:]))
    if x.dtype == np.float32:
      given = nets.images(n, x.shape[1:], seed=n)
    wanted = jax.tree.leaves(small_lib.run(small, small_params, given))
    found = session.run(None, {session.get_inputs()[0].name: given})
    for a, b in zip(found, wanted):
      assert a.dtype == b.dtype
    nets.assert_close(found, wanted, 1e-5)
  return {node.op_type for node in onnx.load(path.with_suffix('.onnx')).graph.node}


@pytest.mark.parametrize(
  ('name', 'config'),
  [
    ('mlp', {'widths': (9, 7), 'batch_norm': True}),
    ('convnet', {'stages': ((4,), (5,)), 'flatten': True}),
    ('resnet8', {}),
    (
      'multibranch',
      {'cells': 1, 'widths': (4,), 'reductions': (), 'operators': multibranch.OPERATORS},
    ),
  ],
)
def test_reference_models(name, config, tmp_path):
  network = nets.resnet8() if name == 'resnet8' else nets.model(name, **config)
  used = _check(*network, nets.images(1), tmp_path / name)
  assert ('Conv' in used) == (name != 'mlp')
  assert not used & {'Sqrt', 'Reciprocal'}  # normalisation is folded into constants


class Transformer(nn.Module):
  """Token ids, or images cut into patches; masked attention; a class token."""

  @nn.compact
  def __call__(self, x):
    if x.ndim == 2:
      mask = nn.make_attention_mask(x > 0, x > 0)
      x = nn.Embed(20, 8)(x)
    else:
      x, mask = nn.Conv(8, (3, 3), (3, 3))(x).reshape(x.shape[0], -1, 8), None
      token = self.param('token', nn.initializers.ones, (1, 1, 8))
      x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 8)), x], 1)
    x = x + nn.Embed(x.shape[1], 8)(jnp.arange(x.shape[1]))
    y = nn.LayerNorm()(x)
    x = x + nn.MultiHeadDotProductAttention(num_heads=2)(y, y, mask=mask)
    x = x + nn.Dense(8)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x))))
    return {'logits': nn.Dense(3)(x[:, 0]), 'best': jnp.argmax(nn.softmax(x.mean(1)), -1)}


@pytest.mark.parametrize(
  'x', [nets.images(1), np.array([[1, 2, 3, 0, 5]], np.int32)], ids=['image', 'text']
)
def test_transformers(x, tmp_path):
  module = Transformer()
  params = nets.randomised(jax.eval_shape(module.init, jax.random.key(0), x))
  used = _check(module.apply, params, x, tmp_path / 'net')
  assert 'Einsum' in used and ('Gather' in used) == (x.dtype == np.int32)


def _elementwise(h):
  """One result for every rule that works entry by entry or reduces."""
  p, u = jnp.abs(h) + 1.1, jnp.tanh(h) * 0.9
  out = [f(h) for f in (jnp.abs, jnp.ceil, jnp.cos, jnp.exp, jnp.floor, jnp.sign, jnp.sin)]
  out += [f(h) for f in (jnp.sinh, jnp.tan, jnp.cosh, jnp.arcsinh, jnp.arctan, lax.erf, lax.erfc)]
  out += [f(h) for f in (jnp.square, jnp.round, lax.expm1, lax.neg, lax.logistic, jnp.tanh)]
  out += [f(u) for f in (jnp.arccos, jnp.arcsin, jnp.arctanh)]
  out += [f(p) for f in (jnp.arccosh, jnp.log, jnp.sqrt, lax.rsqrt, lax.log1p)]
  out += [h / p, p**u, h**3, jnp.maximum(h, u), jnp.minimum(h, u), jnp.clip(h, -0.5, 0.5), h - u]
  a, b, c = h > u, h <= 0, ((h < 1) | (h >= 2)) & ~(h == 0) ^ (h != 1)
  out += [jnp.where(a & b, h, c.astype(h.dtype)), jnp.where(jnp.isfinite(1 / u), h, 0)]
  out += [jnp.cumsum(h, 1), jnp.cumsum(h, 1, dtype=h.dtype)[:, ::-1], lax.stop_gradient(h)]
  flat = [h.max(1), h.min(1), h.sum(1), u.prod(1), a.any(1), c.all(1)]
  flat += [jnp.argmax(h, 1), jnp.argmin(h, 1), lax.optimization_barrier(h)[:, 0]]
  return out, flat


def _moving(h):
  """One result for every rule that moves positions about."""
  cube = h.reshape(h.shape[0], 2, 2, 2)
  picked = jnp.take(h, np.array([2, 0, 1]), axis=1)
  out = [picked, lax.rev(h, (1,)), jnp.pad(h, ((0, 0), (1, 2))), jnp.stack([h, 2 * h], 1)]
  out += [*jnp.split(h, [3], 1), jnp.concatenate([h, picked], 1), cube.transpose(0, 3, 1, 2)]
  out += [lax.dynamic_slice(h, (0, 2), (h.shape[0], 3)), h[:, 1::3], h[:, None, :3]]
  out += [h[:, :, None] * jnp.ones((h.shape[0], 1, 3)), jnp.zeros((h.shape[0], 2)) + h[:, :2]]
  out += [nn.max_pool(cube, (2, 1)), nn.avg_pool(cube, (2, 2), padding='SAME')]
  out += [jnp.einsum('bij,bkj->bik', cube[:, 0], cube[:, 1]), jnp.einsum('bi,ik->kb', h, np.eye(8))]
  return out


@pytest.mark.parametrize('fn', [_elementwise, _moving])
def test_every_rule(fn, tmp_path):
  params = {'first': (6, 5), 'second': (5, 8)}
  params = nets.randomised({n: jax.ShapeDtypeStruct(s, np.float32) for n, s in params.items()})

  def apply_fn(p, x):
    return fn(jnp.sin(x @ p['first']) @ p['second'])

  _check(apply_fn, params, nets.images(1, (6,)), tmp_path / 'rules')


def _refused(fn, message, path):
  params = {'first': (6, 5), 'second': (5, 8)}
  params = nets.randomised({n: jax.ShapeDtypeStruct(s, np.float32) for n, s in params.items()})
  graph = graph_lib.trace(
    lambda p, x: fn(jnp.sin(x @ p['first']) @ p['second']), params, nets.images(2, (6,))
  )
  arch = nets.architecture(nets.random_gates(graph, 0))
  with pytest.raises(ValueError, match=message):
    export.save(graph, arch, params, path, format='onnx')
  assert not path.with_suffix('.onnx').exists()


@pytest.mark.parametrize(
  ('fn', 'message'),
  [
    (lambda h: jnp.sort(h, 1), r"primitive 'sort' has no ONNX rule; .*format='stablehlo'"),
    (lambda h: h - h.mean(0), 'depends on the batch size'),
    (lambda h: h[1:], 'a size is 1 for a batch of 2 and 2'),
    (lambda h: h[::-1], "'rev' along the batch"),
    (lambda h: lax.reduce_window(h, -np.inf, lax.max, (1, 2), (1, 1), 'VALID'), 'all but two'),
    (lambda h: lax.pad(h, np.float32(0), ((0, 0, 0), (0, 0, 1))), 'between the entries'),
  ],
)
def test_refusals(fn, message, tmp_path):
  _refused(fn, message, tmp_path / 'a')


def test_a_wrong_translation_is_not_written(tmp_path, monkeypatch):
  monkeypatch.setitem(onnx_rules.RULES, 'sin', lambda w, call, ins: w.node('Cos', *ins))
  _refused(lambda h: h, 'onnxruntime computes something else', tmp_path / 'a')


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'onnxruntime', None)
  with pytest.raises(ImportError, match=r"'onnxruntime': pip install 'dapt_jax\[onnx\]'"):
    export.save(None, None, None, tmp_path / 'a', format='onnx')
