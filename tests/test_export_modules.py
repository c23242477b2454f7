"""Cuts as smaller Flax models: equal to the small function, or refused with the reason."""

import graph_nets as nets
import jax
import numpy as np
import pytest

from dapt_jax import export
from dapt_jax import graph as graph_lib
from dapt_jax.export import small as small_lib
from dapt_jax.models import model as models

OPTIONS = {'input_shape': nets.INPUT, 'num_classes': 4}
MULTIBRANCH = {
  'cells': 2,
  'widths': (4, 5),
  'operators': ('conv1x1', 'sep3x3', 'skip'),
  'reductions': (2,),
  'inner': 3,
}


def _cut(name, levels=('channel',), seed=3, **config):
  made = models.create(name, lowering='lax', **OPTIONS, **config)
  params = nets.randomised(jax.eval_shape(made.init, jax.random.key(0)))
  graph = graph_lib.trace(made.apply, params, nets.images(1), levels=levels)
  return made, graph, nets.architecture(nets.random_gates(graph, seed)), params


@pytest.mark.parametrize(
  ('name', 'config'),
  [
    ('mlp', {'widths': (9, 7), 'batch_norm': True}),
    ('convnet', {'stages': ((4,), (5,)), 'flatten': True}),
    ('multibranch', MULTIBRANCH),
  ],
)
def test_a_smaller_model_is_the_small_function(name, config):
  made, graph, arch, params = _cut(name, **config)
  small, small_params = graph.shrink(arch, params)
  model, shapes = export.flax_module(made, graph, arch, lowering='lax')
  shape_of = lambda tree: jax.tree.map(np.shape, tree)
  again = models.create(name, **OPTIONS, **model.config)
  drawn = again.init(jax.random.key(1))
  assert shape_of(drawn) == shape_of(small_params) == jax.tree.map(lambda s: s.shape, shapes)
  x = nets.images(3)
  wanted = small_lib.run(small, small_params, x)
  nets.assert_close(small_lib.run(model.module.apply, small_params, x), wanted)
  state = jax.eval_shape(model.apply_train, small_params, x)[1]
  kept = {k: v for k, v in small_params.items() if k != 'params'}
  assert jax.tree.map(lambda s: s.shape, state) == shape_of(kept)


@pytest.mark.parametrize(
  ('levels', 'message'),
  [(('branch',), r'branches were removed \(cell'), (('input',), 'parameters differ')],
)
def test_cuts_that_are_no_widths(levels, message):
  name = 'multibranch' if 'branch' in levels else 'mlp'
  config = MULTIBRANCH if name == 'multibranch' else {'widths': (5,)}
  made, graph, arch, _ = _cut(name, levels, **config)
  with pytest.raises(ValueError, match=message):
    export.flax_module(made, graph, arch)


def _resnet(kept):
  """A cut of the stages of a ResNet-20; `kept` out of a width of 4, 8, 16."""
  made = models.create('resnet20', width=4, lowering='lax', **OPTIONS)
  shapes = jax.eval_shape(made.init, jax.random.key(0))
  graph = graph_lib.trace(made.apply, shapes, nets.images(1), levels=('channel',))
  (stages,) = [n for n in graph.gated_groups if n == 'stem/conv']
  group = graph.gated_groups[stages]
  return made, graph, graph_lib.Architecture({stages: kept(group)}, {stages: group.width})


def test_a_padded_shortcut_is_refused():
  made, graph, arch = _resnet(lambda group: np.arange(group.width - 1, dtype=np.int32))
  with pytest.raises(ValueError, match=r'not widths of layers alone.*(padded shortcut|zero chan)'):
    export.flax_module(made, graph, arch)


@pytest.mark.parametrize(
  ('widths', 'message'),
  [
    ({'dense7': 3}, r"layer_widths\['dense7'\] = 3: this layer is not there.*'dense1'"),
    ({'dense1': 0}, 'a width of at least 1'),
  ],
)
def test_layer_widths_are_checked(widths, message):
  with pytest.raises(ValueError, match=message):
    models.create('mlp', layer_widths=widths, **OPTIONS)
