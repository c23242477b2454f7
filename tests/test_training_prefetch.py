"""Batches made ahead: the same ones, at the same steps, and nothing left behind."""

import threading
import time
import traceback

import pytest

from dapt_jax.training import prefetch


class Source:
  """`batches(i)` that remembers what was asked."""

  def __init__(self):
    self.asked, self.lock = [], threading.Lock()

  def __call__(self, step):
    with self.lock:
      self.asked.append(step)
    return {'step': step}


def threads():
  return [t for t in threading.enumerate() if t.name.startswith('prefetch')]


def eventually(condition):
  deadline = time.monotonic() + 20
  while not condition() and time.monotonic() < deadline:
    time.sleep(0.001)
  return condition()


@pytest.mark.parametrize('depth', [0, 1, 2, 5])
def test_batches_are_the_same_in_any_order(depth):
  source = Source()
  put = lambda batch: ('put', batch['step'])
  with prefetch.prefetch(source, depth, put=put, end=20) as batches:
    for step in [0, 1, 2, 3, 17, 18, 19, 5, 6, 4, 4, 12, 0]:  # resumed, repeated, backwards
      assert batches(step) == ('put', step)
    assert batches.waited > 0
  assert not threads()
  assert set(source.asked) <= set(range(20))  # nothing beyond the end is made


def test_each_batch_is_made_once_and_ahead_of_its_step():
  source = Source()
  with prefetch.prefetch(source, 2, end=9) as batches:
    assert batches(0) == {'step': 0}
    assert eventually(lambda: sorted(source.asked) == [0, 1, 2])
    assert [batches(step)['step'] for step in range(1, 9)] == list(range(1, 9))
  assert sorted(source.asked) == list(range(9))


def test_an_error_is_raised_at_its_own_step_with_its_traceback():
  def failing(step):
    if step == 2:
      raise OSError('disk gone')
    return step

  with prefetch.prefetch(failing, 3) as batches:
    assert (batches(0), batches(1)) == (0, 1)
    for _ in range(2):  # and again for whoever asks again
      with pytest.raises(OSError, match='disk gone') as caught:
        batches(2)
      assert 'failing' in [f.name for f in traceback.extract_tb(caught.value.__traceback__)]
    assert batches(3) == 3
  with pytest.raises(SystemExit), prefetch.prefetch(failing, 3) as batches:
    batches(0)
    raise SystemExit
  assert not threads()


@pytest.mark.parametrize('depth', [0, 1])
def test_constant_data_are_put_on_the_devices_once(depth):
  data, puts = {'x': 1}, []
  put = lambda batch: puts.append(batch) or dict(batch)
  with prefetch.prefetch(lambda _: data, depth, put=put) as batches:
    assert batches(0) is batches(1) is batches(7)
  assert len(puts) == 1


def test_a_negative_depth_is_refused():
  with pytest.raises(ValueError, match=r'prefetch must be 0 .* got -1'):
    prefetch.prefetch(Source(), -1)
