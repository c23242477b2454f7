"""From a zoo to a table of first weights, as small as it goes."""

import json

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from dapt_jax import data
from dapt_jax.weights import trained
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
  c.generator.update({'width': 16, 'blocks': 1, 'shown': 4, 'steps': 6})
  c.fresh.update({'tasks': 9})
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
