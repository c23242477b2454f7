"""Structures: cut out of a model, with fresh, inherited or pretrained weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transfer_toys as toys

from dapt_jax import graph as graph_lib
from dapt_jax.models import model as model_lib
from dapt_jax.transfer import draws, retrain, structures


@pytest.fixture(scope='module')
def cut():
  """(model, graph, train graph, architecture) of a small branched network."""
  model = model_lib.create(
    'multibranch',
    input_shape=toys.SHAPE,
    num_classes=toys.CLASSES,
    lowering='lax',
    cells=1,
    widths=(6,),
    operators=('conv3x3', 'max_pool', 'skip'),
    reductions=(),
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  image = jax.ShapeDtypeStruct((1, *toys.SHAPE), jnp.float32)
  graph = graph_lib.trace(model.apply, shapes, image)
  train_graph = graph_lib.trace(model.apply_train, shapes, image)
  arch = graph.decide(graph.init_gates(jax.random.key(1), std=1.0), budget=0.5)
  return model, graph, train_graph, arch


def _size(params):
  return sum(x.size for x in jax.tree.leaves(params['params']))


def test_shrunk_structure_retrains(cut):
  structure = structures.of_architecture(*cut)
  params = structure.init(jax.random.key(0))
  assert _size(params) == cut[3].costs['params']['kept'] < cut[3].costs['params']['whole']
  task = toys.images()
  support = draws.supports(task[1], (5,), 2)
  recipe = retrain.Recipe(steps=40, batch_size=15, learning_rate=0.03, chunk=20)
  out = retrain.retrain(
    structure, *task[:2], support, *task[2:], recipe=recipe, key=jax.random.key(0)
  )
  assert out.accuracy.mean() > 0.5
  assert out.loss.max() < np.log(toys.CLASSES)


def test_fresh_weights_depend_on_the_key_and_inherited_do_not(cut):
  fresh = structures.of_architecture(*cut)
  first, second = (fresh.init(jax.random.key(k)) for k in (0, 1))
  assert (toys.flat(first) != toys.flat(second)).any()
  source = cut[0].init(jax.random.key(7))
  kept = structures.of_architecture(*cut, inherited=source)
  for key in (0, 1):
    params = kept.init(jax.random.key(key))
    assert (toys.flat(params) == toys.flat(cut[1].shrink(cut[3], source)[1])).all()


def test_inherited_weights_may_get_the_readout_of_the_whole_network(cut):
  model, graph, _, arch = cut
  source = model.init(jax.random.key(7))
  structure = structures.of_architecture(*cut, inherited=source, head='head')
  whole = structures.dense_pretrained(model, source, readout_only=False, head='head')
  x = toys.images()[2][:5]
  heads = []
  for key in (0, 1):
    params, dense = (s.init(jax.random.key(key)) for s in (structure, whole))
    masked = model.apply(graph.apply_gates(dense, arch.gates(graph)), x)
    np.testing.assert_allclose(structure.apply(params, x), masked, atol=1e-5)
    heads.append(params['params'].pop('head')['kernel'])
    kept = graph.shrink(arch, source)[1]
    kept['params'].pop('head')
    assert (toys.flat(params) == toys.flat(kept)).all()
  assert (heads[0] != heads[1]).any()


def test_inherited_weights_compute_what_the_masked_network_does(cut):
  model, graph, _, arch = cut
  source = model.init(jax.random.key(7))
  structure = structures.of_architecture(*cut, inherited=source)
  x = toys.images()[2][:5]
  masked = model.apply(graph.apply_gates(source, arch.gates(graph)), x)
  np.testing.assert_allclose(
    structure.apply(structure.init(jax.random.key(0)), x), masked, atol=1e-5
  )


def test_training_form_returns_statistics_of_the_small_network(cut):
  structure = structures.of_architecture(*cut)
  params = structure.init(jax.random.key(0))
  logits, state = structure.apply_train(params, toys.images()[0][:6])
  assert logits.shape == (6, toys.CLASSES)
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  assert shapes(state['batch_stats']) == shapes(params['batch_stats'])


def test_pretrained_draws_a_new_readout(cut):
  model = cut[0]
  source = model.init(jax.random.key(7))
  structure = structures.dense_pretrained(model, source, readout_only=True, head='head')
  first, second = (structure.init(jax.random.key(k)) for k in (0, 1))
  assert (first['params']['head']['kernel'] != second['params']['head']['kernel']).any()
  rest = lambda p: {k: v for k, v in p['params'].items() if k != 'head'}
  assert (toys.flat(rest(first)) == toys.flat(rest(source))).all()
  moving = {
    path[1].key for path, on in jax.tree_util.tree_leaves_with_path(structure.trainable) if on
  }
  assert moving == {'head'}
  assert (
    structures.dense_pretrained(model, source, readout_only=False, head='head').trainable is None
  )


def test_pretrained_refuses_an_unknown_head(cut):
  source = cut[0].init(jax.random.key(7))
  with pytest.raises(ValueError, match="head is 'readout'; the entries are"):
    structures.dense_pretrained(cut[0], source, readout_only=True, head='readout')


def test_architecture_of_another_network_is_refused(cut):
  arch = dataclasses.replace(cut[3], widths={n: w + 1 for n, w in cut[3].widths.items()})
  with pytest.raises(ValueError, match='made for another network'):
    structures.of_architecture(*cut[:3], arch)


def test_of_model_takes_another_lowering_outside_of_loops(cut):
  model = cut[0]
  assert structures.of_model(model).apply is model.apply
  other = model._replace(apply=lambda variables, x: x)
  both = structures.of_model(model, other)
  assert both.apply is other.apply
  assert both.apply_train is model.apply_train
