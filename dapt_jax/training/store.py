"""The checkpoints of a run, as the training loop sees them."""

from __future__ import annotations

import contextlib
from typing import Any

from dapt_jax import types
from dapt_jax.training import checkpoint, layout, recording
from dapt_jax.training import workdir as workdir_lib


class Store:
  """The checkpoints of a run; without a work directory, nothing."""

  def __init__(
    self,
    stack: contextlib.ExitStack,
    workdir: workdir_lib.Workdir | None,
    fresh: types.ArrayTree,
    keep: int,
  ):
    """Opens the checkpoints of a work directory.

    Args:
      stack: closes the checkpoints.
      workdir: the opened work directory, or None to keep nothing.
      fresh: a fresh initial state, all leaves arrays.
      keep: how many checkpoints to keep.
    """
    self._fresh, self._infinite = fresh, recording.infinite_leaves(fresh)
    self._checkpoints: checkpoint.Checkpoints | None = None
    self._last: int | None = None
    if workdir is not None:
      self._checkpoints = checkpoint.Checkpoints(workdir.checkpoints, keep=keep)
      stack.callback(self._checkpoints.close)
    self.directory = workdir.path if workdir is not None else None

  def resume(self, num_steps: int) -> tuple[int, Any]:
    """The step and state to start from."""
    found = self._checkpoints.restore(self._fresh) if self._checkpoints else None
    if found is None:
      return 0, self._fresh
    self._last, state = found
    if self._last > num_steps:
      raise ValueError(
        f'{self.directory} is at step {self._last}, beyond num_steps={num_steps}: raise num_steps '
        'or use another work directory'
      )
    return self._last, layout.as_arrays(state)

  def save(self, step: int, state: Any) -> None:
    """Saves a state that is finite."""
    if self._checkpoints is not None:
      recording.check_state(state, step, self._infinite, self.last_good)
      self._checkpoints.save(step, state)
      self._last = step

  def last_good(self) -> str:
    """Where the last checkpoint is, as a sentence."""
    if self._last is None:
      return 'No checkpoint was written before.'
    return f'The last good checkpoint is step {self._last} in {self.directory}.'
