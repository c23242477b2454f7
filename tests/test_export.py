"""Round trips of exported networks, in a fresh process too, and everything that must be refused."""

import json
import pathlib
import re
import subprocess
import sys

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax import export
from dapt_jax import graph as graph_lib
from dapt_jax.export import small as small_lib
from dapt_jax.models import model as models

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONVNET = {'stages': ((4,), (5,)), 'flatten': True}


def _made(name, levels=('channel', 'branch'), select=None, **config):
  """(model, graph, architecture, variables) of a reference model."""
  made = models.create(name, input_shape=nets.INPUT, num_classes=4, lowering='lax', **config)
  params = nets.randomised(jax.eval_shape(made.init, jax.random.key(0)))
  graph = graph_lib.trace(made.apply, params, nets.images(1), levels=levels, select=select)
  return made, graph, nets.architecture(nets.random_gates(graph, 1)), params


@pytest.fixture(name='convnet', scope='module')
def _convnet():
  return _made('convnet', **CONVNET)


@pytest.fixture(name='saved', scope='module')
def _saved(convnet, tmp_path_factory):
  """A folder with the network in both formats that this package reads."""
  made, graph, arch, params = convnet
  path = tmp_path_factory.mktemp('export') / 'small'
  export.save(graph, arch, params, path, format='stablehlo')
  export.save(graph, arch, params, path, model=made)
  return path


_FRESH = """
import sys, numpy as np
from dapt_jax import export
folder = sys.argv[1]
small, params = export.load(folder + '/small')
function = export.load_stablehlo(folder + '/small')
given = np.load(folder + '/given.npz')
np.savez(folder + '/found.npz', **{
  f'{kind}_{n}': y for n, x in given.items()
  for kind, y in (('safetensors', small(params, x)), ('stablehlo', function(x)))})
"""


def test_a_fresh_process_computes_the_same(convnet, saved):
  _, graph, arch, params = convnet
  batches = {str(n): nets.images(n) for n in (1, 5)}
  np.savez(saved.parent / 'given.npz', **batches)
  subprocess.run([sys.executable, '-c', _FRESH, str(saved.parent)], check=True, cwd=ROOT)
  found = np.load(saved.parent / 'found.npz')
  small, small_params = graph.shrink(arch, params)
  for n, x in batches.items():
    for kind in ('safetensors', 'stablehlo'):
      nets.assert_close(found[f'{kind}_{n}'], small_lib.run(small, small_params, x), 1e-6)


def test_retrained_small_parameters_are_saved_as_they_are(convnet, tmp_path):
  made, graph, arch, params = convnet
  retrained = jax.tree.map(lambda p: p + 0.25, graph.shrink(arch, params)[1])
  export.save(graph, arch, retrained, tmp_path / 'small', model=made)
  nets.assert_close(export.load(tmp_path / 'small')[1], retrained, 0.0)
  with pytest.raises(ValueError, match=r"params leaf 'head/kernel' has shape .* small network has"):
    wrong = {**retrained, 'params': {**retrained['params'], 'head': params['params']['head']}}
    export.save(graph, arch, wrong, tmp_path / 'small')


def test_any_function_loads_with_its_graph(tmp_path):
  """Branches cut away are None again; without a model the function must be given."""
  fn = lambda p, x: (x + jnp.tanh(x @ p['up']) @ p['down'] + jnp.sin(x @ p['side'])) @ p['head']
  shapes = {'up': (6, 8), 'down': (8, 6), 'side': (6, 6), 'head': (6, 3)}
  params = nets.randomised({n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()})
  graph = graph_lib.trace(fn, params, nets.images(2, (6,)))
  gates = {n: np.ones(g.width, np.float32) for n, g in graph.gated_groups.items()}
  gates['branch:down'][:] = 0
  arch = nets.architecture(gates)
  export.save(graph, arch, params, tmp_path / 'net')
  small, small_params = export.load(tmp_path / 'net', graph)
  wanted_fn, wanted = graph.shrink(arch, params)
  assert small_params['up'] is None and small_params['down'] is None
  nets.assert_close(small_params, wanted, 0.0)
  x = nets.images(3, (6,))
  nets.assert_close(small(small_params, x), wanted_fn(wanted, x), 0.0)
  with pytest.raises(ValueError, match='trace that function again and pass the graph'):
    export.load(tmp_path / 'net')


def test_bfloat16(tmp_path):
  apply_fn, params = nets.model('mlp', widths=(9, 7))
  params = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), params)
  graph = graph_lib.trace(apply_fn, params, jnp.asarray(nets.images(1), jnp.bfloat16))
  arch = nets.architecture(nets.random_gates(graph, 1))
  export.save(graph, arch, params, tmp_path / 'a')
  found, wanted = export.load(tmp_path / 'a', graph)[1], graph.shrink(arch, params)[1]
  assert {str(x.dtype) for x in jax.tree.leaves(found)} == {'bfloat16'}
  nets.assert_close(found, wanted, 0.0)
  with pytest.raises(ValueError, match='onnxruntime does not run this network'):
    export.save(graph, arch, params, tmp_path / 'a', format='onnx')


def test_the_model_must_be_the_one_traced(convnet, tmp_path):
  _, graph, arch, params = convnet
  for config in ({'stages': ((4,), (6,))}, {'stages': ((4,), (5,)), 'flatten': False}):
    options = {'input_shape': nets.INPUT, 'num_classes': 4}
    other = models.create('convnet', **options, **config)
    with pytest.raises(ValueError, match=r"model='convnet' .*; pass the model"):
      export.save(graph, arch, params, tmp_path / 'small', model=other)
  assert not list(tmp_path.iterdir())


def test_weights_as_arguments(tmp_path):
  _, graph, arch, params = _made('mlp', widths=(9, 7))
  export.save(graph, arch, params, tmp_path / 'a', format='stablehlo', weights='arguments')
  small, small_params = graph.shrink(arch, params)
  doubled = jax.tree.map(lambda p: 2 * p, small_params)
  found = export.load_stablehlo(tmp_path / 'a')(doubled, nets.images(3))
  nets.assert_close(found, small(doubled, nets.images(3)), 1e-6)
  with pytest.raises(ValueError, match="weights='outside'"):
    export.save(graph, arch, params, tmp_path / 'a', format='stablehlo', weights='outside')


def test_formats_do_not_overwrite_each_other(convnet, saved):
  _, _, arch, _ = convnet
  names = sorted(p.name for p in saved.parent.iterdir() if p.suffix != '.npz')
  assert names == ['small.json', 'small.safetensors', 'small.stablehlo', 'small.stablehlo.json']
  before = saved.with_suffix('.safetensors').read_bytes()
  with pytest.raises(ValueError, match=r"format 'dapt_jax.network'.*under another name"):
    arch.save(saved)
  assert saved.with_suffix('.safetensors').read_bytes() == before


def test_unknown_format(convnet, tmp_path):
  _, graph, arch, params = convnet
  with pytest.raises(ValueError, match=r"format='pickle': choose one of .*onnx"):
    export.save(graph, arch, params, tmp_path / 'a', format='pickle')


@pytest.mark.parametrize('format', export.FORMATS)
def test_training_functions_are_refused(format, tmp_path):
  apply_fn, params = nets.model('convnet', train=True, **CONVNET)
  graph = graph_lib.trace(apply_fn, params, nets.images(2))
  arch = nets.architecture(nets.random_gates(graph, 0))
  with pytest.raises(ValueError, match='training mode'):
    export.save(graph, arch, params, tmp_path / 'a', format=format)
  assert not list(tmp_path.iterdir())


def _plain(fn, x):
  """(graph, architecture, parameters) of `fn(hidden) @ second`."""
  params = {'first': (6, 8), 'second': (8, 4)}
  params = nets.randomised({n: jax.ShapeDtypeStruct(s, np.float32) for n, s in params.items()})
  graph = graph_lib.trace(lambda p, *xs: fn(xs[0] @ p['first'], *xs[1:]) @ p['second'], params, *x)
  return graph, nets.architecture(nets.random_gates(graph, 1)), params


@pytest.mark.parametrize(
  ('fn', 'extra', 'message'),
  [
    (lambda h: h - h.mean(0), (), 'depends on the others in its batch'),
    (lambda h: h[:1], (), 'first axis of every result must be the batch'),
    (lambda h, s: h * s, (np.float32(2),), 'is a scalar'),
  ],
)
def test_stablehlo_refuses_what_is_no_map_over_examples(fn, extra, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    network = _plain(fn, (nets.images(2, (6,)), *extra))
    export.save(*network, tmp_path / 'a', format='stablehlo')
  assert not list(tmp_path.iterdir())


def _copy(saved, folder):
  for file in saved.parent.iterdir():
    (folder / file.name).write_bytes(file.read_bytes())
  return folder / saved.name


LOADERS = {
  'safetensors': (export.load, '.json', '.safetensors'),
  'stablehlo': (export.load_stablehlo, '.stablehlo.json', '.stablehlo'),
}


@pytest.mark.parametrize('kind', list(LOADERS))
def test_damaged_files(saved, tmp_path, kind):
  load, head, payload = LOADERS[kind]
  path = _copy(saved, tmp_path)
  head, payload = (path.with_name(path.name + s) for s in (head, payload))
  text, data = head.read_text(), payload.read_bytes()
  changes = {'format': 'other', 'version': 99, 'architecture': None}
  for key, message in zip(
    changes, ("format is 'other'", 'version 99', r"lacks \['architecture'\]")
  ):
    entries = {**json.loads(text), key: changes[key]}
    head.write_text(json.dumps({k: v for k, v in entries.items() if v is not None}))
    with pytest.raises(ValueError, match=message):
      load(path)
  head.write_text(text)
  payload.write_bytes(data[:-4])
  with pytest.raises(ValueError, match='is damaged or belongs to another'):
    load(path)
  payload.unlink()
  with pytest.raises(FileNotFoundError, match=r'small\.\w+ is missing; .* is two files'):
    load(path)


def test_a_spec_that_does_not_fit_its_network(saved, tmp_path):
  path = _copy(saved, tmp_path)
  head = path.with_suffix('.json')
  entries = json.loads(head.read_text())
  kept = {n: k[:-1] for n, k in entries['architecture']['kept'].items()}
  for change, message in (
    ({'architecture': {**entries['architecture'], 'kept': kept}}, 'has shape .*, the network'),
    ({'architecture': {'kept': {'a': [0]}, 'widths': {}}}, 'architecture is not valid'),
    ({'cut': ['params/head/kernel']}, "disagree about 'params/head/kernel'"),
  ):
    head.write_text(json.dumps({**entries, **change}))
    with pytest.raises(ValueError, match=message):
      export.load(path)
  graph = _plain(jnp.sin, (nets.images(2, (6,)),))[0]
  head.write_text(json.dumps(entries))
  with pytest.raises(ValueError, match='made for another network'):
    export.load(path, graph)


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch):
  text = (ROOT / 'docs' / 'export.md').read_text(encoding='utf-8')
  (block,) = re.findall(r'^```python\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(compile(block, 'docs/export.md', 'exec'), names)
  x = jnp.ones((5, 8, 8, 1))
  wanted = names['small'](names['small_params'], x)
  nets.assert_close(names['logits'], wanted, 1e-5)
  nets.assert_close(names['function'](x), wanted, 1e-6)
