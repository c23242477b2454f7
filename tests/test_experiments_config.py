"""Configurations, and how the apps refuse bad ones before any work."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import experiments_tiny
import pytest

from configs import ablations as ablations_config
from dapt_jax.training import config as config_lib
from experiments import ablations, generation, schema

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = ROOT / 'tests' / 'experiments_tiny.py'
#: What is wrong, and words that the one message must hold.
BAD = {
  '--config.search.bugdets=(0.5,)': ['search.bugdets', 'search.budgets'],
  '--config.search.steps=many': ['search.steps'],
  '--config.search.steps=0': ['search.steps = 0', 'int >= 1'],
  '--config.search.budgets=(0.0,)': ['search.budgets', '0.0', '> 0'],
  '--config.search.budgets=(1.5,)': ['search.budgets', '1.5', '<= 1'],
  '--config.search.hard_start=-0.1': ['search.hard_start = -0.1', '> 0'],
  '--config.search.hard_end=0.5': ['search.hard_end is 0.5, above hard_start 0.1'],
  '--config.search.warmup=4': ['search.warmup is 4', 'lifetime=4'],
  '--config.search.inner_steps=0': ['search.inner_steps is 0', 'random_features'],
  '--config.search.relaxation=gumbel': ['search.relaxation', 'gumbel_trapezoid'],
  '--config.model.pretrained=True': ['model.pretrained', "'multibranch'", 'efficientnet_lite0'],
  '--config.transfer.weights=given': ['transfer.weights', 'inherited'],
  '--config.precision=float16': ['precision', 'bfloat16'],
  '--config.search.accumulate=3': ['search.accumulate is 3', 'search.batch_size ='],
  '--config.devices=3': ['devices is 3', 'population = 2'],
  '--config.first_weights.zoo.syze=3': [
    'no field first_weights.zoo.syze',
    'first_weights.zoo.size',
  ],
  '--config.model.options.widht=3': ['widht', 'configuration file'],
  '--config.data.source=digitz': ['digitz', 'digits'],
  '--config.data.targets=("letters",)': ['letters'],
  'stray': ['stray'],
}


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('cases') / 'run'
  common = [f'--config={CONFIG}', f'--workdir={workdir}']
  lines = [[*common, bad] for bad in BAD] + [common[:1], common[1:], ['--help']]
  env = {**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}'}
  script = [sys.executable, str(ROOT / 'tests' / 'experiments_cases.py'), json.dumps(lines)]
  done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads(done.stdout.splitlines()[-1])
  return dict(zip([*BAD, 'no workdir', 'no config', 'help'], found)), workdir


@pytest.mark.parametrize('bad', list(BAD))
def test_bad_configuration_is_one_message_and_code_2(outcomes, bad):
  code, out, errors = outcomes[0][bad]
  assert code == 2, errors
  assert 'Traceback' not in errors and 'Traceback' not in out
  said = errors + out
  assert all(word in said for word in BAD[bad]), said
  assert errors.count('error: ') == 1
  assert len(errors.splitlines()) <= 4
  assert 'data:' not in out


def test_nothing_was_written(outcomes):
  assert not outcomes[1].exists()


@pytest.mark.parametrize('which, flag', [('no workdir', '--workdir'), ('no config', '--config')])
def test_required_flags(outcomes, which, flag):
  code, _, errors = outcomes[0][which]
  assert code == 2 and 'Traceback' not in errors
  assert flag in errors


def test_help_names_the_flags(outcomes):
  code, out, errors = outcomes[0]['help']
  assert code in (0, 1) and 'Traceback' not in errors  # absl ends with 1 after help
  assert all(flag in out + errors for flag in ('--config', '--workdir', '--[no]overwrite'))


def _configs():
  return sorted(p.stem for p in (ROOT / 'configs').glob('*.py') if p.stem != '__init__')


@pytest.mark.parametrize('name', _configs())
def test_configurations_pass_the_schema(name):
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config()
  (generation if 'zoo' in config else schema).check(config)
  assert all(word in module.__doc__ for word in ('Expected', 'Cost', 'Command'))


def test_configurations_of_generators_are_checked():
  generation.check(generation.default())
  bad = {
    'data.held_views': (('digits/rot45',), 'digits/rot45'),
    'compare.steps': ((0, 5, 5), 'must increase'),
    'sample.support': (41, 'zoo.per_class=40'),
    'zoo.start': ('own', 'independent'),
    'zoo.starts': (0, 'zoo.starts = 0'),
    'sample.width': (1, 'model.narrower has 0'),
    'generator.objective': ('x0', 'epsilon'),
    'condition.align': ('info_nce', "'moments' has no parameters to align"),
    'condition.images': ((5, 41), 'zoo.per_class=40'),
    'condition.width': (31, 'must be even'),
    'condition.features': ('efficientnet_lite0', 'fresh.warped=0.7 distorts'),
  }
  for field, (value, words) in bad.items():
    c = generation.default()
    section, name = field.split('.')
    c[section][name] = value
    with pytest.raises(config_lib.ConfigError, match=words):
      generation.check(c)


def test_variants_of_the_study_of_the_generator():
  names = [name for group in ablations.GROUPS.values() for name in group]
  assert len(set(names)) == len(names) > 20
  for name in names:
    generation.check(ablations_config.get_config(name))
  assert ablations_config.get_config('flow matching').generator.objective == 'flow'
  with pytest.raises(ValueError, match=r"'more' is no variant.*'flow matching'"):
    ablations_config.get_config('more')
  c = generation.default()
  c.condition.features, c.model.architecture = 'network', 'architecture.json'
  with pytest.raises(config_lib.ConfigError, match='gives logits only'):
    generation.check(c)
  # What only sampling reads may change; how many images are shown if training says it apart.
  assert 'sample.support' not in generation.free(c)
  assert 'sample.support' in generation.free(ablations_config.get_config())


@pytest.mark.parametrize(
  'section, changes, words',
  [
    ('compare', {'steps': (0, 501)}, r'ends at 501, .* zoo\.steps=500'),
    ('data', {'held_sets': 0}, r"has 'new_classes', but data\.held_sets hold nothing out"),
    ('data', {'held_views': ()}, r"has 'new_view', but data\.held_views hold nothing out"),
  ],
)
def test_what_the_comparison_would_refuse_is_refused_first(section, changes, words):
  c = schema.default()
  c.first_weights = generation.default()
  schema.check(c)
  c.first_weights[section].update(changes)
  with pytest.raises(config_lib.ConfigError, match=f'in the section first_weights: .*{words}'):
    schema.check(c)


def test_every_default_has_a_rule_and_passes():
  schema.check(schema.default())
  schema.check(experiments_tiny.get_config())


def test_weights_that_are_never_trained_need_no_inner_steps():
  c = experiments_tiny.get_config()
  c.search.inner_steps, c.search.weights = 0, 'random_features'
  schema.check(c)
