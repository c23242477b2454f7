"""Where a run begins that has no checkpoint of its own: another run's state, or its weights."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any, NamedTuple

from dapt_jax import types
from dapt_jax.training import checkpoint, manifest

#: The part of a state that holds the weights, as an attribute or a key.
WEIGHTS = 'params'


class Begin(NamedTuple):
  """Where a run begins that has no checkpoint of its own; with neither, at its fresh state.

  Attributes:
    resume: another run: its whole state, step and optimisers included. Goes before `init`.
    init: another run: its weights only, the part of the state called `params`.

  Both are a work directory or the directory of its checkpoints; the newest whole one is read, and
  nothing there is changed.
  """

  resume: checkpoint.PathLike | None = None
  init: checkpoint.PathLike | None = None

  def state(self, fresh: types.ArrayTree) -> tuple[int, Any]:
    """(step, state) to begin with.

    Args:
      fresh: a fresh state.

    Raises:
      StructureError: the other run's state has other leaves, shapes or dtypes.
      CheckpointError: it has no checkpoint, or none that is whole.
      ValueError: `init` is given, but the state has no part called `params`.
    """
    if self.resume is not None:
      return read(self.resume, fresh)
    if self.init is None:
      return 0, fresh
    part = manifest.part(fresh, WEIGHTS)
    if part is None:
      raise ValueError(
        f'init={str(self.init)!r} gives weights only, but this state has no part called '
        f'{WEIGHTS!r}: give the run as `resume`, which reads the whole state'
      )
    return 0, read(self.init, fresh, part)[1]


def read(
  path: checkpoint.PathLike, template: types.ArrayTree, part: str = ''
) -> tuple[int, types.ArrayTree]:
  """Reads the newest whole checkpoint of another run, and changes nothing there.

  Args:
    path: its work directory, or the directory of its checkpoints.
    template: as in `Checkpoints.restore`.
    part: path of the part to read (`manifest.part`); the rest is left as in `template`.

  Returns:
    `(step, state)`.

  Raises:
    StructureError: the checkpoint has other leaves, shapes or dtypes than `template`.
    CheckpointError: there is no checkpoint, or none that is whole.
  """
  with contextlib.closing(checkpoint.Checkpoints(find(path))) as other:
    found = other.restore(template, part, set_aside=False)
  assert found is not None
  return found


def find(path: checkpoint.PathLike) -> pathlib.Path:
  """The directory of checkpoints that a path means: itself, or `checkpoints` inside it.

  Raises:
    CheckpointError: there is no checkpoint in either.
  """
  for directory in (pathlib.Path(path) / 'checkpoints', pathlib.Path(path)):
    if directory.is_dir() and any(p.name.isdigit() for p in directory.iterdir()):
      return directory
  raise checkpoint.CheckpointError(
    f'{path} holds no checkpoint to begin from: it must be the work directory of a run that has '
    'saved (with folders checkpoints/STEP), or its folder checkpoints. Give such a directory, or '
    'leave the option out to begin afresh.'
  )
