"""The comparison: rows, pairing, resuming, threads."""

import json
import pathlib

import jax
import pytest
import transfer_toys as toys

from dapt_jax.transfer import ledger as ledger_lib
from dapt_jax.transfer import protocol, retrain

RECIPE = retrain.Recipe(steps=4, batch_size=6, chunk=2)
COSTS = {u: {'whole': 10.0, 'kept': 5.0, 'share': 0.5} for u in ('macs', 'params')}


def candidate(name, build=toys.linear, method='learned'):
  return protocol.Candidate(method, name, build, 0.5, 'macs', 0, 'fresh', COSTS)


def go(candidates, ledger=None, **options):
  given = {'shots': (1, 2), 'num_draws': 2, 'workers': 1, **options}
  return protocol.compare(
    candidates, toys.target(), recipe=RECIPE, key=jax.random.key(0), ledger=ledger, **given
  )


@pytest.fixture(scope='module')
def rows():
  return go([candidate('a'), candidate('b')])


@pytest.fixture
def pretended(monkeypatch):
  monkeypatch.setattr(retrain, 'retrain', toys.pretend)


def test_rows_are_complete_and_ordered(rows):
  assert len(rows) == 8
  places = [(r['architecture'], r['shots'], r['draw']) for r in rows]
  assert places == [(a, s, d) for a in 'ab' for s in (1, 2) for d in (0, 1)]
  first = rows[0]
  assert (first['source'], first['target'], first['method']) == ('origin', 'toy', 'learned')
  assert (first['macs'], first['macs_share'], first['budget']) == (5.0, 0.5, 0.5)
  assert 0 <= first['accuracy'] <= 1 and first['steps'] == 4
  json.dumps(rows)


def test_candidates_are_paired(rows):
  """Equal structures on equal draws with equal keys give equal results."""
  strip = lambda r: {k: v for k, v in r.items() if k != 'architecture'}
  assert [strip(r) for r in rows[:4]] == [strip(r) for r in rows[4:8]]


def test_threads_give_the_rows_of_one(rows):
  assert go([candidate('a'), candidate('b')], workers=2) == rows


def test_equal_content_is_retrained_once(tmp_path, pretended):
  built = []
  named = lambda name: candidate(name, lambda: built.append(name) or toys.linear())
  same = [named(n)._replace(content=c) for n, c in (('a', 'x'), ('b', None), ('c', 'x'))]
  seen = []
  ledger = ledger_lib.Ledger(tmp_path / 'ledger.jsonl')
  rows = go(same, ledger, on_done=lambda c: seen.append(c.architecture))
  assert sorted(built) == ['a', 'b'] and sorted(seen) == ['a', 'b', 'c']
  assert [r['architecture'] for r in rows[::4]] == ['a', 'b', 'c']
  assert [r['accuracy'] for r in rows[:4]] == [r['accuracy'] for r in rows[8:]]
  assert sorted(ledger_lib.Ledger(ledger.path).rows) == sorted(c.label('toy') for c in same)


def test_a_full_disk_leaves_the_ledger_whole(tmp_path, pretended, monkeypatch):
  path = tmp_path / 'finished.jsonl'
  ledger = ledger_lib.Ledger(path)
  go([candidate('a')], ledger)
  before = path.read_bytes()
  real = pathlib.Path.open

  class Full:
    def __init__(self, file):
      self.file = file

    def __enter__(self):
      return self

    def __exit__(self, *error):
      self.file.close()

    def __getattr__(self, name):
      return getattr(self.file, name)

    def write(self, data):
      return self.file.write(data[: len(data) // 2])

  monkeypatch.setattr(pathlib.Path, 'open', lambda *a, **k: Full(real(*a, **k)))
  with pytest.raises(OSError, match=r'cannot keep results.*No space left'):
    ledger.add('b', [{'accuracy': 1.0}])
  monkeypatch.undo()
  assert path.read_bytes() == before and 'b' not in ledger.rows
  assert list(ledger_lib.Ledger(path).rows) == [candidate('a').label('toy')]


def _must_not_build():
  raise AssertionError('a finished candidate was built again')


def test_ledger_resumes_after_a_half_written_line(tmp_path, pretended):
  path = tmp_path / 'deep' / 'finished.jsonl'
  rows = go([candidate(n) for n in 'abc'])
  go([candidate('a'), candidate('b')], ledger_lib.Ledger(path))
  text = path.read_text()
  assert text.count('\n') == 2
  path.write_text(text[: len(text) - 40])  # killed while writing b
  built = []

  def build():
    built.append(1)
    return toys.linear()

  done = []
  again = go(
    [candidate('a', _must_not_build), candidate('b', build), candidate('c', build)],
    ledger_lib.Ledger(path),
    on_done=lambda c: done.append(c.architecture),
  )
  assert again == rows
  assert len(built) == 2
  assert done == ['a', 'b', 'c']
  # What was written after the half line is whole, too.
  everything = [candidate(n, _must_not_build) for n in 'abc']
  assert go(everything, ledger_lib.Ledger(path)) == rows


def test_ledger_keeps_targets_methods_and_budgets_apart():
  one = candidate('a')
  labels = {
    one.label('toy'),
    one.label('other'),
    one._replace(method='random').label('toy'),
    one._replace(budget=0.25).label('toy'),
    one._replace(unit='params').label('toy'),
    candidate('b').label('toy'),
  }
  assert len(labels) == 6


def test_a_failure_keeps_what_is_done(tmp_path, pretended):
  path = tmp_path / 'finished.jsonl'

  def broken():
    raise RuntimeError('cannot be built')

  with pytest.raises(RuntimeError, match='cannot be built'):
    go([candidate('a'), candidate('b', broken), candidate('c')], ledger_lib.Ledger(path))
  assert 'toy|macs|0.5|learned|a' in ledger_lib.Ledger(path).rows


@pytest.mark.parametrize(
  'names, shots, words',
  [('aa', (1,), 'come twice'), ('a', (100,), 'class 0 has 20 training examples, 100 shots')],
)
def test_refusals(names, shots, words):
  with pytest.raises(ValueError, match=words):
    go([candidate(n) for n in names], shots=shots)


def test_ledger_of_other_draws_is_refused(tmp_path, pretended):
  path = tmp_path / 'finished.jsonl'
  go([candidate('a')], ledger_lib.Ledger(path), shots=(1,))
  with pytest.raises(ValueError, match=r'holds .* with other shots or draws'):
    go([candidate('a')], ledger_lib.Ledger(path), shots=(1, 2))
