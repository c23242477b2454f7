import time
import types

import jax
import jax.numpy as jnp
import pytest
import training_toy as toy

from dapt_jax.training import hosts, recording, speed, writers


def device(kind):
  return types.SimpleNamespace(
    device_kind=kind, memory_stats=lambda: {'peak_bytes_in_use': 5_000_000}
  )


def test_peaks_go_by_the_longest_name():
  assert speed.peak(device('NVIDIA H100 80GB HBM3')) == 989e12
  assert speed.peak(device('TPU v5 lite')) == 197e12
  assert speed.peak(device('cpu')) is None


def test_rates_leave_out_compilation():
  meter = speed.Meter(speed.Work(8, 1e12), 2, device=device('TPU v4'))
  before = time.monotonic()
  jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((37, 5))).block_until_ready()
  found = meter.read(10, waited=0.0)
  most = 10 / (time.monotonic() - before)
  assert found['compile_seconds'] > 0
  assert found['steps_per_second'] > most
  assert found['examples_per_second'] == pytest.approx(8 * found['steps_per_second'])
  assert found['mfu'] == pytest.approx(found['steps_per_second'] * 1e12 / (2 * 275e12))
  assert found['device_mb'] == 5
  assert found['resident_mb'] > 50
  time.sleep(0.02)
  again = meter.read(12, waited=0.01)
  assert again['compile_seconds'] == 0
  assert 0 < again['waited_share'] < 0.6
  assert 0 < again['steps_per_second'] <= 2 / 0.02


def test_a_run_writes_its_speed_apart_and_a_trace(tmp_path, capsys):
  toy.run(tmp_path / 'a', num_steps=20, profile=4, work=speed.Work(examples=16))
  records = writers.read_jsonl(tmp_path / 'a/speed.jsonl')
  assert [r['step'] for r in records] == [1, 7, 14, 20]
  assert all(r['examples_per_second'] > 0 for r in records)
  assert 'steps_per_second' not in writers.read_jsonl(tmp_path / 'a/metrics.jsonl')[-1]
  assert 'trace of 4 steps' in capsys.readouterr().err
  assert list((tmp_path / 'a/profile').rglob('*.xplane.pb'))


def test_a_failed_run_says_where_and_how_to_go_on(tmp_path, capsys):
  def failing(step):
    if step == 25:
      raise OSError('data gone')
    return toy.batches(step)

  with pytest.raises(OSError, match='data gone'):
    toy.run(tmp_path, batches=failing, name='search')
  [line] = [x for x in capsys.readouterr().err.splitlines() if 'failed' in x]
  assert line.startswith('search: failed after step 25 of 60 (OSError); the same command goes on')
  with pytest.raises(recording.NonFiniteError):
    toy.run(
      tmp_path, batches=lambda step: {'x': jnp.full((16, 4), jnp.nan), 'y': jnp.ones((16, 3))}
    )


def test_addresses_come_from_arguments_and_environment():
  given = {'JAX_COORDINATOR_ADDRESS': 'a:1', 'JAX_NUM_PROCESSES': '4', 'JAX_PROCESS_ID': '3'}
  assert hosts.Address().filled(given) == hosts.Address('a:1', 4, 3)
  assert hosts.Address('b:2', 2, 0).filled(given) == hosts.Address('b:2', 2, 0)
  assert hosts.Address().filled({}) == hosts.Address()
  for address, rule in (
    (hosts.Address('a:1'), 'JAX_NUM_PROCESSES, JAX_PROCESS_ID missing'),
    (hosts.Address('a', 2, 0), 'has no port'),
    (hosts.Address('a:1', 2, 2), 'process 2 of 2: numbers run from 0 to 1'),
  ):
    with pytest.raises(ValueError, match=rule):
      address.filled({})
  with pytest.raises(ValueError, match="JAX_NUM_PROCESSES is 'two'"):
    hosts.Address().filled({**given, 'JAX_NUM_PROCESSES': 'two'})
