"""From a zoo to a table of first weights, as small as it goes."""

import json

import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from PIL import Image

from configs import modes
from dapt_jax import data
from dapt_jax.models import model as model_lib
from dapt_jax.weights import trained, zoo
from experiments import (
  build_zoo,
  compare_starts,
  generation,
  sample_weights,
  starts_table,
  study_modes,
  train_generator,
  zoo_modes,
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
  c.model.options, c.model.narrower = {'widths': (6,)}, ({'widths': (4,)},)
  c.zoo.update({'size': 6, 'per_class': 12, 'test_per_class': 20, 'shard': 4, 'steps': 60})
  c.zoo.update({'starts': 2, 'align': 'weights'})
  c.autoencoder.update(
    {'latent': 5, 'per_class': 2, 'width': 16, 'blocks': 1, 'probes': 4, 'steps': 6, 'gate': 0.0}
  )
  c.generator.update({'width': 16, 'blocks': 1, 'shown': 4, 'steps': 6})
  c.fresh.update({'tasks': 9})
  c.hypernetwork.update({'width': 16, 'blocks': 1, 'variants': ('task',), 'steps': 40})
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
      assert seen['all'].shape[0] == 4 and seen['all'].shape[1] in (1, 2, 3)
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


def test_the_first_weights_of_the_zoo_are_a_start(ran):
  _, _, found, _, _, results = ran
  shared = results['new_classes']['shared first weights']['all']
  assert shared.shape == (4, 2) and np.ptp(found.vectors, axis=0).max() > 0


def test_networks_of_the_zoo_stand_in_one_order(ran):
  config, task, found, path, _, _ = ran
  stored = zoo.load(path / 'zoo')
  assert (np.abs(found.vectors - stored.vectors).max(1) > 0.1).any()
  images = task.bank.images[:9]
  for before, after in zip(stored.vectors, found.vectors):
    np.testing.assert_allclose(
      task.flat.logits(before, images), task.flat.logits(after, images), rtol=1e-4, atol=1e-5
    )
  # Others are brought into the same order, which those of the zoo have already.
  again = zoo_modes.aligned(config, task, found, found)
  np.testing.assert_array_equal(again.vectors, found.vectors)
  # A narrow network stays in its place inside the widest one.
  narrow = found.vectors[found.widths == 1]
  assert len(narrow) and not narrow[:, task.widths.masks[1] == 0].any()
  coding = zoo_modes.fit_codec(config, task, found)
  codes = zoo_modes.encode(task, coding, found)
  back = zoo_task.vectors(task, coding, codes, found.widths)
  np.testing.assert_allclose(back, found.vectors, atol=1e-5)


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
  _, task, _, _, _, _ = ran
  strict = tiny()
  strict.autoencoder.gate, strict.model.narrower = 1.0, ()
  strict.zoo.update({'align': 'activations', 'start': 'independent', 'starts': 1})
  task = zoo_task.load(strict)
  found = build_zoo.run(strict, task, str(tmp_path))
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
  config = tiny()
  config.sample.width = 1
  source = compare_starts.Starts(config, task, found, str(path))
  drawn = sample_weights.candidates(source, shown, 'generator')
  assert drawn.shape == (1, 3, task.flat.size) and np.abs(drawn[0, 0] - drawn[0, 1]).max() > 1e-3
  vector, seen = sample_weights.run(source, shown, 'hypernetwork-task', 60)
  assert seen['drawn weights, 60 steps'] > 0.6 and len(seen) == 4
  # The narrow network that was asked for is written as one.
  sample_weights.save(tmp_path / 'net', task, vector, {'accuracy': seen}, source.width)
  arrays = safetensors.numpy.load_file(tmp_path / 'net.safetensors')
  with open(tmp_path / 'net.json', encoding='utf-8') as file:
    spec = json.load(file)['model']
  assert spec['config']['widths'] == [4]
  sizes = {k: spec[k] for k in ('input_shape', 'num_classes')}
  model = model_lib.create(spec['name'], **sizes, **spec['config'])
  wanted = task.flat.logits(vector, shown.images[:5])
  written = traverse_util.unflatten_dict(arrays, sep='/')
  np.testing.assert_allclose(model.apply(written, shown.images[:5]), wanted, atol=1e-4)
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


def test_the_study_of_several_modes(ran):
  for mode in study_modes.MODES:
    generation.check(modes.get_config(mode))
  assert modes.get_config('3 starts').zoo.starts == 3
  with pytest.raises(ValueError, match=r"choose one of \['shared'"):
    modes.get_config('4 starts')
  results = ran[5]
  names = {'generator': 'generator', 'generator, no guidance': 'generator, no guidance'}
  names |= {'hypernetwork, regression': 'random', 'hypernetwork, both': 'random'}
  rows = {part: {n: seen[m] for n, m in names.items()} for part, seen in results.items()}
  both = {part: {'weights': methods, 'images': methods} for part, methods in rows.items()}
  best = results['new_view']['random']['best'].mean()
  text = study_modes.markdown([('some', both, 0.5)])
  assert f'| some | 50% | {best:.3f}'.replace(' 0.', ' .') in text


def test_tables_of_several_seeds(ran, tmp_path):
  path = ran[3]
  out = tmp_path / 'starts.md'
  starts_table.main([str(path), str(path), f'--out={out}'])
  text = out.read_text()
  assert '| hypernetwork, task |' in text and '**new_view**' in text
  assert out.with_suffix('.svg').read_text().startswith('<?xml')
  with pytest.raises(FileNotFoundError, match=r'run experiments\.compare_starts'):
    starts_table.main([str(tmp_path)])
