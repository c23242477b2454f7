import builtins
import errno
import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax.training import progress, writers


def test_jsonl_round_trip_and_truncate(tmp_path):
  path = tmp_path / 'a' / 'metrics.jsonl'
  sink = writers.JsonlWriter(path)
  for step in (1, 2, 3):
    sink.write(step, {'loss': jnp.float32(0.5 * step), 'text': 'x'})
  sink.close()
  with path.open('a') as handle:
    handle.write('{"step": 4, "lo')  # the process died here
  assert [r['step'] for r in writers.read_jsonl(path)] == [1, 2, 3]
  sink.truncate(3)
  sink.write(3, {'loss': 9.0})
  sink.close()
  assert writers.read_jsonl(path) == [
    {'step': 1, 'loss': 0.5, 'text': 'x'},
    {'step': 2, 'loss': 1.0, 'text': 'x'},
    {'step': 3, 'loss': 9.0},
  ]


def test_damage_inside_a_jsonl_file_is_an_error(tmp_path):
  path = tmp_path / 'm.jsonl'
  path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
  with pytest.raises(ValueError, match='line 2'):
    writers.read_jsonl(path)


def test_full_disk_names_the_file(tmp_path):
  sink = writers.JsonlWriter(tmp_path / 'm.jsonl')
  with open('/dev/full', 'w') as full:  # a file that is always out of space
    sink._handle = full
    with pytest.raises(OSError, match=r'cannot append metrics: No space.*m\.jsonl') as caught:
      sink.write(1, {'loss': 1.0})
    sink._handle = None
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match='No space'):
      full.close()


@pytest.mark.parametrize(
  'value, plain',
  [
    (np.float32(0.5), 0.5),
    (jnp.bfloat16(1.5), 1.5),
    (float('nan'), 'nan'),
    (jnp.inf, 'inf'),
    (np.array([1.0, -np.inf]), [1.0, '-inf']),
    (jnp.arange(3), [0, 1, 2]),
    ((1, [True, None]), [1, [True, None]]),
    ({'a': {'b': np.int64(3)}}, {'a': {'b': 3}}),
  ],
)
def test_jsonable(value, plain):
  assert writers.jsonable(value) == plain


def test_jsonable_summarises_large_arrays_and_refuses_functions():
  summary = writers.jsonable(np.arange(101.0))
  assert (summary['size'], summary['mean'], summary['min'], summary['max']) == (101, 50, 0, 100)
  with pytest.raises(TypeError, match='cannot be written as JSON'):
    writers.jsonable({'f': len})


def test_write_json_is_atomic(tmp_path):
  path = tmp_path / 'x.json'
  writers.write_json(path, {'a': np.float32(1)})
  with pytest.raises(TypeError):
    writers.write_json(path, {'a': len})
  with pytest.raises(RuntimeError), writers.atomic(path) as handle:
    handle.write('half')
    raise RuntimeError
  assert json.loads(path.read_text()) == {'a': 1.0}
  assert [p.name for p in tmp_path.iterdir()] == ['x.json']


def test_write_csv(tmp_path):
  path = tmp_path / 'x.csv'
  writers.write_csv(path, [{'a': 1, 'b': 'x,y'}, {'a': np.float32(0.5), 'c': True}])
  assert path.read_text() == 'a,b,c\n1,"x,y",\n0.5,,True\n'
  with pytest.raises(ValueError, match=r'no rows to write to .*x\.csv'):
    writers.write_csv(path, [])


def test_terminal_writer():
  stream = io.StringIO()
  writers.TerminalWriter(stream).write(3, {'loss': np.float32(0.123456), 'w': np.ones(3)})
  assert stream.getvalue() == 'step 3  loss 0.1235\n'


def test_tensorboard_events(tmp_path):
  pytest.importorskip('tensorboardX')
  sink = writers.TensorboardWriter(tmp_path)
  sink.truncate(1)
  sink.write(1, {'loss': np.float32(0.5), 'gates': np.linspace(0, 1, 100), 'note': 'x'})
  sink.close()
  [events] = tmp_path.iterdir()
  content = events.read_bytes()
  assert b'loss' in content
  assert b'gates' in content


def test_tensorboard_missing_names_the_extra(tmp_path, monkeypatch):
  real = builtins.__import__

  def refuse(name, *args, **kwargs):
    if name == 'tensorboardX':
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', refuse)
  with pytest.raises(ImportError, match=r"pip install 'dapt_jax\[tensorboard\]'"):
    writers.TensorboardWriter(tmp_path)


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_progress_bar_on_a_terminal():
  stream = Terminal()
  bar = progress.Progress(4, initial=1, name='prune', stream=stream)
  for step in (2, 3, 4):
    bar.advance()
    bar.report(step, {'loss': 0.5, 'cost': 0.3, 'budget': 0.25, 'other': 1})
  bar.close()
  last = stream.getvalue().split('\r')[-1]
  assert 'prune: 100%' in last
  assert '4/4' in last
  assert 'loss 0.5, cost 0.3/0.25' in last
  assert 'other' not in last


def test_progress_leaves_out_what_is_not_reported():
  stream = io.StringIO()
  bar = progress.Progress(10, shown=('acc', ('cost', 'budget')), stream=stream)
  bar.report(1, {'cost': 0.5})
  assert stream.getvalue().startswith('step 1/10  cost 0.5  ')
