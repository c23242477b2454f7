import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import warnings

import ml_collections
import pytest

import dapt_jax
from dapt_jax.training import version, workdir


def config(**kwargs):
  nested = {'lr': 0.1, 'widths': (8, 16), 'model': {'name': 'mlp', 'depth': 2}}
  return ml_collections.ConfigDict({**nested, **kwargs})


def test_fresh_then_resumed(tmp_path):
  path = tmp_path / 'runs' / 'a'
  with workdir.open_workdir(path, config(), kind='prune') as opened:
    assert not opened.resumed
    assert opened.path == path
  saved = json.loads((path / 'config.json').read_text())
  plain = json.loads(config().to_json())
  assert saved == {'kind': 'prune', 'config': plain, 'code': version.code()}
  with workdir.open_workdir(path, config().to_dict(), kind='prune') as opened:
    assert opened.resumed


def test_another_run_is_refused_by_field(tmp_path):
  with workdir.open_workdir(tmp_path, config(), kind='prune'):
    pass
  other = config(lr=0.2, extra=1)
  other.model.depth = 3
  with (
    pytest.raises(workdir.WorkdirError) as caught,
    workdir.open_workdir(tmp_path, other, kind='transfer'),
  ):
    pass
  message = str(caught.value)
  for part in (
    "kind of run: 'prune' -> 'transfer'",
    'lr: 0.1 -> 0.2',
    'model.depth: 2 -> 3',
    'extra: (absent) -> 1',
    '--overwrite',
  ):
    assert part in message
  assert 'model.name' not in message


def test_free_fields_may_change(tmp_path):
  with workdir.open_workdir(tmp_path, config(), kind='prune'):
    pass
  with workdir.open_workdir(tmp_path, config(lr=0.3), kind='prune', free_fields=['lr']) as opened:
    assert opened.resumed
  assert json.loads((tmp_path / 'config.json').read_text())['config']['lr'] == 0.3


def test_other_code_is_warned_about_once(tmp_path, monkeypatch):
  with workdir.open_workdir(tmp_path, config(), kind='prune'):
    pass
  before = version.code()
  monkeypatch.setattr(version, 'code', lambda: '9.9.9+other')
  with (
    pytest.warns(
      UserWarning, match=rf'made by dapt_jax {re.escape(before)} .* with 9\.9\.9\+other'
    ),
    workdir.open_workdir(tmp_path, config(), kind='prune') as opened,
  ):
    assert opened.resumed
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    with workdir.open_workdir(tmp_path, config(), kind='prune'):
      pass


def test_code_without_git(monkeypatch):
  assert version.code.__wrapped__().startswith(dapt_jax.__version__)
  monkeypatch.setenv('PATH', '')
  assert version.code.__wrapped__() == dapt_jax.__version__


def test_overwrite_starts_afresh(tmp_path):
  with workdir.open_workdir(tmp_path, config(), kind='prune') as opened:
    opened.metrics.write_text('{"step": 1}\n')
    (opened.checkpoints / '1').mkdir(parents=True)
  with workdir.open_workdir(tmp_path, config(lr=1), kind='prune', overwrite=True) as opened:
    assert not opened.resumed
    assert sorted(p.name for p in tmp_path.iterdir()) == ['config.json', 'lock']


def test_overwrite_spares_what_is_no_run(tmp_path):
  (tmp_path / 'thesis.txt').write_text('ten years')
  with workdir.open_workdir(tmp_path, config(), kind='prune', overwrite=True):
    pass
  assert (tmp_path / 'thesis.txt').exists()


def test_unknown_checkpoints_and_files_are_refused(tmp_path):
  (tmp_path / 'checkpoints').mkdir()
  with (
    pytest.raises(workdir.WorkdirError, match=r'no config\.json'),
    workdir.open_workdir(tmp_path, config(), kind='prune'),
  ):
    pass
  (tmp_path / 'file').write_text('')
  with (
    pytest.raises(workdir.WorkdirError, match='is a file'),
    workdir.open_workdir(tmp_path / 'file', config(), kind='prune'),
  ):
    pass
  (tmp_path / 'foreign').mkdir()
  (tmp_path / 'foreign' / 'config.json').write_text('{"compilerOptions": {}}')
  with (
    pytest.raises(workdir.WorkdirError, match='not a configuration written by a run'),
    workdir.open_workdir(tmp_path / 'foreign', config(), kind='prune', overwrite=True),
  ):
    pass


def test_field_without_json_form_is_named(tmp_path):
  with (
    pytest.raises(TypeError, match=r'field model\.act'),
    workdir.open_workdir(tmp_path, {'model': {'act': len}}, kind='prune'),
  ):
    pass


def test_live_job_holds_the_lock(tmp_path):
  with workdir.open_workdir(tmp_path, config(), kind='prune'):
    with (
      pytest.raises(workdir.WorkdirError, match=f'process {os.getpid()} on host'),
      workdir.open_workdir(tmp_path, config(), kind='prune'),
    ):
      pass
    assert json.loads((tmp_path / 'lock').read_text())['pid'] == os.getpid()
  with workdir.open_workdir(tmp_path, config(), kind='prune'):
    pass


def test_lock_of_a_dead_job_is_taken_over(tmp_path):
  script = (
    'import os, sys\n'
    'from dapt_jax.training import workdir\n'
    "with workdir.open_workdir(sys.argv[1], {}, kind='prune'):\n"
    '  os._exit(3)\n'
  )
  root = str(pathlib.Path(__file__).parent.parent)
  done = subprocess.run(
    [sys.executable, '-c', script, str(tmp_path)], env={**os.environ, 'PYTHONPATH': root}
  )
  assert done.returncode == 3
  assert json.loads((tmp_path / 'lock').read_text())['pid'] != os.getpid()
  with workdir.open_workdir(tmp_path, {}, kind='prune') as opened:
    assert opened.resumed


def test_lock_of_another_host_needs_a_person(tmp_path):
  (tmp_path / 'lock').write_text(json.dumps({'pid': 1, 'host': socket.gethostname() + '-other'}))
  with (
    pytest.raises(workdir.WorkdirError, match=r'-other.* remove .*lock'),
    workdir.open_workdir(tmp_path, {}, kind='prune'),
  ):
    pass
  (tmp_path / 'lock').unlink()
  with workdir.open_workdir(tmp_path, {}, kind='prune'):
    pass
