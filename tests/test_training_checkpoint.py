import gc
import shutil
import subprocess
import sys
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training_toy as toy

from dapt_jax.training import best as best_lib
from dapt_jax.training import checkpoint, disk, workdir

# Reads still under way when a damaged file ends a restore complain on their own threads.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


class State(NamedTuple):
  params: Any
  opt: Any
  key: jax.Array
  raw: jax.Array
  extra: tuple


def make(value):
  params = {
    'w': value * jnp.arange(12.0).reshape(3, 4),
    'half': jnp.full(3, value, jnp.bfloat16),
    'empty': jnp.zeros((0, 2)),
  }
  return State(
    params,
    optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(params),
    jax.random.split(jax.random.key(int(value), impl='rbg'), 2),
    jax.random.PRNGKey(int(value)),
    (np.float64(value), np.arange(3) * int(value), int(value), float(value), value > 1, None),
  )


def test_round_trip_keeps_every_kind_of_leaf(tmp_path):
  store = checkpoint.Checkpoints(tmp_path / 'c')
  assert store.restore(make(0)) is None
  store.save(5, make(3))
  step, state = store.restore(make(0))
  assert step == 5
  assert toy.leaves(state) == toy.leaves(make(3))
  assert jax.tree.structure(state) == jax.tree.structure(make(3))
  for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(make(3)), strict=True):
    assert type(got) is type(wanted)
    assert getattr(got, 'dtype', None) == getattr(wanted, 'dtype', None)
  assert jax.random.normal(state.key[0]) == jax.random.normal(make(3).key[0])


def test_keeps_the_last_n(tmp_path):
  store = checkpoint.Checkpoints(tmp_path / 'c', keep=2)
  for step in (1, 2, 3):
    store.save(step, {'x': jnp.float32(step)})
  store.save(3, {'x': jnp.float32(-1)})  # there already: left as it is
  assert store.steps() == [2, 3]
  assert store.restore({'x': jnp.float32(0)})[1]['x'] == 3
  with pytest.raises(ValueError, match='at least 1'):
    checkpoint.Checkpoints(tmp_path / 'c', keep=0)


@pytest.mark.parametrize(
  'other, said',
  [
    ({'w': jnp.ones((2, 3)), 'b': 0}, r"\['w'\]: float32\[2, 2\] saved, float32\[2, 3\] expected"),
    ({'w': jnp.ones((2, 2), jnp.int32), 'b': 0}, 'float32.* saved, int32.* expected'),
    ({'w': jnp.ones((2, 2))}, r"\['b'\]: int64\[\] saved, nothing expected"),
    ({'w': jnp.ones((2, 2)), 'b': 0, 'c': 1}, r"\['c'\]: nothing saved"),
  ],
)
def test_another_structure_is_refused_and_nothing_moved(tmp_path, other, said):
  store = checkpoint.Checkpoints(tmp_path / 'c')
  store.save(1, {'w': jnp.ones((2, 2)), 'b': 0})
  with pytest.raises(checkpoint.StructureError, match=said):
    store.restore(other)
  assert store.steps() == [1]


def test_key_algorithm_belongs_to_the_structure(tmp_path):
  store = checkpoint.Checkpoints(tmp_path / 'c')
  store.save(1, jax.random.key_data(jax.random.key(0)))
  with pytest.raises(checkpoint.StructureError, match='key'):
    store.restore(jax.random.key(0))


MIXED = {
  'large': np.arange(300_000, dtype=np.float32),
  'half': jnp.arange(5, dtype=jnp.bfloat16),
  'none': np.zeros((0, 3), np.int8),
  'flag': np.array([True, False, True]),
  'order': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
  'many': {str(i): np.full((i, 2), i, np.int16) for i in range(1, 9)},
  'key': jax.random.key(3),
  'count': 7,
}


@pytest.mark.parametrize('small', [1, 13, 10**9])
def test_leaves_are_stored_alone_or_together(tmp_path, monkeypatch, small):
  """Older checkpoints have every leaf alone."""
  monkeypatch.setattr(disk, '_SMALL', small)
  store = checkpoint.Checkpoints(tmp_path / 'c')
  store.save(1, MIXED)
  store.wait()
  monkeypatch.undo()
  found = store.restore(jax.tree.map(lambda x: x, MIXED))[1]
  assert toy.leaves(found) == toy.leaves(MIXED)
  assert found['half'].dtype == jnp.bfloat16 and found['count'] == 7


def test_saves_leave_nothing_in_memory_for_every_leaf(tmp_path):
  state = {str(i): np.ones(3, np.float32) for i in range(100)}
  store = checkpoint.Checkpoints(tmp_path / 'c')
  blocks = []
  for step in range(1, 14):
    store.save(step, state)
    store.wait()
    if step in (3, 13):  # the first ones fill caches
      gc.collect()
      blocks.append(sys.getallocatedblocks())
  assert (blocks[1] - blocks[0]) / 10 < 100


def data_file(directory, step):
  files = [p for p in (directory / 'c' / str(step) / 'arrays').rglob('d/*') if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def damage(path, how):
  content = path.read_bytes()
  if how == 'truncate':
    path.write_bytes(content[: len(content) // 2])
  elif how == 'flip':
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
  else:
    path.unlink()


@pytest.mark.parametrize('how', ['truncate', 'flip', 'remove'])
@pytest.mark.parametrize('what', ['data', 'manifest'])
def test_damage_falls_back_to_the_one_before(tmp_path, how, what):
  state = lambda v: {'x': jax.random.normal(jax.random.key(v), (50,))}
  store = checkpoint.Checkpoints(tmp_path / 'c')
  store.save(10, state(1))
  store.save(20, state(2))
  store.close()
  target = tmp_path / 'c' / '20' / 'manifest' / 'metadata'
  damage(data_file(tmp_path, 20) if what == 'data' else target, how)
  store = checkpoint.Checkpoints(tmp_path / 'c')
  with pytest.warns(UserWarning, match='20 is damaged'):
    step, found = store.restore(state(0))
  assert step == 10
  assert toy.leaves(found) == toy.leaves(state(1))
  assert (tmp_path / 'damaged' / '20').is_dir()
  store.save(20, state(3))
  assert store.steps() == [10, 20]
  assert toy.leaves(store.restore(state(0))[1]) == toy.leaves(state(3))


def test_wrong_content_in_sound_files_is_damage(tmp_path):
  """Files that Orbax reads without complaint, but that belong to another step."""
  store = checkpoint.Checkpoints(tmp_path / 'c')
  store.save(10, {'x': jnp.ones(3)})
  store.save(20, {'x': jnp.zeros(3)})
  store.close()
  shutil.rmtree(tmp_path / 'c' / '20' / 'arrays')
  shutil.copytree(tmp_path / 'c' / '10' / 'arrays', tmp_path / 'c' / '20' / 'arrays')
  store = checkpoint.Checkpoints(tmp_path / 'c')
  with pytest.warns(UserWarning, match=r"20 is damaged .checksum of \['x'\]"):
    assert store.restore({'x': jnp.ones(3)})[0] == 10


def test_all_damaged_is_an_error(tmp_path):
  store = checkpoint.Checkpoints(tmp_path / 'c')
  store.save(1, {'x': jnp.ones(9)})
  store.wait()
  damage(data_file(tmp_path, 1), 'truncate')
  with (
    pytest.warns(UserWarning, match='damaged'),
    pytest.raises(checkpoint.CheckpointError, match=r'every checkpoint .*\[1\].* afresh'),
  ):
    store.restore({'x': jnp.ones(9)})
  assert store.steps() == [1]


def test_half_written_checkpoint_is_ignored(tmp_path):
  store = checkpoint.Checkpoints(tmp_path / 'c')
  store.save(1, {'x': jnp.ones(2)})
  store.close()
  shutil.copytree(tmp_path / 'c' / '1', tmp_path / 'c' / '2.orbax-checkpoint-tmp')
  store = checkpoint.Checkpoints(tmp_path / 'c')
  assert store.restore({'x': jnp.zeros(2)})[0] == 1
  store.save(3, {'x': jnp.zeros(2)})
  assert store.steps() == [1, 3]
  assert sorted(p.name for p in (tmp_path / 'c').iterdir()) == ['1', '3']


def test_removal_that_is_cut_off_leaves_no_half(tmp_path, monkeypatch):
  store = checkpoint.Checkpoints(tmp_path / 'c', keep=1)
  store.save(1, {'x': jnp.ones(2)})
  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', lambda *given, **options: None)
    store.save(2, {'x': jnp.ones(2)})
    assert store.steps() == [2]
  store.save(3, {'x': jnp.ones(2)})
  assert store.steps() == [3]
  assert [p.name for p in (tmp_path / 'c').iterdir()] == ['3']


@pytest.fixture
def small_disk(tmp_path):
  """A disk of its own, 1 MB."""
  path = tmp_path / 'disk'
  path.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(path)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip('only root can mount a disk')
  yield path
  subprocess.run(['umount', '--lazy', str(path)], check=True)


def test_full_disk_leaves_the_previous_checkpoint(small_disk):
  big = lambda v: {'x': jnp.full(100_000, v, jnp.float32), 'y': jax.random.key(v)}
  noisy = jax.random.normal(jax.random.key(0), (300_000,))  # does not compress
  store = checkpoint.Checkpoints(small_disk / 'c', keep=1)
  store.save(1, big(1))
  store.save(2, {'x': noisy})  # begins, and fails in the background
  with pytest.raises(checkpoint.CheckpointError, match=r'save step 2 .*disk is full; step 1 is in'):
    store.save(3, big(3))
  assert [p.name for p in (small_disk / 'c').iterdir()] == ['1']
  assert toy.leaves(store.restore(big(0))[1]) == toy.leaves(big(1))
  store.save(3, big(3))  # the error is told once, and the next save is like any other
  assert store.steps() == [3]
  store.save(4, {'x': noisy})
  with pytest.raises(checkpoint.CheckpointError, match=r'save step 4 .*step 3 is intact'):
    store.close()


def test_read_only_disk(small_disk):
  store = checkpoint.Checkpoints(small_disk / 'c')
  with workdir.open_workdir(small_disk, {}, kind='toy'):
    store.save(1, {'x': jnp.ones(2)})
    store.wait()
  subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
  store.save(2, {'x': jnp.zeros(2)})
  with pytest.raises(checkpoint.CheckpointError, match=r'Read-only file system.*step 1 is intact'):
    store.wait()
  assert store.restore({'x': jnp.zeros(2)})[1]['x'].tolist() == [1, 1]
  with (
    pytest.raises(workdir.WorkdirError, match=f'cannot write to {small_disk}.*Read-only'),
    workdir.open_workdir(small_disk, {}, kind='toy'),
  ):
    pass


def test_save_copies_and_returns(tmp_path, monkeypatch):
  """The state may be changed at once; the next call waits for the save."""
  go, write = threading.Event(), disk.Disk.write
  monkeypatch.setattr(disk.Disk, 'write', lambda *args: go.wait(60) and write(*args))
  store = checkpoint.Checkpoints(tmp_path / 'c')
  state = {'x': np.arange(3.0), 'y': jnp.arange(2.0)}
  store.save(1, state)
  assert not list((tmp_path / 'c').iterdir())
  state['x'][:] = -1
  state['y'].delete()
  go.set()
  assert store.steps() == [1]
  found = store.restore({'x': np.zeros(3), 'y': jnp.zeros(2)})[1]
  assert [x.tolist() for x in found.values()] == [[0, 1, 2], [0, 1]]


@pytest.mark.parametrize('mode, kept, first', [('min', [1, 4, 5], 4), ('max', [2, 3, 5], 2)])
def test_keeps_the_best(tmp_path, mode, kept, first):
  best = best_lib.Best('loss', mode, keep=2)
  store = checkpoint.Checkpoints(tmp_path / 'c', keep=1, best=best, about={'code': 'x'})
  assert store.best_step() is None
  values = {1: 0.5, 2: 0.7, 3: 0.7, 4: 0.1, 5: np.nan}
  for step, value in values.items():
    store.save(step, {'x': jnp.float32(step)}, {'loss': np.float32(value), 'many': np.ones(3)})
  assert store.steps() == kept
  assert store.best_step() == first
  assert store.load(first, {'x': jnp.float32(0)})['x'] == first
  store.close()
  # What is best stands in the checkpoints, so another process knows it too.
  store = checkpoint.Checkpoints(tmp_path / 'c', keep=1, best=best)
  store.save(6, {'x': jnp.float32(6)})  # no metrics, as on a stop: never the best
  assert store.steps() == [*kept[:2], 6]
  assert store.best_step() == first
  with pytest.raises(ValueError, match=r"by 'loss', which is not among the metrics \['cost'\]"):
    store.save(7, {'x': jnp.float32(7)}, {'cost': 1.0})
  with pytest.raises(ValueError, match=r'an array of shape \(2,\): name a scalar'):
    store.save(7, {'x': jnp.float32(7)}, {'loss': np.ones(2)})
  with pytest.raises(ValueError, match="must be 'min' or 'max', got 'least'"):
    checkpoint.Checkpoints(tmp_path / 'c', best=best_lib.Best('loss', 'least'))


def test_unsavable_leaf_is_named(tmp_path):
  store = checkpoint.Checkpoints(tmp_path / 'c')
  with pytest.raises(TypeError, match=r"state\['name'\] is a str"):
    store.save(1, {'name': 'resnet'})
