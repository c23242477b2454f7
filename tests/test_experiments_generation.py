"""From a zoo to a table of first weights, as small as it goes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import dapt_jax as dapt
from dapt_jax import data
from dapt_jax.models import model as model_lib
from dapt_jax.training import config as config_lib
from dapt_jax.weights import codec, members, trained
from experiments import (
  build_zoo,
  compare_starts,
  generation,
  sample_weights,
  starts_table,
  train_generator,
  zoo_task,
)


def tiny():
  c = generation.default()
  c.data.update(
    {
      'sources': ('digits',),
      'transforms': ('rot0', 'rot180'),
      'held_views': ('digits/rot180',),
      'num_classes': 3,
      'held_sets': 20,
    }
  )
  c.model.options = {'widths': (6,)}
  c.zoo.update({'size': 6, 'per_class': 12, 'test_per_class': 20, 'shard': 4, 'steps': 60})
  c.autoencoder.update({'latent': 5, 'hidden': (16,), 'probes': 4, 'steps': 6, 'gate': 0.0})
  c.generator.update({'width': 16, 'blocks': 1, 'shown': 4, 'steps': 6, 'fresh_tasks': 9})
  c.hypernetwork.update({'hidden': (16,), 'variants': ('task',), 'steps': 40})
  c.training.update({'batch_size': 8, 'repeat': 2, 'checkpoint_every': 2})
  c.sample.update({'support': 5, 'candidates': 3, 'steps': 2})
  c.compare.update({'tasks': 4, 'parts': ('new_classes', 'new_view'), 'steps': (0, 20)})
  return c


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  config, path = tiny(), tmp_path_factory.mktemp('generate')
  generation.check(config)
  task = zoo_task.load(config)
  found = build_zoo.run(config, task, str(path))
  arrays = train_generator.run(config, task, found, str(path))
  results = compare_starts.run(config, task, found, str(path))
  compare_starts.save(results, config, str(path))
  return config, task, found, path, arrays, results


def test_every_start_is_judged_on_every_part(ran):
  _, _, found, path, _, results = ran
  assert len(found.tasks) == 6 and set(results) == {'new_classes', 'new_view'}
  for methods in results.values():
    assert {'random', 'best of the zoo', 'hypernetwork, task', 'generator'} <= set(methods)
    for seen in methods.values():
      assert seen['all'].shape[0] == 4 and seen['all'].shape[1] in (1, 3)
      assert seen['best curve'].shape == seen['single curve'].shape == (2, 4)
      # The curve of the chosen candidate starts where that candidate stands.
      np.testing.assert_allclose(seen['best curve'][0], seen['best'], atol=1e-6)
      assert (seen['best'] <= seen['all'].max(1)).all()
  tuned = [m['random']['best curve'].mean(1) for m in results.values()]
  assert all(after > before + 0.1 for before, after in tuned)
  with open(path / 'starts.json', encoding='utf-8') as file:
    means = json.load(file)['means']
  assert means['new_view|random|best'] == pytest.approx(
    results['new_view']['random']['best'].mean(), abs=1e-4
  )


def test_the_first_weights_of_the_zoo_are_one_start(ran):
  _, _, found, _, _, results = ran
  shared = results['new_classes']['shared first weights']['all']
  assert shared.shape == (4, 1) and np.ptp(found.vectors, axis=0).max() > 0


def test_a_finished_training_is_not_repeated(ran, capsys):
  config, task, found, path, arrays, _ = ran
  again = train_generator.run(config, task, found, str(path))
  assert 'step' not in capsys.readouterr().err
  for a, b in zip(np.ravel(arrays.latent_std), np.ravel(again.latent_std)):
    assert a == b
  loaded = trained.Arrays.load(path / 'generator')
  assert loaded.settings['config']['zoo']['size'] == 6 and set(loaded.hypernetwork) == {'task'}
  assert loaded.parameters() > 100


def test_the_gate_stops_before_the_diffusion(ran, tmp_path):
  _, task, found, _, _, _ = ran
  strict = tiny()
  strict.autoencoder.gate = 1.0
  with pytest.raises(ValueError, match=r'raise autoencoder\.probe, or lower the gate'):
    train_generator.run(strict, task, found, str(tmp_path))
  assert (tmp_path / 'autoencoder').is_dir() and not (tmp_path / 'diffusion').exists()


def test_weights_for_a_folder_of_pictures(ran, tmp_path):
  config, task, found, path, _, _ = ran
  digits = data.load('digits', 'all')
  for label in (7, 1, 4):
    folder = tmp_path / 'pictures' / str(label)
    folder.mkdir(parents=True)
    for number in np.flatnonzero(digits.labels == label)[:25]:
      pixels = (255 * digits.images[number, ..., 0]).astype(np.uint8)
      Image.fromarray(pixels).resize((11, 11)).save(folder / f'{number}.png')
  name = f'folder:{tmp_path / "pictures"}'
  shown = sample_weights.show(config, name, None)
  assert shown.images.shape[1:] == (8, 8, 1) and shown.support.shape == (1, 3, 5)
  assert len(shown.test[0]) == len(shown.test[1]) == len(shown.images) - 15 > 0
  source = compare_starts.Starts(config, task, found, str(path))
  drawn = sample_weights.candidates(source, shown, 'generator')
  assert drawn.shape == (1, 3, task.flat.size) and np.abs(drawn[0, 0] - drawn[0, 1]).max() > 1e-3
  vector, seen = sample_weights.run(source, shown, 'hypernetwork-task', 60)
  assert seen['drawn weights, 60 steps'] > 0.8 and len(seen) == 4
  sample_weights.save(tmp_path / 'net', task, vector, {'accuracy': seen})
  arrays = safetensors.numpy.load_file(tmp_path / 'net.safetensors')
  kernel = task.flat.unravel(vector)['params']['dense1']['kernel']
  np.testing.assert_array_equal(arrays['params/dense1/kernel'], kernel)
  with open(tmp_path / 'net.json', encoding='utf-8') as file:
    assert json.load(file)['model']['config']['widths'] == [6]
  with pytest.raises(ValueError, match='choose 3 of them'):
    sample_weights.show(config, name, ['7', '1'])
  with pytest.raises(ValueError, match='is a source of the zoo'):
    sample_weights.show(config, 'digits', None)
  with pytest.raises(ValueError, match='choose one of'):
    sample_weights.candidates(source, shown, 'oracle')
  config = tiny()
  config.sample.support = 24
  with pytest.raises(ValueError, match='24 shots were asked for'):
    sample_weights.show(config, name, None)


def test_tables_of_several_seeds(ran, tmp_path):
  path = ran[3]
  out = tmp_path / 'starts.md'
  starts_table.main([str(path), str(path), f'--out={out}'])
  text = out.read_text()
  assert '| hypernetwork, task |' in text and '**new_view**' in text
  assert out.with_suffix('.svg').read_text().startswith('<?xml')
  with pytest.raises(FileNotFoundError, match=r'run experiments\.compare_starts'):
    starts_table.main([str(tmp_path)])


@pytest.fixture(scope='module')
def cut(tmp_path_factory):
  """A zoo of a network with BatchNorm out of which an architecture was cut."""
  config, path = tiny(), tmp_path_factory.mktemp('cut')
  options = {'cells': 1, 'widths': (5,), 'operators': ('conv1x1', 'skip'), 'reductions': (1,)}
  config.model.name, config.model.options = 'multibranch', options
  config.zoo.update({'size': 2, 'shard': 2, 'steps': 30})
  config.compare.update({'tasks': 2, 'parts': ('new_view/digits',), 'steps': (0, 3)})
  config.sample.support = 12  # shapes that recur need no other program
  # The search had ten classes, the tasks have three.
  whole = model_lib.create(
    'multibranch', input_shape=(8, 8, 1), num_classes=10, lowering='lax', **options
  )
  graph = dapt.trace(
    whole.apply, jax.eval_shape(whole.init, jax.random.key(0)), jnp.zeros((1, 8, 8, 1))
  )
  theta = {n: np.arange(g.width) - 1.5 for n, g in graph.gated_groups.items()}
  theta['branch:cell1/skip/bn'] = np.ones(1)
  arch = graph.decide(theta)
  arch.save(path / 'architecture.json')
  config.model.architecture = str(path / 'architecture.json')
  generation.check(config)
  task = zoo_task.load(config)
  return config, task, build_zoo.run(config, task, str(path)), path, arch


def test_networks_of_a_cut_architecture(cut):
  config, task, found, path, arch = cut
  variables = task.flat.unravel(jnp.asarray(found.vectors[0]))
  assert variables['params']['cell1']['conv1x1']['conv']['kernel'] is None
  assert variables['params']['stem']['conv']['kernel'].shape[-1] < 5
  assert found.head['architecture'] == task.architecture == arch.fingerprint()
  sample_weights.save(path / 'net', task, jnp.asarray(found.vectors[0]), {})
  arrays = safetensors.numpy.load_file(path / 'net.safetensors')
  assert 'params/cell1/skip/bn/scale' in arrays and 'params/cell1/conv1x1/bn/scale' not in arrays
  zoo_task.require_architecture(task, arch.fingerprint(), path)
  with pytest.raises(ValueError, match=f'weights of the whole network.*{arch.fingerprint()}'):
    zoo_task.require_architecture(task, None, path)
  other = config.copy_and_resolve_references()
  other.model.architecture = None
  with pytest.raises(ValueError, match=r"another zoo: .*'architecture'"):
    build_zoo.run(other, zoo_task.load(other), str(path))
  other.model.architecture, other.model.options.widths = config.model.architecture, (6,)
  with pytest.raises(ValueError, match='made for another network'):
    zoo_task.load(other)


def test_statistics_of_a_start_are_those_of_its_support(cut):
  config, task, found, path, _ = cut
  held, rng = zoo_task.held(config, task, 'new_view/digits'), np.random.default_rng(0)
  given = found.vectors[:, None]
  strange = np.where(task.flat.trained > 0, given, rng.uniform(0.1, 9.0, given.shape))
  seen = [
    compare_starts.judge(config, task, held, jnp.asarray(v, jnp.float32)) for v in (given, strange)
  ]
  jax.tree.map(np.testing.assert_array_equal, *seen)
  assert seen[0]['best curve'].shape == (2, 2)
  support, images = jnp.asarray(held.support), jnp.asarray(task.bank.images)
  fresh = members.refresh(task.flat, jnp.asarray(strange[:, 0], jnp.float32), images, support)
  shown = images[support[1].reshape(-1)]
  coding = codec.Codec.fit(zoo_task.variables(task, found.vectors))
  code = coding.encode(task.flat.unravel(fresh[1]))
  said = jax.jit(train_generator.outputs_of(task, coding))(code, shown)
  np.testing.assert_allclose(said, jax.jit(task.flat.logits)(fresh[1], shown), atol=1e-4)
  kept = train_generator.check_gate(config, task, str(path), coding, lambda codes: codes)
  assert kept['new_view/digits']['share'] == 1.0 and (path / 'held-new_view-digits').is_dir()


def test_parts_that_do_not_exist():
  config = tiny()
  config.compare.parts = ('new_view/mnist',)
  generation.check(config)
  with pytest.raises(ValueError, match="holds nothing out for 'new_view/mnist'"):
    zoo_task.load(config)
  config.compare.parts = ('zoo',)
  with pytest.raises(config_lib.ConfigError, match=r"compare\.parts has 'zoo'"):
    generation.check(config)
