"""Functions that look harmless and are not: each once broke masked == shrunk."""

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dapt_jax import graph as graph_lib
from dapt_jax.models import model as models

X = nets.images(3, (6,))


def _params(**shapes):
  return nets.randomised({n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()})


def _check(fn, params, *inputs, **options):
  graph = graph_lib.trace(fn, params, *inputs, **options)
  compare = nets.Comparison(graph, params)
  for seed in (0, 1):
    compare.check(nets.architecture(nets.random_gates(graph, seed)), *inputs)
  return graph


def test_a_merged_kernel_reads_only_what_its_open_axis_has():
  def fn(p, x):
    h = jnp.tanh(x @ p['a'])
    return jnp.tanh(h @ p['w2'] + h @ p['w'].reshape(6, 4)) @ p['v'], p['w']

  params = _params(a=(6, 6), w2=(6, 4), w=(2, 3, 4), v=(4, 2))
  graph = _check(fn, params, X)
  assert 'a' not in graph.gated_groups  # w leaves the function whole


def test_an_axis_that_is_refused_in_part_is_merged_whole():
  def fn(p, x):
    h = jnp.concatenate([jnp.cumsum(x @ p['a'], -1), jnp.tanh(x @ p['b'])], -1)
    whole = h.reshape(h.shape[0], -1) @ p['d']
    return whole + (h @ p['e']).sum(1)

  params = _params(a=(6, 3), b=(6, 5), d=(16, 2), e=(8, 2))
  x = nets.images(3, (2, 6))
  with pytest.raises(ValueError, match='a reshape merges it'):
    graph_lib.trace(fn, params, x, levels=('channel',))


def test_statistics_of_an_input_are_not_weighed():
  fn = lambda p, x: jnp.sin((x - x.mean(-1, keepdims=True)) @ p['u']) @ p['v']
  params = _params(u=(6, 5), v=(5, 2))
  graph = _check(fn, params, X, levels=('channel', 'normalised', 'input'))
  assert 'averages over positions of an input' in graph.groups['input:axis1'].refused


@pytest.mark.parametrize('batch', [1, 2])
def test_branches_do_not_depend_on_the_batch(batch):
  made = models.create('resnet18', input_shape=(32, 32, 3), num_classes=4, lowering='lax', width=4)
  shapes = jax.eval_shape(made.init, jax.random.key(0))
  image = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)
  graph = graph_lib.trace(made.apply_train, shapes, image)
  assert sum(g.kind == 'branch' for g in graph.gated_groups.values()) == 11
  assert len(graph.gated_groups) == 23


def test_groups_that_differ_between_batch_sizes_are_an_error():
  def fn(p, x):
    h = (x @ p['a']).reshape(-1, 3)
    return jnp.tanh(h.reshape(x.shape[0], 6) if len(x) > 1 else h.reshape(1, 6)[:, ::-1]) @ p['w']

  params = _params(a=(6, 6), w=(6, 4))
  graph = graph_lib.trace(fn, params, X[:1])
  gates = {n: jnp.ones(g.width) for n, g in graph.gated_groups.items()}
  small_fn, small = graph.shrink(nets.architecture(nets.random_gates(graph, 0)), params)
  with pytest.raises(ValueError, match='is another one for inputs of shapes'):
    small_fn(small, X)
  assert graph.apply(params, gates, X).shape == (3, 4)  # no gate inside: the function itself


def test_gates_of_heads_do_not_act_on_their_queries_too():
  def fn(p, x):
    q, k, v = ((x @ p[n]).reshape(*x.shape[:2], 2, 3) for n in 'qkv')
    weights = jax.nn.softmax(jnp.einsum('bqhc,bshc->bhqs', q, k))
    return jnp.einsum('bhqs,bshc->bqhc', weights, v).reshape(*x.shape[:2], -1) @ p['o']

  params = _params(q=(8, 6), k=(8, 6), v=(8, 6), o=(6, 3))
  x = nets.images(2, (5, 8))
  graph = _check(fn, params, x)
  gate = jnp.array([0.5, 1.0])
  wanted = fn({**params, 'o': params['o'] * jnp.repeat(gate, 3)[:, None]}, x)
  nets.assert_close(fn(graph.apply_gates(params, {'q': gate}), x), wanted)


def test_derivative_rules_that_mix_positions_are_refused():
  @jax.custom_vjp
  def centred(h):
    return h

  centred.defvjp(lambda h: (h, None), lambda _, g: (g - g.mean(-1, keepdims=True),))
  fn = lambda p, x: jnp.sin(centred(x @ p['u'])) @ p['v']
  params = _params(u=(6, 8), v=(8, 5))
  graph = graph_lib.trace(fn, params, X)
  small_fn, small = graph.shrink(nets.architecture(nets.random_gates(graph, 0)), params)
  small_fn(small, X)
  with pytest.raises(ValueError, match='derivative rule that mixes positions'):
    jax.grad(lambda p: small_fn(p, X).sum())(small)


def test_derivative_rules_with_integers_and_scalars():
  @jax.custom_jvp
  def sign_and_value(h):
    return jnp.sign(h).astype(jnp.int32), jnp.sin(h)

  @sign_and_value.defjvp
  def _(primals, tangents):
    (h,), (t,) = primals, tangents
    out = sign_and_value(h)
    return out, (np.zeros(h.shape, jax.dtypes.float0), t * jnp.cos(h) * 2)

  @jax.custom_vjp
  def stepped(h, step):
    return jnp.round(h / step) * step

  stepped.defvjp(
    lambda h, step: (stepped(h, step), (h, step)), lambda r, g: (g, (g * r[0] / r[1]).sum())
  )

  def fn(p, x):
    sign, value = sign_and_value(x @ p['u'])
    return stepped(value * (sign > 0), p['step']) @ p['v']

  _check(fn, {**_params(u=(6, 8), v=(8, 5)), 'step': np.float32(0.25)}, X)


def test_a_kernel_divided_by_a_parameter_is_no_reader():
  fn = lambda p, x: jnp.sin(x @ p['u']) @ (p['w'] / p['b'])
  params = _params(u=(6, 8), w=(8, 5), b=(8, 1))
  with pytest.raises(ValueError, match='changed non-linearly'):
    graph_lib.trace(fn, params, X)


def test_a_sum_of_which_every_summand_is_cut_keeps_what_is_added():
  fn = lambda p, x: (
    jnp.sin(x @ p['u']) @ p['a'] + jnp.cos(x) @ p['b'] + 1.0 + lax.mul(0.0, x[:, :2])
  )
  params = _params(u=(6, 8), a=(8, 2), b=(6, 2))
  graph = graph_lib.trace(fn, params, X)
  gates = {
    n: np.zeros(g.width) if n.startswith('branch') else np.ones(g.width)
    for n, g in graph.gated_groups.items()
  }
  small_fn, small = graph.shrink(nets.architecture(gates), params)
  nets.assert_close(small_fn(small, X), np.ones((3, 2)))
