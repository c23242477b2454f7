"""What stays whole, why, and that the rest of the network can still be cut."""

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dapt_jax import graph as graph_lib
from dapt_jax.graph import reshapes

X = nets.images(3, (6,))


def _params(**shapes):
  return nets.randomised({n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()})


MIXERS = {
  'sort': (lambda h: jnp.sort(h, -1), 'it is sorted'),
  'top k': (lambda h: jnp.repeat(lax.top_k(h, 4)[0], 2, -1), 'the largest of it are chosen'),
  'scan along it': (
    lambda h: lax.scan(lambda c, r: (c + r, c), jnp.zeros(3), h.T)[1].T,
    'a loop runs',
  ),
  'fft': (lambda h: jnp.fft.fft(h).real, "enters the primitive 'fft'"),
  'softmax': (lambda h: jax.nn.softmax(h, -1), 'reduce_max runs over it'),
  'layer norm': (lambda h: (h - h.mean(-1, keepdims=True)) / 2.0, 'reduce_sum runs over it'),
  'cumsum': (lambda h: jnp.cumsum(h, -1), 'cumsum runs along it'),
  'argmax': (lambda h: h * jnp.argmax(h, -1)[:, None], 'argmax runs over it'),
  'self attention': (lambda h: (h @ h.T) @ h, 'two activations'),
  'constant': (lambda h: jnp.sin(h) @ np.eye(8, dtype=np.float32), 'a constant'),
  'one channel broadcast': (lambda h: h * h[:, 2:3], 'a single position of it is broadcast'),
  'one channel taken': (lambda h: h + h[:, 0][:, None], 'a single position of it is taken'),
  'one channel reshaped': (lambda h: h + h[:, 0:1].reshape(3)[:, None], 'position of it is taken'),
  'split axis': (lambda h: jnp.sort(jnp.sort(h.reshape(3, 2, 4), 1), 2).reshape(3, 8), 'splits it'),
  'indexed': (lambda h: h + lax.dynamic_slice(h, (0, 1), (3, 1)), 'an index looks positions'),
}


@pytest.mark.parametrize('name', list(MIXERS))
def test_one_layer_is_refused_and_the_others_are_cut(name):
  mixer, reason = MIXERS[name]

  def fn(p, x):
    h = jax.nn.relu(x @ p['first'] + p['bias']) @ p['second']
    return jax.nn.relu(mixer(h) @ p['third']) @ p['last']

  params = _params(first=(6, 7), bias=(7,), second=(7, 8), third=(8, 5), last=(5, 3))
  graph = graph_lib.trace(fn, params, X)
  assert list(graph.gated_groups) == ['first', 'third']
  assert reason in graph.groups['second'].refused
  assert reason in graph.explain()
  arch = nets.architecture(nets.random_gates(graph, 0))
  small_fn, small = graph.shrink(arch, params)
  gates = arch.gates(graph)
  masked = jax.jit(lambda p, x: fn(graph.apply_gates(p, gates), x))(params, X)
  nets.assert_close(jax.jit(small_fn)(small, X), masked)


def _refusal(fn, params, *inputs):
  with pytest.raises(ValueError, match='can be gated in this function') as error:
    graph_lib.trace(fn, params, *inputs)
  return str(error.value)


def test_tied_kernels_are_refused():
  fn = lambda p, x: jnp.tanh(x @ p['w']) @ p['w'].T
  assert 'one parameter both reads and writes it' in _refusal(fn, _params(w=(6, 8)), X)
  gram = lambda p, x: x @ (p['w'].T @ p['w'])
  assert 'no parameter carries the gate' in _refusal(gram, _params(w=(8, 6)), X)


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    (jnp.tanh, 'changed non-linearly'),
    (lambda w: w + 1.0, 'changed non-linearly'),
    (lambda w: w * w, 'changed non-linearly'),
    (lambda w: w / jnp.abs(w).max(), 'reduce_max runs over it'),
    (lambda w: w / jnp.linalg.norm(w, axis=0), 'reduce_sum runs over it'),
  ],
)
def test_kernels_that_are_not_linear_in_a_parameter_cannot_carry_gates(change, reason):
  fn = lambda p, x: jnp.sin(x @ p['u']) @ change(p['v'])
  assert reason in _refusal(fn, _params(u=(6, 8), v=(8, 5)), X)


def test_grouped_convolutions_are_refused():
  def fn(p, x):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    conv = lambda a, k, g: lax.conv_general_dilated(
      a, k, (1, 1), 'SAME', dimension_numbers=numbers, feature_group_count=g
    )
    return conv(conv(x, p['a'], 1), p['g'], 2).mean((1, 2))

  params = _params(a=(1, 1, 3, 4), g=(1, 1, 2, 6))
  assert 'a grouped convolution needs whole groups' in _refusal(fn, params, nets.images(2))


def test_values_that_leave_the_function_stay_whole():
  def fn(p, x):
    h = x @ p['u']
    return h @ p['v'], h

  assert 'an output of the function' in _refusal(fn, _params(u=(6, 8), v=(8, 5)), X)


def test_results_are_not_taken_for_state_by_position():
  # The flat names of results and parameters agree ('0/0'), but they are not the same thing.
  fn = lambda p, x: ((jax.nn.relu(x @ p[0][0]) @ p[0][1], x @ p[0][0]),)
  params = [[np.ones((6, 6), np.float32), np.ones((6, 5), np.float32)]]
  with pytest.raises(ValueError, match='an output'):
    graph_lib.trace(fn, params, nets.images(6, (6,)))


def test_nothing_to_gate_and_unknown_levels():
  fn = lambda p, x: x @ p['w']
  text = _refusal(fn, _params(w=(6, 8)), X)
  assert 'the reasons' in text and 'an output of the function' in text
  with pytest.raises(ValueError, match=r"levels has \['chanel'\].*'channel'"):
    graph_lib.trace(fn, _params(w=(6, 8)), X, levels=('chanel',))
  with pytest.raises(ValueError, match="select='nothing'"):
    deep = lambda p, x: jnp.sin(x @ p['u']) @ p['v']
    graph_lib.trace(deep, _params(u=(6, 8), v=(8, 5)), X, select='nothing')


@pytest.mark.parametrize('select', ['^second', lambda name: name == 'second'])
def test_selected_groups_only(select):
  fn = lambda p, x: jnp.sin(jnp.sin(x @ p['first']) @ p['second']) @ p['third']
  params = _params(first=(6, 8), second=(8, 5), third=(5, 4))
  graph = graph_lib.trace(fn, params, X, select=select)
  assert list(graph.gated_groups) == ['second']
  assert 'not selected' in graph.explain()


def test_work_inside_loops_is_counted():
  def fn(p, x):
    def body(carry, _):
      return carry @ p['w'], None

    h = lax.scan(body, x @ p['u'], None, length=5)[0]
    return jnp.sin(h @ p['a']) @ p['b']

  params = _params(u=(6, 8), w=(8, 8), a=(8, 4), b=(4, 2))
  graph = graph_lib.trace(fn, params, X)
  assert set(graph.gated_groups) == {'u', 'a'}
  assert graph.total('macs') == 3 * (6 * 8 + 5 * 8 * 8 + 8 * 4 + 4 * 2)


def test_explain_is_narrow_and_shows_what_was_kept():
  apply_fn, params = nets.resnet8()
  graph = graph_lib.trace(apply_fn, params, nets.images(1))
  arch = graph.decide({n: np.ones(g.width) for n, g in graph.gated_groups.items()}, budget=0.5)
  text = graph.explain(arch)
  assert max(map(len, text.splitlines())) <= 120
  assert f'{len(arch.kept["stem/conv"])}/8' in text
  assert 'spatial axes' in text and 'input:axis1' not in text
  full = graph.explain(verbose=True)
  assert 'input:axis1' in full and 'stage3_block1/conv1/kernel.2' in full


@pytest.mark.parametrize(
  ('old', 'new', 'runs'),
  [
    ((2, 3, 4), (6, 4), [([0, 1], [0]), ([2], [1])]),
    ((6, 4), (2, 3, 4), [([0], [0, 1]), ([1], [2])]),
    ((1, 6), (6,), [([0], []), ([1], [0])]),
    ((6,), (6, 1), [([0], [0]), ([], [1])]),
    ((2, 6), (4, 3), [([0, 1], [0, 1])]),
    ((5, 1), (5, 1), [([0], [0]), ([1], [1])]),
  ],
)
def test_segments_of_a_reshape(old, new, runs):
  assert reshapes.segments(old, new) == runs


def _blocks(p, x):
  h = x @ p['stem']
  for i in range(3):
    h = h + jnp.tanh(h @ p[f'block{i}/up']) @ p[f'block{i}/down']
  return h @ p['head']


BLOCKS = {f'block{i}/{n}': s for i in range(3) for n, s in (('up', (5, 8)), ('down', (8, 5)))}
BLOCKS |= {'stem': (6, 5), 'head': (5, 3)}


def test_repeated_blocks_share_one_decision():
  params = _params(**BLOCKS)
  graph = graph_lib.trace(_blocks, params, X, levels=('channel',))
  tied = graph.select(tie='block[0-9]+')
  assert {n: g.width for n, g in tied.gated_groups.items()} == {'stem': 5, 'block0/up': 8}
  arch = nets.architecture(nets.random_gates(tied, 0))
  small = nets.assert_masked_is_shrunk(tied, params, arch, X)[1]
  kept = len(arch.kept['block0/up'])
  assert [small[f'block{i}/up'].shape[1] for i in range(3)] == [kept] * 3
  assert tied.total('macs') == graph.total('macs')


def test_groups_are_selected_and_ignored_by_name():
  graph = graph_lib.trace(_blocks, _params(**BLOCKS), X, levels=('channel',))
  assert list(graph.select('block').gated_groups) == [f'block{i}/up' for i in range(3)]
  some = graph.select('block', ignore=lambda name: 'block1' in name)
  assert list(some.gated_groups) == ['block0/up', 'block2/up']
  assert list(some.select(tie=r'\d').gated_groups) == ['block0/up']
  with pytest.raises(ValueError, match=r"ignore='\(' is no regular expression"):
    graph.select(ignore='(')
  with pytest.raises(ValueError, match="select='nothing'"):
    graph.select('nothing')


def test_limits_by_name():
  graph = graph_lib.trace(_blocks, _params(**BLOCKS), X, levels=('channel',))
  theta = graph.init_gates(jax.random.key(0))
  limits = {
    'min_width': {'block0': 6},
    'max_cut': {'block1': 0.5, 'stem': 0.9},
    'round_to': {'block': 2},
  }
  arch = graph.decide(theta, budget=0.4, **limits)
  widths = {n: len(k) for n, k in arch.kept.items()}
  assert widths['block0/up'] >= 6 and widths['block1/up'] >= 4
  assert all(w % 2 == 0 for n, w in widths.items() if 'block' in n)
  for wrong in ({'max_cut': 1.5}, {'min_width': {'block': 0}}, {'round_to': 0.5}):
    with pytest.raises(ValueError, match=f'^{next(iter(wrong))} is'):
      graph.decide(theta, budget=0.4, **wrong)
