"""Symmetries of networks and the alignment of permuted and of independent ones."""

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import datasets

from dapt_jax import graph as graph_lib
from dapt_jax.models import model as model_lib
from dapt_jax.weights import activations, align, descent, symmetry

KEY = jax.random.key(0)


def network(name):
  """(function, variables, symmetries) of a small network with random weights and statistics."""
  if name == 'resnet8':
    fn, params = nets.resnet8(width=4)
  elif name == 'mlp':
    fn, params = nets.model('mlp', widths=(7, 5, 6), batch_norm=True)
  elif name == 'convnet':
    fn, params = nets.model('convnet', stages=((4,), (6,)))
  else:
    fn, params = nets.model('vit', patch=3, width=8, depth=1, heads=2)
  graph = graph_lib.trace(fn, params, jnp.zeros((2, *nets.INPUT)))
  return fn, params, symmetry.find(graph, params)


@pytest.fixture(scope='module', params=['mlp', 'convnet', 'resnet8', 'vit'])
def net(request):
  return network(request.param)


@pytest.fixture(scope='module')
def mlp():
  return network('mlp')


def images(count=16):
  return np.random.default_rng(1).normal(size=(count, *nets.INPUT)).astype(np.float32)


def same(left, right):
  equal = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), left, right)
  return all(jax.tree.leaves(equal))


def is_identity(permutations):
  return all((p == np.arange(p.shape[-1])).all() for p in permutations.values())


def test_permuting_changes_weights_and_not_the_function(net):
  fn, params, found = net
  other = found.permute(params, found.draw(jax.random.key(3)))
  assert not same(params, other)
  run = jax.jit(fn)
  before, after = run(params, images()), run(other, images())
  assert np.abs(after - before).max() <= 1e-6 * max(1, np.abs(before).max())


def test_a_permuted_copy_is_brought_back_by_its_weights(net):
  _, params, found = net
  other = found.permute(params, found.draw(jax.random.key(4)))
  back = align.match_weights(found, params, other, KEY)
  assert not is_identity(back)
  assert same(found.permute(other, back), params)  # statistics of BatchNorm too


def test_a_permuted_copy_is_brought_back_by_its_activations(mlp):
  _, params, found = mlp
  params = jax.tree.map(lambda x: x + 0.1, params)  # no unit is dead
  other = found.permute(params, found.draw(jax.random.key(4)))
  read = activations.reader(found, images(64))
  seen = read(params)
  assert {n: [x.shape for x in a] for n, a in seen.items()} == {
    'dense1': [(64, 7)],
    'dense2': [(64, 5)],
    'dense3': [(64, 6)],
  }
  aligned = found.permute(other, align.match_activations(found, seen, read(other)))
  assert same(aligned, params)
  assert is_identity(align.match_activations(found, seen, read(aligned)))


def test_activations_are_what_the_reader_sees(mlp):
  _, params, found = mlp
  seen = activations.reader(found, images())(params)['dense3'][0]
  head = params['params']['head']
  logits = seen @ head['kernel'] + head['bias']
  np.testing.assert_allclose(logits, mlp[0](params, images()), rtol=1e-5, atol=1e-5)


def test_every_channel_of_a_residual_network_can_move():
  _, _, found = network('resnet8')
  channels = [g for g in found.graph.groups.values() if g.kind == 'channel']
  assert set(found.refused) == {'head'} == {g.name for g in channels} - set(found.groups)
  stream = [b for b in found.blocks if b.group == found.groups[0]]
  assert sorted(len(b.gates) for b in stream) == [4, 4, 8]  # later stages see more of it


def test_channels_of_attention_can_move_and_positions_cannot():
  _, _, found = network('vit')
  assert any('attention/query' in name for name in found.groups)
  assert 'position:axis0' in found.refused


def test_grouped_convolutions_move_in_whole_groups():
  def apply(params, x):
    y = jax.lax.conv_general_dilated(
      x @ params['w'],
      params['kernel'],
      (1,),
      'SAME',
      dimension_numbers=('NWC', 'WIO', 'NWC'),
      feature_group_count=3,
    )
    return jnp.tanh(y).sum(1) @ params['head']

  shapes = {'w': (2, 6), 'kernel': (3, 2, 6), 'head': (6, 2)}
  params = {n: jax.random.normal(jax.random.key(len(n)), s) for n, s in shapes.items()}
  found = symmetry.find(graph_lib.trace(apply, params, jnp.zeros((2, 5, 2))), params)
  assert [len(b.gates) for b in found.blocks] == [3]
  other = found.permute(params, found.draw(jax.random.key(2)))
  assert same(found.permute(other, align.match_weights(found, params, other, KEY)), params)


def test_cut_networks_and_training_functions_have_symmetries_too():
  fn, params = nets.resnet8(train=True, width=4)
  graph = graph_lib.trace(fn, params, jnp.zeros((2, *nets.INPUT)))
  small_fn, small = graph.shrink(graph.decide(graph.init_gates(KEY, std=1.0), budget=0.5), params)
  found = symmetry.find(graph_lib.trace(small_fn, small, jnp.zeros((2, *nets.INPUT))), small)
  assert len(found.groups) >= 3
  other = found.permute(small, found.draw(jax.random.key(1)))
  assert not same(other, small)
  assert same(found.permute(other, align.match_weights(found, small, other, KEY)), small)


def test_what_only_looks_exchangeable_is_refused():
  weights = jnp.arange(1.0, 5.0)

  def apply(params, x):
    return (jnp.tanh(x @ params['a']) * weights) @ params['b']

  params = {'a': jnp.ones((3, 4)), 'b': jnp.ones((4, 2))}
  found = symmetry.find(graph_lib.trace(apply, params, jnp.zeros((2, 3))), params)
  assert found.refused['a'] == 'another order changes the function' and not found.groups
  with pytest.raises(ValueError, match="'a' cannot be permuted: another order changes"):
    found.permute(params, {'a': np.arange(4)})


def test_cyclic_symmetry_alone_is_refused():
  ring = np.roll(np.eye(5, dtype=np.float32), 1, axis=0)

  def apply(params, x):
    hidden = jnp.tanh(jnp.tanh(x @ params['a']) @ params['b'])
    return (hidden * (hidden @ ring)).sum(-1)

  params = {'a': jnp.ones((3, 4)), 'b': jnp.arange(20.0).reshape(4, 5) / 20}
  found = symmetry.find(graph_lib.trace(apply, params, jnp.zeros((2, 3))), params)
  assert found.groups == ['a'] and 'b' in found.refused
  turned = params | {'b': jnp.roll(params['b'], 1, axis=1)}
  x = images()[:, 0, 0]
  np.testing.assert_allclose(apply(turned, x), apply(params, x), rtol=1e-5)


@pytest.fixture(scope='module')
def trained():
  """(symmetries, six trained MLPs, accuracy on test images, training images) of digits."""
  digits = datasets.load_digits()
  x, y = jnp.asarray(digits.images / 8 - 1, jnp.float32)[..., None], jnp.asarray(digits.target)
  made = model_lib.create('mlp', input_shape=(8, 8, 1), num_classes=10, widths=(24, 24))
  optimizer = optax.adam(5e-3)

  def train(key):
    params = made.init(key)

    def step(_, carry):
      params, state = carry
      loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(
        made.apply(p, x[:1200]), y[:1200]
      ).mean()
      moves, state = optimizer.update(jax.grad(loss)(params), state)
      return optax.apply_updates(params, moves), state

    return jax.lax.fori_loop(0, 150, step, (params, optimizer.init(params)))[0]

  stack = jax.tree.map(np.asarray, jax.jit(jax.vmap(train))(jax.random.split(KEY, 6)))
  first = jax.tree.map(lambda a: a[0], stack)
  found = symmetry.find(graph_lib.trace(made.apply, first, x[:2]), first)
  accuracy = jax.jit(lambda p: (made.apply(p, x[1200:]).argmax(-1) == y[1200:]).mean())
  return found, stack, accuracy, x[:256]


def member(stack, number):
  return jax.tree.map(lambda a: a[number], stack)


def midpoint_accuracy(stack, accuracy):
  first = member(stack, 0)
  middle = lambda other: jax.tree.map(lambda a, b: (a + b) / 2, first, other)
  return np.mean([accuracy(middle(member(stack, n))) for n in range(1, 6)])


def distance(stack):
  return np.sqrt(sum(((a[1:] - a[:1]) ** 2).sum() for a in jax.tree.leaves(stack)))


@pytest.mark.parametrize('by', ['weights', 'activations'])
def test_independent_networks_meet_after_alignment(trained, by):
  found, stack, accuracy, x = trained
  inputs = None if by == 'weights' else (x,)
  aligned, order = align.align_zoo(found, stack, member(stack, 0), KEY, inputs)
  alone = [float(accuracy(member(stack, n))) for n in range(6)]
  assert np.mean(alone) > 0.85
  after = [float(accuracy(member(aligned, n))) for n in range(6)]
  np.testing.assert_allclose(after, alone, atol=2e-3)  # a tie may fall to the other side
  assert distance(aligned) < 0.95 * distance(stack)
  gain = midpoint_accuracy(aligned, accuracy) - midpoint_accuracy(stack, accuracy)
  assert gain > 0.05
  assert is_identity({n: p[:1] for n, p in order.items()})  # the reference is one of them


def test_aligning_again_changes_nothing_whatever_the_key(trained):
  found, stack, _, x = trained
  for inputs in (None, (x,)):
    aligned, _ = align.align_zoo(found, stack, member(stack, 0), KEY, inputs)
    again, order = align.align_zoo(found, aligned, member(stack, 0), jax.random.key(9), inputs)
    assert is_identity(order)
    assert same(aligned, again)


def test_a_zoo_gets_what_its_members_get_alone(trained, monkeypatch):
  found, stack, _, _ = trained
  monkeypatch.setattr(align, '_AT_ONCE', 4)
  aligned, order = align.align_zoo(found, stack, member(stack, 2), KEY)
  for number in range(6):
    params = member(stack, number)
    alone = align.match_weights(found, member(stack, 2), params, KEY)
    assert all((alone[n] == order[n][number]).all() for n in order)
    assert same(member(aligned, number), found.permute(params, alone))


def test_every_order_of_the_same_network_is_aligned_alike(trained):
  found, stack, _, _ = trained
  first, second = member(stack, 0), member(stack, 1)
  shuffled = found.permute(second, found.draw(jax.random.key(5)))
  aligned = [
    found.permute(p, align.match_weights(found, first, p, KEY)) for p in (second, shuffled)
  ]
  assert same(*aligned)


def test_the_descent_never_loses(trained):
  found, stack, _, _ = trained
  leaves = dict(enumerate(jax.tree.leaves(stack)))
  state = descent._State(found.blocks, {i: x[0] for i, x in leaves.items()}, leaves)
  products = lambda i: state.stack[i] * state.reference[i]
  likeness = lambda: sum(products(i).reshape(6, -1).sum(axis=1) for i in state.stack)
  for number in (1, 0, 1, 0):
    before = likeness()
    state.step(number, np.arange(6))
    assert (likeness() >= before - 1e-4).all()


def test_bad_permutations_are_refused(mlp):
  _, params, found = mlp
  with pytest.raises(ValueError, match=r'each of 0..6 once'):
    found.permute(params, {'dense1': [0, 1, 2, 3, 4, 5, 5]})
  with pytest.raises(ValueError, match="'dense9' cannot be permuted: no channels"):
    found.permute(params, {'dense9': [0, 1]})
  with pytest.raises(ValueError, match="'head' cannot be permuted: an output"):
    found.permute(params, {'head': [1, 0, 2, 3]})


def test_gates_that_other_layers_see_are_not_mixed():
  _, params, found = network('resnet8')
  stream = found.blocks[0].group
  width = found.graph.groups[stream].width
  with pytest.raises(ValueError, match='mixes the gates'):
    found.permute(params, {stream: np.roll(np.arange(width), 3)})


def test_other_networks_are_refused(mlp):
  _, params, found = mlp
  _, other = nets.model('mlp', widths=(7, 4, 6), batch_norm=True)
  with pytest.raises(ValueError, match='has shape'):
    align.match_weights(found, params, other, KEY)
  with pytest.raises(ValueError, match='another structure'):
    align.match_weights(found, params, {'params': params['params']}, KEY)
  with pytest.raises(ValueError, match='one leading axis of N > 0'):
    align.align_zoo(found, params, params, KEY)
  stack = jax.tree.map(lambda a: np.stack([a, a]), params)
  stack['params']['dense2']['kernel'][1] = np.nan
  with pytest.raises(ValueError, match=r"networks \[1\] .* 'dense2/kernel'"):
    align.align_zoo(found, stack, params, KEY)
  read, short = (activations.reader(found, images(n)) for n in (8, 4))
  with pytest.raises(ValueError, match='one reader'):
    align.match_activations(found, read(params), short(params))
