import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax.training import layout, runner


@pytest.fixture(scope='module')
def four_devices(tmp_path_factory):
  """What `training_devices.py` reports; the number of devices is fixed per process."""
  root = pathlib.Path(__file__).parent.parent
  env = {
    **os.environ,
    'PYTHONPATH': str(root),
    'JAX_PLATFORMS': 'cpu',
  }
  done = subprocess.run(
    [sys.executable, str(root / 'tests/training_devices.py'), str(tmp_path_factory.mktemp('c'))],
    env=env,
    capture_output=True,
    text=True,
    timeout=240,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('kind', ['jit', 'pmap', 'shard_map'])
def test_four_devices_give_what_one_gives(four_devices, kind):
  assert four_devices['devices'] == 4
  assert four_devices['auto'] == ['shard_map', 4]
  assert four_devices['moved'] > 0.05
  found = four_devices['kinds'][kind]
  assert found['num_devices'] == 4
  assert found['population'] < 1e-6
  assert found['losses'] < 1e-5
  assert found['data'] < 1e-6
  assert found['shapes'] == [[5], [8, 5], [8]]
  assert found['compiled_later'] == 0


def test_a_run_moves_between_numbers_of_devices(four_devices):
  assert four_devices['moved_to_one'] < 1e-6
  assert four_devices['two'] == [2, 3, 5]


@pytest.mark.parametrize('kind', ['pmap', 'shard_map'])
def test_missing_synchronisation_is_found(four_devices, kind):
  found = four_devices['kinds'][kind]
  assert 'ReplicationError: declared replicated but different' in found['no_sync']
  assert "state['gates']" in found['no_sync']
  assert 'weights' not in found['no_sync']
  assert "metrics['loss']" in found['no_metric_sync']


def test_indivisible_parts_are_named(four_devices):
  said = four_devices['indivisible']
  assert said.startswith('ValueError: state')
  assert '(6, 5)' in said or '(6,)' in said
  assert 'multiple of 4' in said
  assert "batch['x'] has shape (6, 5)" in four_devices['batch']


def test_host_devices_too_late(four_devices):
  assert (
    'RuntimeError: JAX already runs with 4 CPU device(s), so 2 come too late'
    in (four_devices['late'])
  )
  assert four_devices['same'] == 'no error'
  with pytest.raises(ValueError, match='at least 1, got 0'):
    runner.host_devices(0)


def test_trees_are_split_by_rows():
  tree = {'a': jnp.arange(12.0).reshape(6, 2), 'b': np.arange(6), 'c': jnp.ones(3)}
  axes = {'a': 0, 'b': 0, 'c': None}
  parts = layout.split(tree, axes, 3)
  assert {k: v.shape for k, v in parts.items()} == {'a': (3, 2, 2), 'b': (3, 2), 'c': (3,)}
  for name, value in tree.items():
    np.testing.assert_array_equal(np.reshape(parts[name], value.shape), value)
  replicated, sharded = layout.partition(tree, axes)
  assert [x.shape for x in (*replicated, *sharded)] == [(3,), (6, 2), (6,)]
  again = layout.join(replicated, sharded, axes, like=tree)
  assert all(again[name] is value for name, value in tree.items())
  second = layout.rows(tree, axes, 1, 3)
  assert second['b'].tolist() == [2, 3]
  assert second['c'] is tree['c']
  with pytest.raises(ValueError, match=r"\['a'\] has shape \(6, 2\).* 4 devices"):
    layout.split(tree, axes, 4)
  with pytest.raises(ValueError, match=r'shape \(\)'):
    layout.split({'s': 1.0}, 0, 2)


def test_as_arrays_copies_and_strengthens():
  source = np.ones(3, np.float32)
  tree = layout.as_arrays({'n': source, 'f': 1.0, 'i': 2, 'b': True, 'k': jax.random.key(0)})
  source[:] = 7
  assert tree['n'].tolist() == [1, 1, 1]
  assert [tree[k].dtype.name for k in 'fib'] == ['float32', 'int32', 'bool']
  assert not any(tree[k].weak_type for k in 'fib')
  assert jax.random.normal(tree['k']) == jax.random.normal(jax.random.key(0))


def test_jit_donates_but_place_copies():
  step = runner.make_update(lambda s, b, axis_name=None: (s + b, {}), kind='jit')
  state = jnp.zeros(3)
  placed = step.place(state)
  after, _ = step(placed, 1.0)
  assert placed.is_deleted()
  assert state.tolist() == [0, 0, 0]
  assert after.tolist() == [1, 1, 1]


def test_arguments_are_checked():
  with pytest.raises(ValueError, match=r"'pmap', 'shard_map'.*, got 'shard'"):
    runner.make_update(lambda s, b: (s, {}), kind='shard')
  with pytest.raises(ValueError, match='axes must be None'):
    runner.make_update(lambda s, b: (s, {}), state_axes={'a': 1})
