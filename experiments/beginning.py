"""The flags --resume and --init: which earlier run the searches of a new one begin from.

A search goes on from its own checkpoint where it has one, whatever the flags say; else from
--resume; else, with the weights of --init; else from scratch.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

from absl import flags

from dapt_jax.training import begin as begin_lib
from dapt_jax.training import checkpoint

_HELP = {
  'resume': 'Work directory of an earlier run. Searches of gates go on from its searches of the '
  'same names, where they have no checkpoint of their own.',
  'init': 'Work directory of an earlier run. The whole network that is trained on the source '
  'starts with its weights, where it has no checkpoint of its own.',
}


def define() -> None:
  """Defines the flags, for an app that heeds them."""
  for name, text in _HELP.items():
    flags.DEFINE_string(name, None, text)
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])  # for --help


def given() -> begin_lib.Begin:
  """What the flags say; nothing where an app has not defined them."""
  return begin_lib.Begin(*[flags.FLAGS[n].value if n in flags.FLAGS else None for n in _HELP])


def check(begin: begin_lib.Begin, config: Any, workdir: str, names: list[str]) -> None:
  """Finds, before any work, what cannot be begun from.

  Args:
    begin: from `given`.
    config: checked configuration.
    workdir: of the new run.
    names: of its searches.

  Raises:
    ValueError: the configuration has no use for a flag, or a flag names `workdir` itself.
    CheckpointError: there is nothing to begin from.
  """
  c, root = config.search, pathlib.Path(workdir)
  for flag, path in begin._asdict().items():
    if path and pathlib.Path(path).resolve() == root.resolve():
      raise ValueError(
        f'--{flag}={path} is this work directory, which goes on by itself: leave out'
      )
  if begin.resume:
    if c.criterion != 'gates':
      raise ValueError(
        f'--resume goes on with searches of gates, and search.criterion={c.criterion} makes none: '
        'use --init for the network that it cuts'
      )
    for name in names:
      _find('resume', begin.resume, root, f'search/{name}')
  if begin.init:
    if c.criterion == 'gates' and c.weights != 'given':
      raise ValueError(
        '--init gives weights to the network that is trained on the source; a search of gates has '
        f'one with search.weights=given, not with {c.weights}: leave out, or use --resume'
      )
    _find('init', begin.init, root, 'source')


def _find(flag: str, path: checkpoint.PathLike, root: pathlib.Path, name: str) -> None:
  """Checks that there is a checkpoint in the run or in the earlier one."""
  for directory in (root / name, pathlib.Path(path) / name):
    try:
      begin_lib.find(directory)
      return
    except checkpoint.CheckpointError as error:
      reason = error
  there = sorted(p.parent.name for p in pathlib.Path(path).glob('search/*/checkpoints'))
  raise checkpoint.CheckpointError(
    f'--{flag}={path}: {reason} (Searches there: {", ".join(there) or "none"}.)'
  )
