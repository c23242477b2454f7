"""Architectures on disk: round trip, and everything that can be wrong with the files."""

import errno
import json
import os
import pathlib

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax import graph as graph_lib


@pytest.fixture(name='graph')
def _graph():
  fn = lambda p, x: jnp.sin(jnp.sin(x @ p['first']) @ p['second']) @ p['third']
  shapes = {'first': (6, 8), 'second': (8, 5), 'third': (5, 4)}
  params = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}
  return graph_lib.trace(fn, params, nets.images(2, (6,)))


@pytest.fixture(name='arch')
def _arch(graph):
  theta = graph.init_gates(jax.random.key(0))
  return graph.decide(theta, budget=0.5, provenance={'seed': np.int64(3), 'rates': np.ones(2)})


def test_round_trip(graph, arch, tmp_path):
  path = tmp_path / 'deep' / 'small.v1'
  arch.save(path)
  assert sorted(p.name for p in path.parent.iterdir()) == [
    'small.v1.json',
    'small.v1.safetensors',
  ]
  again = graph_lib.Architecture.load(path)
  assert again.widths == arch.widths and again.costs == arch.costs
  assert list(again.kept) == list(arch.kept)
  for name, index in arch.kept.items():
    np.testing.assert_array_equal(again.kept[name], index)
    assert again.kept[name].dtype == np.int32
  assert again.provenance['decision'] == arch.provenance['decision']
  assert again.provenance['seed'] == 3 and again.provenance['rates'] == [1.0, 1.0]
  assert again.fingerprint() == arch.fingerprint()
  nets.assert_close(again.gates(graph), arch.gates(graph), 0.0)


def test_fingerprint_names_the_structure_alone(graph, arch):
  assert arch.with_provenance(note='x').fingerprint() == arch.fingerprint()
  assert arch.with_provenance(note='x').provenance['note'] == 'x'
  other = graph.decide(graph.init_gates(jax.random.key(1)), budget=0.5)
  assert other.fingerprint() != arch.fingerprint()


def test_missing_file(arch, tmp_path):
  with pytest.raises(FileNotFoundError, match='two files'):
    graph_lib.Architecture.load(tmp_path / 'a')
  arch.save(tmp_path / 'a')
  (tmp_path / 'a.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match=r'a\.safetensors is missing'):
    graph_lib.Architecture.load(tmp_path / 'a')


def _edit(path, **changes):
  head = json.loads(path.read_text())
  head.update(changes)
  path.write_text(json.dumps({k: v for k, v in head.items() if v is not None}))


def test_damaged_files(arch, tmp_path):
  path = tmp_path / 'a.json'
  arch.save(path)
  arrays = path.with_suffix('.safetensors')
  data = arrays.read_bytes()
  arrays.write_bytes(data[:-4])
  with pytest.raises(ValueError, match='damaged or belongs to another'):
    graph_lib.Architecture.load(path)
  arrays.write_bytes(data)
  text = path.read_text()
  for broken in (text[: len(text) // 2], '\x00\xff', ''):
    path.write_text(broken)
    with pytest.raises(ValueError, match='not readable JSON'):
      graph_lib.Architecture.load(path)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'format': 'other'}, "format is 'other'"),
    ({'version': 99}, 'version 99'),
    ({'groups': None}, r"lacks \['groups'\]"),
    ({'groups': {'first': {'width': 3}}}, 'no valid indices'),
    ({'groups': {'unheard': {'width': 3}}}, 'no valid indices'),
    ({'groups': {'first': 7}}, 'damaged'),
    ({'groups': []}, 'damaged'),
  ],
)
def test_foreign_files(arch, tmp_path, changes, message):
  path = tmp_path / 'a.json'
  arch.save(path)
  _edit(path, **changes)
  with pytest.raises(ValueError, match=message):
    graph_lib.Architecture.load(path)
  path.write_text('[1, 2]')
  with pytest.raises(ValueError, match="'list'"):
    graph_lib.Architecture.load(path)


@pytest.mark.parametrize('fails_at', ['.json', '.safetensors'])
def test_a_full_disk_leaves_the_old_files(graph, arch, tmp_path, monkeypatch, fails_at):
  path = tmp_path / 'a.json'
  arch.save(path)
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  write = pathlib.Path.write_bytes

  def full(self, data):
    if fails_at in self.name:
      write(self, data[: len(data) // 2])
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return write(self, data)

  monkeypatch.setattr(pathlib.Path, 'write_bytes', full)
  other = graph.decide(graph.init_gates(jax.random.key(1)), budget=0.4)
  with pytest.raises(OSError, match='No space left on device'):
    other.save(path)
  monkeypatch.undo()
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
  assert graph_lib.Architecture.load(path).fingerprint() == arch.fingerprint()


def test_wrong_graph(arch):
  fn = lambda p, x: jnp.sin(x @ p['first']) @ p['second']
  params = {'first': np.ones((6, 9), np.float32), 'second': np.ones((9, 4), np.float32)}
  graph = graph_lib.trace(fn, params, nets.images(2, (6,)))
  for use in (lambda: arch.gates(graph), lambda: graph.shrink(arch, params)):
    with pytest.raises(ValueError, match=r"made for another network: its group 'first' of width 8"):
      use()


@pytest.mark.parametrize(
  ('kept', 'message'),
  [
    ({'a': [0, 3]}, r"'a'.*below its width 3"),
    ({'a': [-1]}, r"'a'.*below its width 3"),
    ({'a': [1, 1]}, 'distinct'),
    ({'b': [0]}, 'different groups'),
  ],
)
def test_nonsense_is_rejected_when_made(kept, message):
  with pytest.raises(ValueError, match=message):
    graph_lib.Architecture({n: np.array(i, np.int32) for n, i in kept.items()}, {'a': 3})
