"""From a zoo to a table of first weights, as small as it goes."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from PIL import Image

import dapt_jax as dapt
from configs import modes as modes_config
from dapt_jax import data
from dapt_jax.models import model as model_lib
from dapt_jax.training import config as config_lib
from dapt_jax.training import writers
from dapt_jax.weights import codec, members, trained, zoo
from experiments import (
  ablations,
  build_zoo,
  check_generator,
  checks_table,
  compare_starts,
  first_weights,
  generation,
  modes,
  sample_weights,
  starts_table,
  studies,
  study_generator,
  study_modes,
  train_baselines,
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
  c.autoencoder.update({'network': 'tokens', 'chunk': 130, 'per_token': 2})
  c.generator.update({'network': 'tokens', 'width': 16, 'blocks': 1, 'shown': 4, 'steps': 6})
  c.fresh.update({'tasks': 9})
  c.hypernetwork.update({'width': 16, 'blocks': 1, 'variants': ('task',), 'steps': 40})
  c.reptile.update({'inner_steps': 3, 'learning_rate': 0.02, 'steps': 20})
  c.joint.update({'learning_rate': 0.02, 'steps': 200})
  c.training.update({'batch_size': 8, 'repeat': 2, 'checkpoint_every': 2})
  c.sample.update({'support': 5, 'candidates': 3, 'steps': 2})
  c.compare.update({'tasks': 4, 'parts': ('new_classes', 'new_view'), 'steps': (0, 20)})
  c.compare.update({'baselines': ('reptile', 'joint'), 'trained': 3})
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


def test_meta_learning_needs_images_to_ask_about():
  config = tiny()
  config.sample.support = 7
  with pytest.raises(ValueError, match=r"\['reptile'\] of compare\.baselines take twice"):
    generation.check(config)


def test_a_generator_of_tokens_needs_latents_of_tokens():
  config = tiny()
  config.autoencoder.network = 'slots'
  with pytest.raises(config_lib.ConfigError, match="network is 'slots', whose latents"):
    generation.check(config)


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


def test_baselines_learn_from_the_tasks_of_the_zoo(ran, capsys):
  config, task, found, path, _, results = ran
  for methods in results.values():
    means, start = methods['joint body, class means'], methods['joint body, new head']
    assert means['best'].mean() > 0.6 and start['best'].mean() == pytest.approx(1 / 3, abs=0.01)
    # Networks with more images of the task are better than those that ten shots leave.
    ceiling = methods['trained on 12 images a class']['best'].mean()
    assert ceiling > methods['random']['best curve'][1].mean()
  again = train_baselines.run(config, task, found, str(path))
  assert set(again) == {'reptile', 'joint'} and 'step' not in capsys.readouterr().err
  assert np.abs(again['reptile'] - zoo_task.first_weights(config, task)).max() > 0.01


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
  strict.autoencoder.update({'gate': 1.0, 'network': 'slots'})
  strict.model.narrower = ()
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
  shown = sample_weights.show(config, 1, name, None)
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
  # Fewer images than the generator was trained with, larger and coloured ones, other classes.
  few = sample_weights.show(config, 1, name, ['7', '4', '1'], support=1)
  assert few.support.shape == (1, 3, 1)
  assert np.isfinite(sample_weights.candidates(source, few, 'generator')).all()
  coloured = np.stack([digits.images[..., 0]] * 3, axis=-1)[:4]
  gray = sample_weights._with_channels(coloured, 1, 'x')
  np.testing.assert_allclose(gray, digits.images[:4], atol=1e-6)
  assert sample_weights._with_channels(gray, 3, 'x').shape == (4, 8, 8, 3)


def test_the_study_of_several_modes(ran):
  for mode in modes.MODES:
    generation.check(modes_config.get_config(mode))
  assert modes_config.get_config('3 starts').zoo.starts == 3
  with pytest.raises(ValueError, match=r"choose one of \['shared'"):
    modes_config.get_config('4 starts')
  results = ran[5]
  names = {'generator': 'generator', 'generator, no guidance': 'generator, no guidance'}
  names |= {'hypernetwork, regression': 'random', 'hypernetwork, both': 'random'}
  plain = {
    part: {n: studies.listed(seen[m]) for n, m in names.items()} for part, seen in results.items()
  }
  parts = {part: {'weights': methods, 'images': methods} for part, methods in plain.items()}
  rows = study_modes.stacked([[{'name': 'some', 'gate': g, 'parts': parts}] for g in (0.4, 0.6)])
  assert rows[0]['parts']['new_view']['weights']['generator']['one'].shape[0] == 2
  best = results['new_view']['random']['best'].mean()
  table = study_modes.markdown(rows)
  assert f'| some | 50% | {best:.3f}'.replace(' 0.', ' .') in table
  drawn = rows[0]['parts']['new_view']['weights']['generator']
  cells = [studies.figure(drawn[kind].mean()) for kind in ('one', 'best', 'ensemble')]
  cell = table.split('**new_view**')[1].splitlines()[4].split(' | ')[4]
  assert [c.removesuffix(' (+)').removesuffix(' (-)') for c in cell.split(' / ')] == cells


def test_a_variant_of_the_study_of_the_generator(ran, tmp_path, monkeypatch, capsys):
  config, task, found, path, _, _ = ran
  changes = {
    **{'encoder': 'set_transformer', 'features': 'network', 'images': (1, 5), 'width': 8},
    **{'align': 'soft_target', 'align_steps': 4},
  }
  changes = {f'condition.{name}': value for name, value in changes.items()}
  group = {'sets': changes, 'a larger zoo': {'zoo.size': 7}}
  monkeypatch.setitem(ablations.GROUPS, 'some', group)
  own = ablations.changed(config, 'sets')
  place = tmp_path / 'variants' / 'sets'
  study_generator.share(own, tmp_path, place)
  for name in ('autoencoder', 'baseline-joint', 'held-new_classes', 'held-new_view'):
    shutil.copytree(path / name, place / name, dirs_exist_ok=True)
  first = study_generator.run(config, task, found, tmp_path, 'sets')
  trained_now = capsys.readouterr().err
  assert 'condition' in trained_now and 'autoencoder' not in trained_now
  assert first['seconds'] > 0 and first['gate']['new_view'] > 0
  # It is not repeated, and no larger zoo is made up.
  monkeypatch.setattr(train_generator, 'run', lambda *_: pytest.fail('repeated'))
  assert study_generator.run(config, task, found, tmp_path, 'sets') == json.loads(
    json.dumps(writers.jsonable(first))
  )
  with pytest.raises(ValueError, match=r'takes 7 networks, but zoo.size is 6'):
    study_generator.run(config, task, found, tmp_path, 'a larger zoo')
  part = study_generator.first(found, 4, 'a smaller zoo')
  assert len(part.tasks) == len(part.widths) == len(part.vectors) == 4
  text = study_generator.markdown({'some': {'sets': first, 'again': first}})
  best = np.mean(first['parts']['new_view']['generator']['best'])
  assert text.count(f'{best:.3f}'.lstrip('0') + ' [') >= 2
  assert '| again: hypernetwork, task |' in text and '(+)' not in text.partition('Means')[0]
  # The encoder is in the file, and is told any number of images, of the bank and others.
  own.sample.support = 3
  source = compare_starts.Starts(own, task, found, str(place))
  held = zoo_task.held(own, task, 'new_view')
  given = source.conditions(held.support)
  assert given.shape == (4, 3, 3, 1 + 6 + 2)
  other = source.condition(jnp.copy(task.images), held.support[:, :, :1])
  np.testing.assert_allclose(other, given[:, :, :1], atol=1e-4)
  codes = source.draw(given, jax.random.key(0), 2.0)
  assert codes.shape == (4, task.flat.size) and np.abs(codes[0] - codes[1]).max() > 1e-4


def test_a_generator_from_before_conditions_could_be_chosen(ran):
  config, _, _, _, arrays, _ = ran
  settings = {**arrays.settings, 'config': config.to_dict()}
  del settings['config']['condition']
  old = dataclasses.replace(arrays, settings=settings)
  old.require(config, generation.free(config), generation.ADDED)
  other = tiny()
  other.condition.slots = False
  with pytest.raises(ValueError, match=r'condition\.slots: True, not False'):
    old.require(other, generation.free(other), generation.ADDED)


def test_tables_of_several_seeds(ran, tmp_path):
  path = ran[3]
  out = tmp_path / 'starts.md'
  starts_table.main([str(path), str(path), f'--out={out}'])
  text = out.read_text()
  assert '| hypernetwork, task |' in text and '**new_view**' in text
  assert out.with_suffix('.svg').read_text().startswith('<?xml')
  with pytest.raises(FileNotFoundError, match=r'run experiments\.compare_starts'):
    starts_table.main([str(tmp_path)])


def test_steps_that_a_start_saves():
  curve, steps = np.array([0.2, 0.5, 0.8]), [0, 10, 30]
  assert [starts_table.needed(curve, steps, a) for a in (0.1, 0.5, 0.51, 0.9)] == [
    *('0', '10', '30', '> 30')
  ]


def test_checks_and_novelty_of_a_generator(ran, tmp_path):
  config, task, found, path, _, results = ran
  parts = check_generator.run(config, task, found, str(path))
  own = parts['new_classes'].checks['hypernetwork, task'].accuracy['own']
  np.testing.assert_allclose(own, results['new_classes']['hypernetwork, task']['best'], atol=1e-6)
  accuracy = parts['new_view'].checks['generator'].accuracy
  assert {'own', 'shuffled', 'permuted', 'unconditional'} <= set(accuracy)
  values = parts['new_view'].novelty
  assert values['distance to the zoo', 'samples', 'corrected'].shape == (4,)
  sampled = results['new_view']['generator']['all'].mean(1)
  np.testing.assert_allclose(values['accuracy', 'samples', 'raw'], sampled, atol=1e-6)
  with open(path / 'checks.json', encoding='utf-8') as file:
    rows = json.load(file)['parts']['new_classes']
  assert rows['checks']['generator']['verdicts'][3]['check'] == 'condition helps'
  assert rows['verdict'].split(':')[0] in ('new', 'near the zoo', 'errs like the zoo', 'copies')
  assert (path / 'novelty.png').is_file() and (path / 'novelty.svg').is_file()
  # Two seeds that agree are one seed, with wider intervals.
  checks_table.main([str(path), str(path), f'--out={tmp_path / "checks.md"}'])
  text = (tmp_path / 'checks.md').read_text()
  assert '**new classes, novelty**' in text and text.count('failed checks:') == 4
  both = checks_table.stack([checks_table.load(path)] * 2)['new_view']
  assert both.checks['generator'].rows()[0]['mean'] == pytest.approx(accuracy['own'].mean())
  assert both.novelty['accuracy', 'samples', 'raw'].shape == (2, 4)
  with pytest.raises(FileNotFoundError, match=r'run experiments\.check_generator'):
    checks_table.load(tmp_path)
  del parts['new_view'].checks['generator']
  with pytest.raises(ValueError, match='one configuration'):
    checks_table.stack([parts, checks_table.load(path)])


def _pictures(root, counts):
  """A folder of black pictures, so many of every class."""
  for label, count in counts.items():
    (root / label).mkdir(parents=True)
    for number in range(count):
      Image.new('L', (9, 9)).save(root / label / f'{number}.png')
  return f'folder:{root}'


def _show(ran, name, classes=None, support=None):
  sample_weights.show(ran[0], 1, name, classes, support)


def _arrays(images=1.0, labels=(0, 1, 2)):
  data.from_arrays(np.full((3, 8, 8), images, np.float32), labels)


def _changed(section, **changes):
  config = tiny()
  (config[section] if section else config).update(changes)
  return config


def _starts(ran, path, damage=None, config=None):
  """Reads a copy of the trained generator, after `damage` was done to one of its files."""
  config_, task, found, root, _, _ = ran
  for name in ('codec.json', 'codec.safetensors', 'generator.json', 'generator.safetensors'):
    path.mkdir(exist_ok=True)
    (path / name).write_bytes((root / name).read_bytes())
  if damage:
    name, act = damage
    act(path / name)
  return compare_starts.Starts(config or config_, task, found, str(path))


def _zoo(ran, path, name, act):
  """Builds on a copy of the zoo, after something was done to one of its files."""
  config, task, _, root, _, _ = ran
  shutil.copytree(root / 'zoo', path / 'zoo')
  act(path / 'zoo' / name)
  build_zoo.run(config, task, str(path))


def _cut(path):
  path.write_bytes(path.read_bytes()[:-40])


def _draw(ran, path, width):
  source = _starts(ran, path)
  source.sampled(jnp.zeros((2, width)), 1, 2.0, 'x')


def _tune(ran, path):
  shown = sample_weights.Shown(ran[1].bank.images, ran[1].bank.images, ((), ()))
  sample_weights.run(_starts(ran, path), shown, 'generator', 61)


#: {what is wrong: (a call with the run and a path, words that the message must hold)}
MALFORMED = {
  'a source of the zoo': (lambda r, p: _show(r, 'digits'), r'experiments\.compare_starts'),
  'more classes': (
    lambda r, p: _show(r, _pictures(p, dict.fromkeys('abcd', 2))),
    'has 4 classes, this generator writes networks for 3; choose 3 of them: --classes=a,b,c',
  ),
  'fewer classes': (
    lambda r, p: _show(r, _pictures(p, dict.fromkeys('ab', 2))),
    r'has 2 classes, .* data set with more, or train .* --config\.data\.num_classes=2',
  ),
  'an unknown class': (
    lambda r, p: _show(r, _pictures(p, dict.fromkeys('abc', 2)), ['a', 'b', 'z']),
    r"class 'z' of .* one of the names \['a', 'b', 'c'\]",
  ),
  'few images': (
    lambda r, p: _show(r, _pictures(p, {'a': 9, 'b': 3, 'c': 9})),
    "class 'b' of .* has 2 training images, the support takes 5; .* give --support=2",
  ),
  'one image': (
    lambda r, p: _show(r, _pictures(p, {'a': 9, 'b': 1, 'c': 9}), support=1),
    'b: one picture cannot be split into train and test. Add pictures',
  ),
  'an empty folder': (
    lambda r, p: p.mkdir() or _show(r, f'folder:{p}'),
    'no class folders in it. Put the pictures',
  ),
  'no folder': (lambda r, p: _show(r, f'folder:{p}'), 'no such folder. Give a folder'),
  'two channels': (
    lambda r, p: sample_weights._with_channels(np.zeros((1, 8, 8, 2)), 1, 'x'),
    "images of 'x' have 2 channels, the generator's networks read 1; save them gray",
  ),
  'labels with a gap': (lambda r, p: _arrays(labels=(0, 1, 3)), r'classes \[2\] .* without gaps'),
  'labels from one': (lambda r, p: _arrays(labels=(1, 2, 3)), r'classes \[0\] of 0\.\.3'),
  'pixels that are NaN': (lambda r, p: _arrays(np.nan), r'images\[0\] has nan .* Remove or repair'),
  'steps beyond the recipe': (_tune, r'--tune=61: the recipe of the zoo has zoo\.steps=60'),
  'a condition of another length': (
    lambda r, p: _draw(r, p, 7),
    r'shape \(2, 7\); this generator takes \(B, 3, 130\): as many classes',
  ),
  'no generator': (
    lambda r, p: _starts(r, p, ('generator.json', pathlib.Path.unlink)),
    r'generator\.json is missing; run experiments\.train_generator',
  ),
  'half a generator': (
    lambda r, p: _starts(r, p, ('generator.safetensors', pathlib.Path.unlink)),
    r'generator\.safetensors is missing; a generator of weights is two files',
  ),
  'a generator cut short': (
    lambda r, p: _starts(r, p, ('generator.safetensors', _cut)),
    r'generator\.safetensors is damaged .* write them again',
  ),
  'a head cut short': (
    lambda r, p: _starts(r, p, ('generator.json', _cut)),
    r'generator\.json is not readable JSON',
  ),
  'the codec of nothing': (
    lambda r, p: _starts(r, p, ('codec.safetensors', lambda f: f.write_bytes(b''))),
    r'codec\.safetensors is damaged',
  ),
  'another network': (
    lambda r, p: _starts(r, p, config=_changed('model', options={'widths': (7,)})),
    r'trained with another configuration \(model\.options\.widths: \[6\], not \[7\]\); take that',
  ),
  'another number of classes': (
    lambda r, p: _starts(r, p, config=_changed('data', num_classes=4, image_size=9)),
    r'data\.image_size: 8, not 9; data\.num_classes: 3, not 4',
  ),
  'a zoo of another network': (
    lambda r, p: build_zoo.run(_changed('zoo', steps=61), r[1], str(r[3])),
    r"another zoo: \['recipe'\] differ",
  ),
  'a damaged shard': (
    lambda r, p: _zoo(r, p, 'shard-0001.safetensors', _cut),
    r'shard-0001\.safetensors is damaged',
  ),
  'a damaged zoo.json': (
    lambda r, p: _zoo(r, p, 'zoo.json', _cut),
    r'zoo\.json is damaged .* remove it and build the zoo again',
  ),
  'more images than there are': (
    lambda r, p: build_zoo.run(_changed('zoo', per_class=500), r[1], str(p)),
    r"class \d of 'digits/.*' has \d+ train images; per_class is 500",
  ),
}


@pytest.mark.parametrize('wrong', list(MALFORMED))
def test_refused_with_value_rule_and_remedy(ran, tmp_path, wrong):
  call, words = MALFORMED[wrong]
  with pytest.raises((ValueError, FileNotFoundError), match=words):
    call(ran, tmp_path / 'place')


def test_settings_may_change_that_only_matter_for_drawing(ran, tmp_path):
  config = tiny()
  config.sample.update({'candidates': 2, 'steps': 3, 'guidance': 1.0})
  config.data.data_dir = str(tmp_path)
  assert _starts(ran, tmp_path / 'place', config=config).config.sample.steps == 3


def test_the_stage_of_the_pipeline_reads_what_is_there(ran, tmp_path, monkeypatch):
  config, task, _, path, _, results = ran
  (tmp_path / 'first_weights').mkdir()
  for name in ('starts.npz', 'starts.json'):
    shutil.copy(path / name, tmp_path / 'first_weights')
  assert first_weights.read(config, str(tmp_path)) == {}
  found = first_weights.describe(config, task, tmp_path / 'first_weights')
  writers.write_json(tmp_path / 'first_weights' / 'summary.json', found)
  monkeypatch.setattr(zoo_task, 'load', lambda config: pytest.fail('repeated'))
  assert first_weights.run(config, str(tmp_path)) == first_weights.read(config, str(tmp_path))
  assert [p['part'] for p in found['parts']] == list(results)
  row = next(r for r in found['parts'][0]['rows'] if r['method'] == 'generator')
  accuracies = results['new_classes']['generator']
  assert row['best']['mean'] == pytest.approx(accuracies['best'].mean())
  assert row['curve'] == pytest.approx(accuracies['best curve'].mean(1))
  shown = np.array(found['parts'][1]['shown']['images'])
  assert shown.shape == (3 * 8, 5 * 8) and 0 <= shown.min() < shown.max() <= 1
  config = tiny()
  config.zoo.steps = 61
  assert first_weights.read(config, str(tmp_path)) == {}


@pytest.fixture(scope='module')
def cut(tmp_path_factory):
  """A zoo of a network with BatchNorm out of which an architecture was cut."""
  config, path = tiny(), tmp_path_factory.mktemp('cut')
  options = {'cells': 1, 'widths': (5,), 'operators': ('conv1x1', 'skip'), 'reductions': (1,)}
  config.model.update({'name': 'multibranch', 'options': options, 'narrower': ()})
  config.zoo.update({'size': 2, 'shard': 2, 'steps': 30, 'starts': 1, 'align': 'none'})
  config.compare.update(
    {'tasks': 2, 'parts': ('new_view/digits',), 'steps': (0, 3), 'baselines': ()}
  )
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
  kept = train_generator.check_gate(config, task, found, str(path), coding, lambda codes: codes)
  assert kept['new_view/digits']['share'] == 1.0 and (path / 'held-new_view-digits').is_dir()


def test_a_joint_body_of_a_cut_network(cut):
  config, task, found, path, _ = cut
  config = config.copy_and_resolve_references()
  config.compare.baselines, config.joint.steps = ('joint',), 150
  start = train_baselines.run(config, task, found, str(path))['joint']
  assert start.shape == (task.flat.size,)
  held = zoo_task.held(config, task, 'new_view/digits')
  made = train_baselines.class_means(config, task, start, held.support)
  # Features and statistics are those of the support: taking these anew changes nothing.
  support = jnp.asarray(held.support)
  again = compare_starts.refreshed(task, made, task.images, support)
  np.testing.assert_allclose(made, again, atol=1e-4)
  right = members.accuracy(task.flat, again[:, 0], task.images, support)
  assert right.mean() > 0.5  # chance is a third
  assert set(np.unique(task.flat.unravel(start)['params']['head']['kernel'])) == {0.0}


def test_parts_that_do_not_exist():
  config = tiny()
  config.compare.parts = ('new_view/mnist',)
  generation.check(config)
  with pytest.raises(ValueError, match="holds nothing out for 'new_view/mnist'"):
    zoo_task.load(config)
  config.compare.parts = ('zoo',)
  with pytest.raises(config_lib.ConfigError, match=r"compare\.parts has 'zoo'"):
    generation.check(config)
