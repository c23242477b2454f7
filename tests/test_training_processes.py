import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

KINDS = ('jit', 'pmap', 'shard_map')
TOYS = ('search', 'normalised')


def free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def start(out, processes, devices):
  """The script of the tests in so many processes of so many devices."""
  root = pathlib.Path(__file__).parent.parent
  env = {
    **os.environ,
    'PYTHONPATH': str(root),
    'JAX_PLATFORMS': 'cpu',
  }
  script, port = str(root / 'tests/training_processes.py'), free_port()
  return [
    subprocess.Popen(
      [sys.executable, script, *map(str, (index, processes, port, devices, out))],
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in range(processes)
  ]


@pytest.fixture(scope='module')
def results(tmp_path_factory):
  """{(processes, devices a process): what all ways to run a step gave}."""
  root, found = tmp_path_factory.mktemp('processes'), {}
  for processes, devices in ((1, 1), (1, 4), (2, 2)):
    out = root / f'{processes}-{devices}.npz'
    for process in start(out, processes, devices):
      said = process.communicate(timeout=240)[0]
      assert process.returncode == 0, said[-3000:]
    found[processes, devices] = dict(np.load(out))
  return found


@pytest.mark.parametrize('toy', TOYS)
@pytest.mark.parametrize('kind', KINDS)
def test_one_device_is_four_is_two_processes_of_two(results, kind, toy):
  one = {n: x for n, x in results[1, 1].items() if n.startswith(f'jit/{toy}/')}
  assert len(one) > 10
  assert one[f'jit/{toy}/devices'] == 1
  for shape in ((1, 4), (2, 2)):
    for name, expected in one.items():
      found = results[shape][name.replace('jit/', f'{kind}/', 1)]
      if name.endswith('/devices'):
        assert found == 4
      else:
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_processes_of_other_configurations_are_refused(results):
  assert results[1, 4]['refused'] == 'not refused'
  said = str(results[2, 2]['refused'])
  assert 'process(es) [1] have another configuration or code than process 0' in said


def test_a_signal_at_one_process_stops_all_after_the_same_step(results):
  for shape in ((1, 1), (2, 2)):
    code, step, resumed = results[shape]['stopped']
    assert code == 75
    assert 31 <= step < 1000
    assert resumed == step


def test_retraining_does_not_depend_on_devices(results):
  one = {n: x for n, x in results[1, 1].items() if n.startswith('retrained/')}
  assert one['retrained/params'].size > 100
  assert len(set(one['retrained/loss'].tolist())) == 8
  for shape in ((1, 4), (2, 2)):
    for name, expected in one.items():
      np.testing.assert_allclose(results[shape][name], expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_zoo_does_not_depend_on_who_trains_its_shards(results):
  one = results[1, 1]['zoo']
  assert one.shape[0] == 8
  assert len(np.unique(one, axis=0)) == 8
  for shape in ((1, 4), (2, 2)):
    np.testing.assert_array_equal(results[shape]['zoo'], one)


def test_what_process_0_tells_arrives_to_the_bit(results):
  sent = np.float32([-0.0, 1e-42]).tobytes() + np.int8([-3]).tobytes()
  for shape in ((1, 1), (2, 2)):
    assert results[shape]['sent'].tobytes() == sent
    assert results[shape]['key'].tolist() == [0, 0]
