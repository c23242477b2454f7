"""The checkpoints of a run, as the training loop sees them, and where a run begins."""

from __future__ import annotations

import json
import pathlib
import types as python_types
import warnings
from collections.abc import Mapping
from typing import Any

from dapt_jax import types
from dapt_jax.training import begin as begin_lib
from dapt_jax.training import best as best_lib
from dapt_jax.training import checkpoint, hosts, layout, recording, writers
from dapt_jax.training import workdir as workdir_lib


class Store:
  """The checkpoints of a run; without a work directory, nothing. A context manager.

  Of several processes the first reads and writes, and tells the others.
  """

  def __init__(
    self,
    workdir: workdir_lib.Workdir | None,
    fresh: types.ArrayTree,
    keep: int,
    best: best_lib.Best | None = None,
    begin: begin_lib.Begin | None = None,
  ):
    """Opens the checkpoints of a work directory.

    Args:
      workdir: the opened work directory, or None to keep nothing.
      fresh: a fresh initial state, all leaves arrays.
      keep: how many of the newest checkpoints to keep.
      best: which others to keep.
      begin: where to begin without a checkpoint.
    """
    self._fresh, self._infinite = fresh, recording.infinite_leaves(fresh)
    self._begin, self._best = begin or begin_lib.Begin(), best
    self._checkpoints: checkpoint.Checkpoints | None = None
    if workdir is not None and hosts.is_first():
      about = json.loads((workdir.path / 'config.json').read_text(encoding='utf-8'))
      self._checkpoints = checkpoint.Checkpoints(
        workdir.checkpoints, keep=keep, best=best, about=about
      )
    self.directory = workdir.path if workdir is not None else None

  def __enter__(self) -> Store:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: python_types.TracebackType | None,
  ) -> None:
    """Waits for the last save; an error there does not hide one of the run."""
    if self._checkpoints is None:
      return
    try:
      self._checkpoints.close()
    except checkpoint.CheckpointError as failed:
      if error is None:
        raise
      warnings.warn(str(failed), stacklevel=2)

  def start(self, num_steps: int) -> tuple[int, Any]:
    """The step and state to start from: own checkpoint > `resume` > `init` > fresh state.

    Raises:
      CheckpointError: there are checkpoints, but none can be read; or `begin` names none.
      StructureError: they belong to another configuration.
      ValueError: they are beyond `num_steps`.
    """
    found = hosts.first_does(lambda: self._start(num_steps))
    step, state = found or (0, self._fresh)
    return hosts.broadcast(step), layout.as_arrays(hosts.broadcast_arrays(state))

  def _start(self, num_steps: int) -> tuple[int, Any]:
    found = self._checkpoints.restore(self._fresh) if self._checkpoints else None
    step, state = found or self._begin.state(self._fresh)
    if step > num_steps:
      where = self.directory if found else self._begin.resume
      raise ValueError(
        f'{where} is at step {step}, beyond num_steps={num_steps}: raise num_steps or use another '
        'work directory'
      )
    if not found and self.directory is not None:
      self._note_begin(self.directory, step)
    return step, state

  def check(self, metrics: Mapping[str, Any]) -> None:
    """Raises ValueError where the best checkpoints cannot be told by these metrics."""
    if self._best is not None:
      self._best.check_metrics(metrics)

  def save(self, step: int, state: Any, metrics: Mapping[str, Any] | None) -> None:
    """Begins to save a state that is finite; `metrics` are None where none were logged."""
    if self.directory is not None:
      recording.check_state(state, step, self._infinite, self.last_good)
      hosts.first_does(lambda: self._opened.save(step, state, metrics))

  def wait(self) -> None:
    """Waits until the last save is committed; raises CheckpointError where it could not be."""
    if self.directory is not None:
      hosts.first_does(lambda: self._opened.wait())

  @property
  def _opened(self) -> checkpoint.Checkpoints:
    assert self._checkpoints is not None  # a run with a directory, in its first process
    return self._checkpoints

  def last_good(self) -> str:
    """Where the last checkpoint is, as a sentence."""
    if not hosts.is_first():
      return f'The checkpoints are in {self.directory}.'
    try:
      steps = self._checkpoints.steps() if self._checkpoints is not None else []
    except checkpoint.CheckpointError as error:  # of the save under way: says what is left
      return f'Also, {error}'
    if not steps:
      return 'No checkpoint was written before.'
    return f'The last good checkpoint is step {steps[-1]} in {self.directory}.'

  def _note_begin(self, directory: pathlib.Path, step: int) -> None:
    """Writes down which other run this one begins from."""
    path = directory / 'begun.json'
    names = {n: str(pathlib.Path(p).absolute()) for n, p in self._begin._asdict().items() if p}
    if names:
      writers.write_json(path, {**names, 'step': step})
    else:
      path.unlink(missing_ok=True)
