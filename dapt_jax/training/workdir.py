"""The directory of one run: its configuration, and a lock so that two jobs never share it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import shutil
import socket
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from dapt_jax.training import config as config_lib
from dapt_jax.training import hosts, version, writers

PathLike = str | os.PathLike[str]

_CONFIG, _LOCK = 'config.json', 'lock'
#: Names that only a run of ours makes.
_OURS = ('checkpoints', 'metrics.jsonl')


class WorkdirError(RuntimeError):
  """A work directory cannot be used as asked; the message says why and how to go on."""


class Workdir(NamedTuple):
  """An opened (locked) work directory.

  Attributes:
    path: the directory.
    resumed: whether it held this same run before.
  """

  path: pathlib.Path
  resumed: bool

  @property
  def checkpoints(self) -> pathlib.Path:
    """Where the checkpoints lie."""
    return self.path / 'checkpoints'

  @property
  def metrics(self) -> pathlib.Path:
    """The JSON-lines file of metrics."""
    return self.path / 'metrics.jsonl'


@contextlib.contextmanager
def open_workdir(
  path: PathLike,
  config: Mapping[str, Any],
  *,
  kind: str,
  overwrite: bool = False,
  free_fields: Collection[str] = (),
) -> Iterator[Workdir]:
  """Opens a work directory for one run, and holds its lock until the block ends.

  A new directory is made. One that holds the same run (same `kind` and configuration) is resumed.
  One that holds another run is refused. Other code than before is warned about. Of several
  processes the first does all this, and holds the lock.

  Args:
    path: the directory.
    config: the run's configuration, a `ConfigDict` or nested mapping of JSON-like values.
    kind: what the run does, `'prune'` say.
    overwrite: remove everything in the directory and start afresh. Done only where the directory
      holds a run.
    free_fields: dotted names of fields that may differ from the earlier run (how often to log,
      say).

  Yields:
    The `Workdir`.

  Raises:
    WorkdirError: it holds another run (the differing fields are named), another live job uses
      it, or it cannot be written to.
    hosts.HostError: processes have other configurations or code, or the first has failed.
    TypeError: a configuration field has no JSON form.
  """
  root = pathlib.Path(path)
  plain = _plain(config)
  wanted = {'kind': kind, 'config': plain, 'code': version.code()}
  fields = {f'config.{name}': value for name, value in config_lib.flatten(plain).items()}
  hosts.agree({'kind': kind, 'code': wanted['code'], **fields}, 'configuration or code')
  with contextlib.ExitStack() as stack:
    enter = functools.partial(_enter, stack, root, wanted, overwrite, free_fields)
    yield Workdir(root, hosts.broadcast(hosts.first_does(enter)))


def _enter(
  stack: contextlib.ExitStack,
  root: pathlib.Path,
  wanted: dict[str, Any],
  overwrite: bool,
  free: Collection[str],
) -> bool:
  """Makes or checks the directory, and locks it until the stack ends; whether it held the run."""
  try:
    root.mkdir(parents=True, exist_ok=True)
  except FileExistsError:
    raise WorkdirError(f'{root} is a file: choose a directory') from None
  except OSError as error:
    raise _unwritable(root, error) from error
  stack.enter_context(lock(root))
  saved = _read_config(root)
  if overwrite and saved is not None:
    _clear(root)
    saved = None
  if saved is None and any((root / name).exists() for name in _OURS):
    raise WorkdirError(
      f'{root} holds checkpoints or metrics but no {_CONFIG}, so whose they are cannot be told: '
      'choose another directory, or remove them'
    )
  if saved is not None:
    _check_same(root, saved, wanted, free)
    _warn_of_other_code(root, saved, wanted)
  if saved != wanted:
    writers.write_json(root / _CONFIG, wanted)
  return saved is not None


def differences(
  old: Mapping[str, Any], new: Mapping[str, Any], ignore: Collection[str] = ()
) -> list[str]:
  """The fields in which two configurations differ, as `'name: old -> new'` lines."""
  a, b = config_lib.flatten(old), config_lib.flatten(new)
  show = lambda fields, name: repr(fields[name]) if name in fields else '(absent)'
  return [
    f'{name}: {show(a, name)} -> {show(b, name)}'
    for name in dict.fromkeys([*a, *b])
    if name not in ignore and (name not in a or name not in b or a[name] != b[name])
  ]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
  """A configuration as it reads back from JSON; the error names the field that has no JSON form."""
  for name, value in config_lib.flatten(config).items():
    try:
      writers.jsonable(value)
    except TypeError as error:
      raise TypeError(f'configuration field {name}: {error}') from error
  return json.loads(json.dumps(writers.jsonable(config)))


def _read_config(root: pathlib.Path) -> dict[str, Any] | None:
  path = root / _CONFIG
  if not path.exists():
    return None
  try:
    saved = json.loads(path.read_text(encoding='utf-8'))
    if not isinstance(saved, dict) or not {'kind', 'config'} <= set(saved):
      raise ValueError("it lacks 'kind' and 'config'")
  except ValueError as error:
    raise WorkdirError(
      f'{path} is not a configuration written by a run ({error}): choose another directory'
    ) from error
  return saved


def _check_same(root: pathlib.Path, saved: dict, wanted: dict, free: Collection[str]) -> None:
  """Raises WorkdirError where `saved` is another run than `wanted`."""
  lines = differences(saved['config'], wanted['config'], free)
  if saved['kind'] != wanted['kind']:
    lines.insert(0, f'kind of run: {saved["kind"]!r} -> {wanted["kind"]!r}')
  if lines:
    raise WorkdirError(
      f'{root} holds another run (there -> now):\n  '
      + '\n  '.join(lines)
      + '\nUse another work directory, go back to the old values, or overwrite it (overwrite=True, '
      '--overwrite), which removes everything in it.'
    )


def _warn_of_other_code(root: pathlib.Path, saved: dict, wanted: dict) -> None:
  """Code may change in a run's life (a mended error), but not unnoticed."""
  before = saved.get('code', wanted['code'])
  if before != wanted['code']:
    warnings.warn(
      f'{root} was made by dapt_jax {before} and goes on with {wanted["code"]}: it may not end as '
      'it would have with one version',
      stacklevel=5,
    )


def _clear(root: pathlib.Path) -> None:
  """Empties a work directory; the configuration last, so that a cut-off call can be repeated."""
  entries = [p for p in root.iterdir() if p.name not in (_LOCK, _CONFIG)]
  for entry in [*entries, root / _CONFIG]:
    if entry.is_dir() and not entry.is_symlink():
      shutil.rmtree(entry)
    else:
      entry.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(root: pathlib.Path) -> Iterator[None]:
  """Holds `root/lock`: the kernel's file lock, plus who holds it in the file.

  The kernel frees the lock when its holder dies, however it dies, so a lock left by a dead job of
  this host is taken over without asking. The owner's host is compared too, since file locks may not
  reach across the hosts of a network file system.

  Raises:
    WorkdirError: another job holds it, or the directory cannot be written to.
  """
  path = root / _LOCK
  try:
    opened = path.open('a+', encoding='utf-8')
  except OSError as error:
    raise _unwritable(root, error) from error
  with opened as handle:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      owner = _owner(path)
      raise WorkdirError(
        f'{root} is in use by process {owner.get("pid", "?")} on host {owner.get("host", "?")}: '
        'wait for it, stop it, or use another work directory'
      ) from None
    owner = _owner(path)
    host = socket.gethostname()
    if owner.get('host', host) != host:
      raise WorkdirError(
        f'{root} was left locked by process {owner.get("pid")} on host {owner["host"]}, which '
        f'cannot be seen from {host}. If that job is gone, remove {path} and try again.'
      )
    handle.truncate(0)
    handle.write(json.dumps({'pid': os.getpid(), 'host': host}))
    handle.flush()
    try:
      yield
    finally:
      handle.truncate(0)  # kept, but empty: removing it would race with the next job


def _unwritable(root: pathlib.Path, error: OSError) -> WorkdirError:
  return WorkdirError(
    f'cannot write to {root} ({error.strerror}): a run needs a directory it may write to. Make it '
    'writable, or choose another work directory'
  )


def _owner(path: pathlib.Path) -> dict[str, Any]:
  """Who is written in a lock file; empty for a free lock."""
  with contextlib.suppress(ValueError, OSError):
    owner = json.loads(path.read_text(encoding='utf-8'))
    if isinstance(owner, dict):
      return owner
  return {}
