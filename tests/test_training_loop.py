import contextlib
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_toy as toy

from dapt_jax.training import (
  begin,
  best,
  checkpoint,
  disk,
  loop,
  recording,
  runner,
  stopping,
  workdir,
  writers,
)

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  """A run that was never stopped: its result and its metrics file."""
  directory = tmp_path_factory.mktemp('reference')
  return toy.run(directory), writers.read_jsonl(directory / 'metrics.jsonl')


def check_same(result, directory, reference):
  expected, records = reference
  assert toy.leaves(result.state) == toy.leaves(expected.state)
  assert jax.tree.structure(result.state) == jax.tree.structure(expected.state)
  assert writers.read_jsonl(directory / 'metrics.jsonl') == records


def test_learns_and_logs(reference):
  result, records = reference
  assert [r['step'] for r in records] == [1, *range(7, 60, 7), 60]
  assert records[-1]['loss'] < 0.7 * records[0]['loss']
  assert result.metrics['loss'] == np.float32(records[-1]['loss'])
  assert result.resumed_from == 0
  assert result.state['scale'].weak_type is False


def start(directory, *more):
  """A process that runs the toy."""
  env = {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  return subprocess.Popen(
    [sys.executable, str(ROOT / 'tests' / 'training_toy.py'), str(directory), *more],
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def wait_for(process, line):
  assert any(said.strip() == line for said in process.stdout), process.stderr.read()


def test_stopped_process_resumes_bit_identical(tmp_path, reference):
  process = start(tmp_path, '--every=3')
  wait_for(process, 'writing 21')  # a save is under way
  process.terminate()
  _, errors = process.communicate(timeout=120)
  steps = checkpoint.Checkpoints(tmp_path / 'checkpoints').steps()
  assert process.returncode == stopping.EXIT_RESUMABLE == 75
  assert 21 <= steps[-1] < toy.NUM_STEPS
  [said] = [line for line in errors.splitlines() if 'to go on' in line]
  assert f'step {steps[-1]} of 60' in said
  assert str(tmp_path) in said
  result = toy.run(tmp_path)
  assert result.resumed_from == steps[-1]
  check_same(result, tmp_path, reference)


def test_killed_processes_resume_bit_identical(tmp_path, reference):
  """One run, killed between saves, in the middle of a save, and when that is committed."""
  reached = []
  for line in ('batch 13', 'writing 30', 'written 45'):
    process = start(tmp_path, '--every=3')
    wait_for(process, line)
    process.kill()
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    reached.append(max(checkpoint.Checkpoints(tmp_path / 'checkpoints').steps()))
  assert reached[1:] == [27, 45]
  result = toy.run(tmp_path, checkpoint_every=3)
  assert result.resumed_from == 45
  check_same(result, tmp_path, reference)
  assert checkpoint.Checkpoints(tmp_path / 'checkpoints').steps() == [54, 57, 60]


@pytest.mark.parametrize(
  'at, signum', [(1, signal.SIGTERM), (20, signal.SIGINT), (33, signal.SIGTERM)]
)
def test_stopped_in_process_resumes_bit_identical(tmp_path, reference, at, signum, capsys):
  before = signal.getsignal(signum)

  def interrupting(step):
    if step == at - 1:
      os.kill(os.getpid(), signum)
    return toy.batches(step)

  with pytest.raises(stopping.Interrupted) as caught:
    toy.run(tmp_path, batches=interrupting)
  assert caught.value.code == 75
  assert caught.value.step == at
  assert signal.getsignal(signum) == before
  result = toy.run(tmp_path, progress=True)
  assert f'going on from step {at} of 60' in capsys.readouterr().err
  check_same(result, tmp_path, reference)


def test_second_interrupt_does_not_wait(tmp_path):
  def batches(step):
    if step == 4:
      os.kill(os.getpid(), signal.SIGINT)
      os.kill(os.getpid(), signal.SIGINT)
    return toy.batches(step)

  with pytest.raises(KeyboardInterrupt):
    toy.run(tmp_path, batches=batches)
  assert checkpoint.Checkpoints(tmp_path / 'checkpoints').steps() == []


def test_error_in_a_batch_leaves_the_last_checkpoint(tmp_path, reference):
  def failing(step):
    if step == 37:
      raise OSError('data gone')
    return toy.batches(step)

  with pytest.raises(OSError, match='data gone'):
    toy.run(tmp_path, batches=failing, prefetch=2)
  last = writers.read_jsonl(tmp_path / 'metrics.jsonl')[-1]['step']
  assert last == 35  # the error came with its own step, though the batch was made ahead
  result = toy.run(tmp_path, prefetch=3)
  assert result.resumed_from == 20
  check_same(result, tmp_path, reference)


def full(self, step, *rest):
  raise OSError(errno.ENOSPC, 'No space left on device')


def test_failed_save_does_not_hide_another_error(tmp_path, monkeypatch):
  def failing(step):
    if step == 37:
      monkeypatch.setattr(disk.Disk, 'write', full)
    if step == 41:
      raise OSError('data gone')
    return toy.batches(step)

  with (
    pytest.raises(OSError, match='data gone'),
    pytest.warns(UserWarning, match=r'save step 40 .* disk is full; step 20 is intact'),
  ):
    toy.run(tmp_path, batches=failing)


@pytest.mark.parametrize('at, left', [(25, 20), (60, 40)])
def test_stop_that_cannot_save_says_so(tmp_path, monkeypatch, at, left):
  """Not the exit code of a saved run."""

  def interrupting(step):
    if step == at - 1:
      monkeypatch.setattr(disk.Disk, 'write', full)
      os.kill(os.getpid(), signal.SIGTERM)
    return toy.batches(step)

  with pytest.raises(checkpoint.CheckpointError, match=f'save step {at} .*step {left} is intact'):
    toy.run(tmp_path, batches=interrupting, checkpoint_every=20)


def test_finished_run_returns_at_once(tmp_path, reference):
  toy.run(tmp_path)
  result = toy.run(tmp_path, batches=lambda step: pytest.fail('not needed'), prefetch=2)
  assert result.resumed_from == 60
  assert result.metrics['loss'] == reference[1][-1]['loss']
  check_same(result, tmp_path, reference)
  with pytest.raises(ValueError, match='step 60, beyond num_steps=40'):
    toy.run(tmp_path, num_steps=40)


def test_without_checkpoint_every_saves_the_end_only(tmp_path):
  toy.run(tmp_path, checkpoint_every=None, num_steps=5)
  assert checkpoint.Checkpoints(tmp_path / 'checkpoints').steps() == [5]


def test_begins_where_told(tmp_path, reference):
  """Own checkpoint > resume > init > scratch; what each takes over."""
  old, new = tmp_path / 'old', tmp_path / 'new'
  toy.run(old, num_steps=20)
  weights = lambda result: toy.leaves(result.state['params'])

  def one_more(directory, num_steps=1, **begun):
    seen = []
    batches = lambda step: seen.append(step) or toy.batches(step)
    run = {'batches': batches, 'num_steps': num_steps, 'begin': begin.Begin(**begun)}
    return toy.run(directory, **run), seen

  scratch, _ = one_more(tmp_path / 'scratch')
  initial, seen = one_more(tmp_path / 'init', init=old)
  assert seen == [0]
  assert weights(initial) != weights(scratch)
  assert initial.state['opt'][0].count == 1
  assert toy.leaves(initial.state['key']) == toy.leaves(scratch.state['key'])
  resumed, seen = one_more(new, 60, resume=old / 'checkpoints', init=tmp_path / 'init')
  assert seen == [*range(20, 60)]
  assert resumed.resumed_from == 20
  assert toy.leaves(resumed.state) == toy.leaves(reference[0].state)
  assert json.loads((new / 'begun.json').read_text())['step'] == 20
  # A checkpoint of its own goes before all: the other run is not even looked for.
  assert one_more(new, 60, resume=tmp_path / 'nowhere')[1] == []
  assert checkpoint.Checkpoints(old / 'checkpoints').steps() == [20]


@pytest.mark.parametrize('field', begin.Begin._fields)
def test_bad_beginning_is_refused_before_any_work(tmp_path, field):
  batches = lambda step: pytest.fail('no work before the error')
  begun = lambda path: {'batches': batches, 'begin': begin.Begin(**{field: path})}
  with pytest.raises(checkpoint.CheckpointError, match=r'nowhere holds no checkpoint.*Give such'):
    toy.run(tmp_path / 'a', **begun(tmp_path / 'nowhere'))
  (tmp_path / 'empty' / 'checkpoints').mkdir(parents=True)
  with pytest.raises(checkpoint.CheckpointError, match='empty holds no checkpoint'):
    toy.run(tmp_path / 'b', **begun(tmp_path / 'empty'))
  other = toy.init() | {'params': {'w': jnp.zeros(2)}}
  with contextlib.closing(checkpoint.Checkpoints(tmp_path / 'other')) as store:
    store.save(5, other)
  with pytest.raises(
    checkpoint.StructureError, match=r"\['w'\]: float32\[2\] saved, float32\[4, 3"
  ):
    toy.run(tmp_path / 'c', **begun(tmp_path / 'other'))
  if field == 'init':
    with pytest.raises(ValueError, match="no part called 'params': give the run as `resume`"):
      scalar_run(tmp_path / 'd', batches, begin=begin.Begin(init=tmp_path / 'other'))


def test_keeps_the_best_by_a_metric(tmp_path):
  """`accuracy` comes from `on_metrics`: an evaluation is what one mostly goes by."""
  accuracy = {5: 0.2, 10: 0.9, 15: 0.5, 20: 0.1}
  run = {
    'batches': lambda step: np.float32(1),
    'checkpoint_every': 5,
    'keep': 1,
    'on_metrics': lambda step, *rest: {'accuracy': accuracy.get(step, 0.0)},
  }
  scalar_run(tmp_path, **run, keep_best=best.Best('accuracy', 'max'))
  store = checkpoint.Checkpoints(tmp_path / 'checkpoints', best=best.Best('accuracy', 'max'))
  assert store.steps() == [10, 20]
  assert store.best_step() == 10
  with pytest.raises(ValueError, match=r"'acuracy', which is not among .*'accuracy'.*'loss'"):
    scalar_run(tmp_path / 'typo', **run, keep_best=best.Best('acuracy', 'max'))
  assert not (tmp_path / 'typo' / 'metrics.jsonl').exists()
  with pytest.raises(ValueError, match='checkpoint_every=5 must be a multiple of log_every=2'):
    scalar_run(tmp_path / 'often', **run, keep_best=best.Best('loss'), log_every=2)


def scalar_update(state, batch, axis_name=None):
  x = state['x'] + batch
  return {'x': x, 'n': state['n'] + 1}, {'loss': jnp.sum(x), 'big': jnp.ones(5)}


def scalar_run(tmp_path, batches, **kwargs):
  step = runner.make_update(scalar_update, kind='jit')
  kwargs = {'num_steps': 20, 'log_every': 5, 'progress': False, **kwargs}
  with workdir.open_workdir(tmp_path, {}, kind='scalar') as opened:
    return loop.run(step, {'x': jnp.zeros(2), 'n': 0}, batches, workdir=opened, **kwargs)


def test_stops_at_the_first_non_finite_step(tmp_path):
  batches = lambda step: np.float32(np.nan if step == 12 else 1)  # update 13
  with pytest.raises(recording.NonFiniteError) as caught:
    scalar_run(tmp_path, batches, checkpoint_every=10)
  assert caught.value.step == 13
  message = str(caught.value)
  for part in ("'loss' is nan at step 13", 'checkpoint is step 10', 'learning rate'):
    assert part in message
  assert checkpoint.Checkpoints(tmp_path / 'checkpoints').steps() == [10]


def test_never_saves_a_non_finite_state(tmp_path):
  """No metric is checked here, and still the state must not become a checkpoint."""
  batches = lambda step: np.float32(np.nan if step == 12 else 1)
  with pytest.raises(recording.NonFiniteError, match=r"state\['x'\] .* at step 20.* step 10"):
    scalar_run(tmp_path, batches, checkpoint_every=10, finite=())
  assert checkpoint.Checkpoints(tmp_path / 'checkpoints').steps() == [10]


def test_on_metrics_adds_to_the_record(tmp_path):
  seen = []

  def evaluate(step, state, metrics):
    seen.append((step, float(state['x'][0]), float(metrics['loss'])))
    return {'accuracy': step / 20}

  result = scalar_run(tmp_path, lambda step: np.float32(1), on_metrics=evaluate)
  assert seen == [(s, s, 2 * s) for s in (1, 5, 10, 15, 20)]
  assert result.metrics['accuracy'] == 1
  last = writers.read_jsonl(tmp_path / 'metrics.jsonl')[-1]
  assert last == {'step': 20, 'loss': 40.0, 'big': [1.0] * 5, 'accuracy': 1.0}


def test_runs_without_a_work_directory_and_keeps_the_callers_state():
  state = {'x': jnp.zeros(2), 'n': jnp.int32(0)}
  step = runner.make_update(scalar_update, kind='jit', donate=True)
  for _ in range(2):
    result = loop.run(step, state, lambda s: np.float32(s), num_steps=4, progress=False)
    np.testing.assert_array_equal(result.state['x'], [6, 6])
  assert state['x'].tolist() == [0, 0]


@pytest.mark.parametrize(
  'bad',
  [
    lambda s, b: ({'x': s['x'].astype(jnp.float16), 'n': s['n']}, {}),
    lambda s, b: ({'x': s['x'][:1], 'n': s['n']}, {}),
    lambda s, b: ({'x': s['x']}, {}),
  ],
)
def test_update_must_keep_the_structure(bad):
  with pytest.raises(ValueError, match=r"structure it was given:\n  state\['[xn]'\]: \w+"):
    loop.run(jax.jit(bad), {'x': jnp.ones(2), 'n': 0}, lambda s: 0.0, num_steps=2, progress=False)


def test_weak_types_of_a_plain_update_are_refused():
  bad = jax.jit(lambda s, b: ({'x': 1.0}, {}))
  with pytest.raises(ValueError, match='weak float32'):
    loop.run(bad, {'x': 0.0}, lambda s: 0.0, num_steps=2, progress=False)


@pytest.mark.parametrize('name', ['num_steps', 'log_every', 'checkpoint_every'])
def test_arguments_are_checked(name):
  kwargs = {'num_steps': 1, name: 0}
  with pytest.raises(ValueError, match=f'{name} must be at least 1, got 0'):
    loop.run(lambda s, b: (s, {}), {}, lambda s: None, **kwargs)


def test_progress_without_a_terminal_prints_sparse_lines(capsys):
  step = lambda s, b: (s, {'loss': 0.5, 'cost': 0.3, 'budget': 0.25})
  loop.run(step, {}, lambda s: None, num_steps=1000, log_every=1, name='search')
  lines = capsys.readouterr().err.splitlines()
  assert 10 <= len(lines) <= 12
  assert lines[-1].startswith('search step 1000/1000  loss 0.5, cost 0.3/0.25')
  assert '\r' not in ''.join(lines)
