import jax
import ml_collections
import pytest

from dapt_jax.training import config, seeds

SCHEMA = {
  'seed': config.Rule(int, min=0),
  'optimizer.name': config.Rule(str, choices=('sgd', 'adam')),
  'optimizer.learning_rate': config.Rule(float, above=0, max=10, help='per step'),
  'model.widths': config.Rule(tuple, min=1, items=config.Rule(int, min=1)),
  'model.dropout': config.Rule(float, min=0, below=1, optional=True),
  'options': config.Rule(dict),
  'debug': config.Rule(bool),
}


def good():
  return ml_collections.ConfigDict(
    {
      'seed': 0,
      'optimizer': {'name': 'sgd', 'learning_rate': 1},
      'model': {'widths': (8, 16), 'dropout': None},
      'options': {'anything': 'goes'},
      'debug': False,
    }
  )


def test_good_configuration_passes():
  config.check(good(), SCHEMA)
  config.check(good().to_dict(), SCHEMA)
  empty = good()
  empty.options = {}
  config.check(empty, SCHEMA)


@pytest.mark.parametrize(
  'path, value, said',
  [
    ('seed', -1, 'out of range; needs int >= 0'),
    ('seed', True, 'is a bool; needs int'),
    ('seed', 1.5, 'is a float; needs int'),
    ('optimizer.name', 'adm', r"needs one of 'sgd', 'adam' \(did you mean 'adam'\?\)"),
    ('optimizer.learning_rate', 0.0, r'needs float <= 10 and > 0 \(per step\)'),
    ('optimizer.learning_rate', float('nan'), 'out of range'),
    ('optimizer.learning_rate', '1e-3', 'is a str; needs float'),
    ('optimizer.learning_rate', None, 'must not be None'),
    ('model.widths', (), 'with length >= 1'),
    ('model.widths', (8, 0), r'element 1 \(0\) out of range'),
    ('model.dropout', 1.0, 'needs float >= 0 and < 1 or None'),
    ('options', 3, 'is a int; needs dict'),
  ],
)
def test_bad_value_says_what_is_allowed(path, value, said):
  broken = good().to_dict()
  *groups, last = path.split('.')
  node = broken
  for group in groups:
    node = node[group]
  node[last] = value
  with pytest.raises(config.ConfigError, match=said) as caught:
    config.check(broken, SCHEMA)
  assert path in str(caught.value)


def test_every_problem_is_reported_at_once():
  broken = good().to_dict()
  broken['sede'] = broken.pop('seed')
  broken['optimizer']['learning_rat'] = 1
  broken['learning_rate'] = 1
  with pytest.raises(config.ConfigError) as caught:
    config.check(broken, SCHEMA)
  lines = {line.split(':')[0].strip(): line for line in str(caught.value).splitlines()}
  assert 'Nearest allowed: seed' in lines['sede']
  assert 'missing; needs int >= 0' in lines['seed']
  assert 'Nearest allowed: optimizer.learning_rate' in lines['optimizer.learning_rat']
  assert 'optimizer.learning_rate' in lines['learning_rate']


def test_describe_lists_every_field():
  lines = config.describe(SCHEMA).splitlines()
  assert [line.split()[0] for line in lines] == list(SCHEMA)
  assert lines[2].endswith('per step')


def test_keys_depend_on_seed_and_own_name_only():
  data = lambda k: jax.random.key_data(k).tolist()
  few, more = seeds.keys(3, 'init', 'data'), seeds.keys(3, 'noise', 'data', 'init')
  assert {n: data(few[n]) for n in few} == {n: data(more[n]) for n in few}
  assert len({tuple(data(k)) for k in more.values()}) == 3
  assert data(seeds.keys(4, 'init')['init']) != data(few['init'])
  assert data(seeds.key(jax.random.key(3), 'init')) == data(few['init'])
  # Pinned: a change would silently change every published number.
  assert data(few['init']) == [3481077830, 261690757]


@pytest.mark.parametrize('names', [('a', 'a'), ('',), (3,)])
def test_bad_names(names):
  with pytest.raises(ValueError, match='name'):
    seeds.keys(0, *names)


def test_names_with_equal_checksums():
  with pytest.raises(ValueError, match='share a checksum'):
    seeds.keys(0, 'plumless', 'buckeroo')


@pytest.mark.parametrize('seed', [None, 1.5, '3', True])
def test_bad_seed(seed):
  with pytest.raises(TypeError, match='seed must be an integer'):
    seeds.keys(seed, 'init')
