"""The README's Python examples run as they stand, top to bottom, and its links lead somewhere."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```python\n(.*?)^```', README, re.MULTILINE | re.DOTALL)


def test_python_examples_run_in_order(tmp_path, monkeypatch, capsys):
  assert len(BLOCKS) >= 2
  monkeypatch.chdir(tmp_path)
  names = {}
  for number, block in enumerate(BLOCKS):
    exec(compile(block, f'README.md, example {number + 1}', 'exec'), names)
  share = names['arch'].costs['macs']['share']
  assert 0.15 < share <= 0.25
  assert 'written by' in capsys.readouterr().out


# The picture is put there by the report of a full run, the rest belongs to the repository.
LINKS = [t for t in re.findall(r'\]\(([^)#:]+)\)', README) if not t.endswith('.png')]


@pytest.mark.parametrize('target', sorted(set(LINKS)))
def test_links_lead_to_files(target):
  assert (ROOT / target).exists(), f'README.md links to {target}, which is not there'


def test_make_targets_exist():
  makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
  targets = set(re.findall(r'^([a-z-]+):', makefile, re.MULTILINE))
  named = set(re.findall(r'\bmake ([a-z][a-z-]+)', README))
  assert named and named <= targets, f'README.md names {sorted(named - targets)}'
