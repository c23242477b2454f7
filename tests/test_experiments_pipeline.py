"""The apps end to end on a tiny configuration."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import experiments_tiny
import jax
import numpy as np
import pytest
import report_synthetic
import transfer_toys

import dapt_jax as dapt
from dapt_jax import pruning
from dapt_jax.models import pretrained
from dapt_jax.report import gate_plots
from dapt_jax.training import begin, checkpoint, loop, seeds, stopping, writers
from dapt_jax.training import workdir as workdir_lib
from dapt_jax.transfer import retrain
from experiments import (
  beginning,
  candidates,
  first_weights,
  gate_search,
  generation,
  latency,
  pipeline,
  prune,
  report,
  schema,
  source,
  transfer,
)
from experiments import task as task_lib

ROOT = pathlib.Path(__file__).parent.parent
SEARCH = 'learned-macs0.4-seed0'


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The work directory of a whole run."""
  workdir = tmp_path_factory.mktemp('pipeline') / 'run'
  pipeline.main(experiments_tiny.get_config(), str(workdir), False)
  return workdir


def _small(baselines=('dense',)):
  """A configuration that compiles fast, for all that does not hang on the network."""
  config = experiments_tiny.get_config('mlp')
  config.transfer.update({'baselines': baselines, 'shots': (1,)})
  return config


@pytest.fixture(scope='module')
def task():
  return task_lib.load(_small())


@pytest.fixture(scope='module')
def compared(task, tmp_path_factory):
  """A finished search and comparison of the small configuration."""
  workdir = tmp_path_factory.mktemp('compared') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(retrain, 'retrain', transfer_toys.pretend)
    transfer.run(_small(), task, str(workdir), prune.run_all(_small(), task, str(workdir)))
  return workdir


def _rows(workdir):
  with (workdir / 'transfer' / 'results.csv').open() as file:
    return list(csv.DictReader(file))


def test_writes_page_tables_and_architecture(finished):
  rows = _rows(finished)
  methods = [r['method'] for r in rows]
  assert methods == ['learned'] * 4 + ['random'] * 4
  assert {(r['shots'], r['draw']) for r in rows} == {(s, d) for s in '12' for d in '01'}
  for row in rows:
    share = float(row['macs_share'])
    assert 0 < share <= 0.4 + 1e-6
    assert 0 <= float(row['accuracy']) <= 1
    assert (row['source'], row['target'], row['steps']) == ('digits', 'digits', '4')
  page = (finished / 'report.html').read_text()
  assert '<html' in page and 'Tiny' in page and 'reconstruction' in page
  for name in ('summary.csv', 'comparison.csv', 'finished.jsonl'):
    assert (finished / 'transfer' / name).stat().st_size > 0
  picture = (finished / 'search' / SEARCH / 'architecture.svg').read_text()
  assert picture.split('>', 1)[1] in page
  arch = dapt.Architecture.load(finished / 'search' / SEARCH / 'architecture.json')
  assert arch.provenance['method'] == 'learned'
  assert arch.provenance['settings']['budget'] == 0.4
  assert set(arch.provenance['theta']) == set(arch.kept)
  metrics = writers.read_jsonl(finished / 'search' / SEARCH / 'metrics.jsonl')
  assert [m['step'] for m in metrics] == [1, 2, 4, 6]
  stages = json.loads((finished / 'stages.json').read_text())
  assert [s['name'] for s in stages] == ['data and graph', 'search', 'baselines and retraining']


def _forbid(*args, **kwargs):
  raise AssertionError('finished work was repeated')


def test_again_repeats_nothing_and_gives_the_same_rows(finished, tmp_path, monkeypatch):
  """Not even if first weights are asked for as well."""
  before, workdir = _rows(finished), tmp_path / 'again'
  shutil.copytree(finished, workdir)
  monkeypatch.setattr(loop, 'run', _forbid)
  monkeypatch.setattr(retrain, 'retrain', _forbid)
  made = []
  monkeypatch.setattr(first_weights, 'run', lambda *given: made.append(given))
  monkeypatch.setattr(first_weights, 'read', lambda *given: report_synthetic.first_weights())
  config = experiments_tiny.get_config()
  config.title, config.workers, config.search.log_every = 'Other words', 2, 3
  config.first_weights = generation.default()
  schema.check(config)
  pipeline.main(config, str(workdir), False)
  assert _rows(workdir) == before and made == [(config.first_weights, str(workdir))]
  page = (workdir / 'report.html').read_text()
  assert 'Other words' in page and 'id="first-weights"' in page
  stages = json.loads((workdir / 'stages.json').read_text())
  assert stages[-1]['name'] == 'first weights'


def test_another_run_is_refused_with_the_differing_field(finished):
  config = experiments_tiny.get_config()
  config.search.gate_rate = 0.5
  with pytest.raises(workdir_lib.WorkdirError) as error:
    pipeline.main(config, str(finished), False)
  said = str(error.value)
  assert 'search.gate_rate: 0.03 -> 0.5' in said and 'overwrite' in said
  config = experiments_tiny.get_config()
  config.transfer.steps = 6
  with pytest.raises(workdir_lib.WorkdirError, match=r'transfer\.steps: 4 -> 6'):
    pipeline.main(config, str(finished), False)


def test_overwrite_starts_afresh(compared, tmp_path, task, monkeypatch):
  """Each app removes what it makes, and only that."""
  workdir = tmp_path / 'copy'
  shutil.copytree(compared, workdir)
  config = _small(('random',))
  before = (workdir / 'search' / SEARCH / 'metrics.jsonl').stat().st_mtime_ns
  monkeypatch.setattr(retrain, 'retrain', transfer_toys.pretend)
  monkeypatch.setattr(task_lib, 'load', lambda config: task)
  with pytest.raises(workdir_lib.WorkdirError, match=r'transfer\.baselines'):
    transfer.main(config, str(workdir), False)
  transfer.main(config, str(workdir), True)
  assert {r['method'] for r in _rows(workdir)} == {'learned', 'random'}
  assert (workdir / 'search' / SEARCH / 'metrics.jsonl').stat().st_mtime_ns == before
  config.search.steps = 2
  with pytest.raises(workdir_lib.WorkdirError, match=r'search\.steps: 6 -> 2'):
    prune.main(config, str(workdir), False)
  prune.main(config, str(workdir), True)
  metrics = writers.read_jsonl(workdir / 'search' / SEARCH / 'metrics.jsonl')
  assert [m['step'] for m in metrics] == [1, 2]


def test_stop_while_retraining_keeps_what_is_done(compared, tmp_path, task, monkeypatch):
  shutil.copytree(compared / 'search', tmp_path / 'search')
  config, real, calls = _small(), transfer_toys.pretend, []

  def interrupted(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)
    return real(*args, **kwargs)

  monkeypatch.setattr(retrain, 'retrain', interrupted)
  learned = prune.run_all(config, task, str(tmp_path))
  with pytest.raises(stopping.Interrupted) as error:
    transfer.run(config, task, str(tmp_path), learned)
  assert error.value.code == 75
  done = (tmp_path / 'transfer' / 'finished.jsonl').read_text().count('\n')
  assert done >= 1
  monkeypatch.setattr(retrain, 'retrain', lambda *a, **k: calls.append(1) or real(*a, **k))
  transfer.run(config, task, str(tmp_path), learned)
  assert len(calls) == 2 - done
  assert _rows(tmp_path) == _rows(compared)


def _app(name, workdir, *more):
  env = {**os.environ, 'PYTHONPATH': str(ROOT)}
  config = ROOT / 'tests' / 'experiments_tiny.py'
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      f'experiments.{name}',
      f'--config={config}:mlp',
      f'--workdir={workdir}',
      *more,
    ],
    env=env,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_sigterm_during_the_search_resumes(tmp_path):
  """Two host devices: the population is sharded, as it is by default."""
  more = ['--config.search.steps=100000', '--config.devices=2']
  process = _app('prune', tmp_path, *more)
  metrics = tmp_path / 'search' / 'learned-macs0.4-seed0' / 'metrics.jsonl'
  while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 75, errors[-2000:]
  [said] = [line for line in errors.splitlines() if 'to go on' in line]
  assert 'stopped by SIGTERM at step' in said and 'Traceback' not in errors
  reached = int(said.split('at step ')[1].split()[0])
  assert 0 < reached < 100000
  process = _app('prune', tmp_path, *more)
  while process.poll() is None and writers.read_jsonl(metrics)[-1]['step'] <= reached + 2:
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate(timeout=120)
  assert f'going on from step {reached} of 100000' in errors
  assert process.returncode == 75
  steps = [m['step'] for m in writers.read_jsonl(metrics)]
  assert steps == sorted(set(steps)) and steps[-1] > reached


def test_search_variants_and_source_network(task, tmp_path):
  """What the study adds: another search, and what starts from weights of the source.

  In mixed precision and with accumulated gradients, of which nothing is left in the weights.
  """
  config = _small(('one_temperature', 'magnitude_l2', 'inherited', 'pretrained_readout'))
  config.search.steps = 2
  config.precision, config.search.accumulate = 'bfloat16', 2
  learned = prune.run_all(config, task, str(tmp_path))
  made = candidates.make(config, task, str(tmp_path), learned)
  assert [(c.method, c.weights) for c in made] == [
    ('learned', 'fresh'),
    ('magnitude_l2', 'fresh'),
    ('one_temperature', 'fresh'),
    ('inherited', 'inherited'),
    ('pretrained_readout', 'inherited'),
  ]
  names = {p.name for p in (tmp_path / 'search').iterdir()}
  variants = ('learned', 'one_temperature', 'magnitude_l2')
  assert names == {SEARCH.replace('learned', v) for v in variants}
  arch = dapt.Architecture.load(
    tmp_path / 'search' / SEARCH.replace('learned', 'one_temperature') / 'architecture.json'
  )
  assert arch.provenance['method'] == 'one_temperature'
  inherited, pretrained = (c.build().init(jax.random.key(0)) for c in made[-2:])
  trained = source.train(config, task, str(tmp_path))
  assert {x.dtype for x in jax.tree.leaves(trained)} == {np.dtype(np.float32)}
  kept = task.graph.shrink(next(iter(learned.values())), trained)[1]
  np.testing.assert_array_equal(
    inherited['params']['dense1']['kernel'], kept['params']['dense1']['kernel']
  )
  np.testing.assert_array_equal(
    pretrained['params']['dense1']['kernel'], trained['params']['dense1']['kernel']
  )


def test_everything_cut_may_inherit_and_be_timed(task, tmp_path):
  config = _small(('random', 'taylor', 'pretrained_finetune'))
  config.search.steps = 2
  config.transfer.weights = 'inherited'
  config.latency.batch_sizes, config.latency.methods = (1, 3), ('learned', 'taylor')
  learned = prune.run_all(config, task, str(tmp_path))
  made = candidates.make(config, task, str(tmp_path), learned)
  assert {(c.method, c.weights) for c in made} == {
    (method, 'inherited') for method in ('learned', 'random', 'taylor', 'pretrained_finetune')
  }
  trained = source.train(config, task, str(tmp_path))
  first, second = (made[0].build().init(jax.random.key(k)) for k in (0, 1))
  kept = task.graph.shrink(next(iter(learned.values())), trained)[1]['params']
  assert (first['params']['head']['kernel'] != second['params']['head']['kernel']).any()
  for params in (first, second):
    np.testing.assert_array_equal(params['params']['dense1']['kernel'], kept['dense1']['kernel'])
  # Plain primitives may be far slower than what the cut networks run with: they are not timed.
  plain = task.traced._replace(apply=lambda *_: pytest.fail('the plain network was timed'))
  timed = latency.measure(config, dataclasses.replace(task, traced=plain), made)
  names = ('whole network', 'found at 40%', 'taylor at 40%')
  assert [(r['name'], r['batch']) for r in timed] == [(n, b) for b in (1, 3) for n in names]
  assert timed[0]['macs_share'] == 1 and timed[1]['macs_share'] <= 0.4


def test_pretrained_weights_are_where_everything_starts(monkeypatch):
  config = experiments_tiny.get_config()
  config.model.name, config.model.options, config.model.pretrained = 'efficientnet_lite0', {}, True
  config.data.image_size = 16
  config.search.levels = ('channel',)
  schema.check(config)
  made = task_lib.load(config)
  assert made.traced.input_shape == (16, 16, 3) and made.source.image_shape == (16, 16, 1)
  shown = made.standardizer(made.source.images[:2])
  np.testing.assert_allclose(shown[..., 2], (255 * made.source.images[:2, ..., 0] - 127) / 128)
  given = pretrained.efficientnet_lite0()[1]['params']
  for model in (made.traced, made.fast, made.alone):
    params = model.init(jax.random.key(3))['params']
    assert params['head']['kernel'].shape == (1280, 10)
    np.testing.assert_array_equal(params['stem']['conv']['kernel'], given['stem']['conv']['kernel'])


@pytest.mark.parametrize(
  'name,options,levels',
  [
    ('mlp', {'widths': (70,)}, ('channel', 'input')),  # groups too wide for a line of metrics
    ('convnet', {'stages': ((3, 3), (4,))}, ('channel',)),
    ('resnet20', {'width': 2}, ('channel', 'branch')),
  ],
)
def test_other_networks_go_through_search_and_page(name, options, levels, tmp_path):
  config = experiments_tiny.get_config()
  config.model.name, config.model.options = name, options
  config.data.image_size = 10
  config.search.update({'levels': levels, 'steps': 2})
  task = task_lib.load(config)
  learned = prune.run_all(config, task, str(tmp_path))
  arch = learned[SEARCH]
  assert arch.costs['macs']['share'] <= 0.4
  found = report.describe(task, str(tmp_path), SEARCH, arch)
  widths = {n: len(p[-1]) for n, p in found['gate_history']['probabilities'].items()}
  assert widths == arch.widths
  assert gate_plots.gate_histograms([found])
  if 'input' in levels:
    assert np.asarray(found['input_gates']).shape == (10, 10)
    assert gate_plots.input_gates([found])


def test_refused_before_any_search(compared, tmp_path, monkeypatch):
  monkeypatch.setattr(prune, 'run_all', lambda *given: pytest.fail('searched'))
  config = _small()
  config.transfer.shots = (1, 1000)
  with pytest.raises(ValueError, match='1000'):
    pipeline.main(config, str(tmp_path), False)
  config = _small()
  config.search.budgets = (0.4, 0.2)
  with pytest.raises(workdir_lib.WorkdirError, match='budgets'):
    pipeline.main(config, str(compared), False)


def test_budgets_are_checked_before_any_search(task, tmp_path, monkeypatch):
  monkeypatch.setattr(loop, 'run', lambda *given, **options: pytest.fail('searched'))
  config = _small()
  config.search.budgets = (0.4, 1e-5)
  with pytest.raises(ValueError, match='cheapest network'):
    prune.run_all(config, task, str(tmp_path))


def test_tensorboard_and_provenance(task, tmp_path):
  pytest.importorskip('tensorboardX')
  config = _small()
  config.tensorboard = True
  config.search.steps = 2
  arch = prune.run_all(config, task, str(tmp_path))[SEARCH]
  assert list((tmp_path / 'search' / SEARCH / 'tensorboard').glob('events*'))
  assert arch.provenance['data_sources'] == task.data_sources
  assert arch.provenance['versions']['jax'] == jax.__version__


def test_source_network_is_trained_once(task, tmp_path):
  config = _small()
  first = source.train(config, task, str(tmp_path))
  start = task.fast.init(seeds.key(config.seed, 'source'))
  moved = np.asarray(first['params']['head']['kernel'] - start['params']['head']['kernel'])
  assert np.abs(moved).max() > 1e-3
  assert float(np.abs(first['batch_stats']['bn1']['mean']).max()) > 0
  again = source.train(config, task, str(tmp_path))
  np.testing.assert_array_equal(
    first['params']['head']['kernel'], again['params']['head']['kernel']
  )
  other = source.train(config, task, str(tmp_path / 'other'), init=tmp_path / 'source')
  steps = writers.read_jsonl(tmp_path / 'other' / 'source' / 'metrics.jsonl')
  assert steps[0]['loss'] < writers.read_jsonl(tmp_path / 'source' / 'metrics.jsonl')[0]['loss']
  assert np.abs(other['params']['head']['kernel'] - first['params']['head']['kernel']).max() > 1e-3
  config.transfer.source_steps = 5
  with pytest.raises(workdir_lib.WorkdirError, match='steps: 4 -> 5'):
    source.train(config, task, str(tmp_path))


def test_search_goes_on_from_an_earlier_run(compared, task, tmp_path):
  """That one is at the last step already: what it learned is taken over as it is."""
  beginning.check(begin.Begin(resume=compared), _small(), str(tmp_path), [SEARCH])
  arch = prune.run_all(_small(), task, str(tmp_path), compared)[SEARCH]
  learned = dapt.Architecture.load(compared / 'search' / SEARCH / 'architecture.json')
  assert arch.provenance['theta'] == learned.provenance['theta']
  begun = json.loads((tmp_path / 'search' / SEARCH / 'begun.json').read_text())
  assert begun == {'resume': str(compared / 'search' / SEARCH), 'step': 6}


@pytest.mark.parametrize(
  'flags, changed, said',
  [
    ({'resume': 'old'}, {}, rf'--resume=.*old: .*{SEARCH} holds no checkpoint.*there: none'),
    ({'resume': 'new'}, {}, 'is this work directory'),
    ({'resume': 'old'}, {'criterion': 'taylor'}, 'criterion=taylor makes none: use --init'),
    ({'init': 'old'}, {}, 'a search of gates has one with search.weights=given'),
    ({'init': 'old'}, {'weights': 'given'}, r'--init=.*old/source holds no checkpoint'),
  ],
)
def test_bad_beginnings_are_refused_before_any_work(tmp_path, monkeypatch, flags, changed, said):
  monkeypatch.setattr(task_lib, 'load', lambda config: pytest.fail('worked'))
  begun = begin.Begin(**{name: tmp_path / path for name, path in flags.items()})
  monkeypatch.setattr(beginning, 'given', lambda: begun)
  config = _small()
  config.search.update(changed)
  with pytest.raises((ValueError, checkpoint.CheckpointError), match=said):
    prune.main(config, str(tmp_path / 'new'), False)


def test_batches_keep_weights_and_gates_apart(task):
  config = experiments_tiny.get_config()
  config.search.update({'inner_steps': 3, 'batch_size': 10, 'shots': 0})
  at = gate_search.batches(task, config.search, seed=1)
  first, again = at(4), at(4)
  assert first['weights']['image'].shape == (3, 10, 8, 8, 1)
  assert first['gates']['image'].shape == (10, 8, 8, 1)
  assert (np.asarray(first['gates']['image']) == np.asarray(again['gates']['image'])).all()
  seen = {'weights': set(), 'gates': set()}
  for step in range(40):
    for part, images in ((p, at(step)[p]['image']) for p in seen):
      seen[part] |= {x.tobytes() for x in np.asarray(images).reshape(-1, 8, 8, 1)}
  assert len(seen['gates']) > 100 and not seen['weights'] & seen['gates']


def test_every_network_has_its_own_few_examples_for_life(task):
  config = experiments_tiny.get_config()
  config.search.update({'inner_steps': 2, 'batch_size': 30, 'shots': 1, 'lifetime': 6})
  at = gate_search.batches(task, config.search, seed=1)
  lives = {}
  for step in range(12):
    images, labels = at(step)['weights']['image'], at(step)['weights']['label']
    assert images.shape == (2, 2, 30, 8, 8, 1)
    for member in range(2):
      generation = int(pruning.age(member, step, 6, 2)[1])
      seen = lives.setdefault((member, generation), set())
      pairs = zip(np.asarray(images[member]).reshape(-1, 64), labels[member].ravel())
      seen |= {(x.tobytes(), int(y)) for x, y in pairs}
  assert sorted(lives) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
  for seen in lives.values():
    assert sorted(y for _, y in seen) == list(range(10))
  alive = list(lives.values())
  assert not any(alive[i] == alive[j] for i in range(5) for j in range(i))
  shards = [gate_search.batches(task, config.search, 1, shard=(i, 2))(11) for i in range(2)]
  for name, rows in at(11)['weights'].items():
    np.testing.assert_array_equal(np.concatenate([s['weights'][name] for s in shards]), rows)
    np.testing.assert_array_equal(shards[1]['gates'][name], at(11)['gates'][name])
  with pytest.raises(ValueError, match=r'search.population 2 does not divide by 3 processes'):
    gate_search.batches(task, config.search, 1, shard=(0, 3))
  whole, part = (source.batches(task, 10, 1, shard)(3) for shard in ((0, 1), (1, 2)))
  np.testing.assert_array_equal(part['image'], whole['image'][5:])


def test_different_numbers_of_classes_are_refused(monkeypatch):
  config = experiments_tiny.get_config()
  real = task_lib._load
  monkeypatch.setattr(
    task_lib,
    '_load',
    lambda c, name, split: (
      real(c, 'digits', split).classes(range(5)) if name == 'five' else real(c, name, split)
    ),
  )
  config.data.targets = ('five',)
  with pytest.raises(ValueError, match=r'\[5, 10\] classes'):
    task_lib.load(config)


def test_report_reads_what_is_there(finished, monkeypatch):
  monkeypatch.setattr(loop, 'run', _forbid)
  monkeypatch.setattr(retrain, 'retrain', _forbid)
  (finished / 'report.html').unlink()
  report.main(experiments_tiny.get_config(), str(finished), False)
  assert (finished / 'report.html').is_file()
