"""Checkpoints of any pytree, bit for bit, that survive crashes, full disks and damage.

Orbax writes and commits them in a thread (a checkpoint appears under its step number only once it
is whole). Beside the arrays lies a manifest of every leaf's path, shape, dtype and checksum, so a
checkpoint can be held against the state a run expects before it is read, and against its own
contents after.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import warnings
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import jax
import numpy as np

from dapt_jax import types
from dapt_jax.training import best as best_lib
from dapt_jax.training import disk, manifest, memory

PathLike = str | os.PathLike[str]


class CheckpointError(RuntimeError):
  """A checkpoint could not be written or read; the message says what is left and what to do."""


class StructureError(CheckpointError):
  """A checkpoint is whole but belongs to a state of another structure."""


class Checkpoints:
  """The checkpoints of one run: the newest, and the best if asked for.

  `save` copies the state and returns; a thread writes it. Every other call waits for that thread
  first, so at most one copy is under way.
  """

  def __init__(
    self,
    directory: PathLike,
    *,
    keep: int = 3,
    best: best_lib.Best | None = None,
    about: Mapping[str, Any] | None = None,
  ):
    """Opens (and makes) the directory.

    Args:
      directory: holds one folder per checkpoint, named by step.
      keep: how many of the newest to keep; at least 1. With 1 a damaged checkpoint has no
        predecessor to fall back to.
      best: which others to keep.
      about: JSON data on the run (configuration, version of the code), put into every checkpoint.

    Raises:
      ValueError: `keep` is below 1, or `best` is not as it must be.
    """
    if keep < 1:
      raise ValueError(f'keep must be at least 1 checkpoint, got {keep}')
    if best is not None:
      best.check()
    self.directory = pathlib.Path(directory).absolute()
    self.directory.mkdir(parents=True, exist_ok=True)
    self._keep, self._best, self._about = keep, best, dict(about or {})
    self._disk = disk.Disk(self.directory)
    # A thread of our own, since Orbax's asynchronous mode still checks, plans and makes folders in
    # the caller's thread: 10-30 ms for a small state, against 1 ms for the copy.
    self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix='checkpoint')
    self._pending: tuple[int, futures.Future[None]] | None = None

  def steps(self) -> list[int]:
    """Steps of the committed checkpoints, ascending.

    Raises:
      CheckpointError: the last save failed.
    """
    self.wait()
    return self._disk.steps()

  def best_step(self) -> int | None:
    """Step of the best checkpoint there is; None where none has a finite metric.

    Raises:
      CheckpointError: the last save failed.
      ValueError: no `best` was given.
    """
    if self._best is None:
      raise ValueError('no way to tell the best checkpoint: give best=Best(metric, mode)')
    return next(iter(self._ranked(self.steps())), None)

  def save(
    self, step: int, state: types.ArrayTree, metrics: Mapping[str, Any] | None = None
  ) -> None:
    """Copies a state to the host, and begins to write it.

    Args:
      step: updates done so far. A step that is already saved is left as it is.
      state: any pytree of jax or numpy arrays, typed or raw keys, and Python numbers; may be
        donated or changed at once.
      metrics: of this step; finite scalars are saved. A checkpoint without the metric of `best`, or
        with NaN or infinity there, is never the best.

    Raises:
      CheckpointError: the save before could not be written, for instance because the disk is full.
        Earlier checkpoints are untouched.
      TypeError: a leaf is none of the above.
      ValueError: metrics are given, but not the scalar that `best` goes by.
    """
    if step in self.steps():
      return
    if self._best is not None and metrics is not None:
      self._best.check_metrics(metrics)
    entries, arrays = manifest.snapshot(state)
    about = {**self._about, 'metrics': best_lib.scalars(metrics or {})}
    self._pending = (step, self._thread.submit(self._write, step, entries, arrays, about))

  def wait(self) -> None:
    """Waits until the last save is committed.

    Raises:
      CheckpointError: it could not be written; says which step that was. Raised once.
    """
    if self._pending is not None:
      step, future = self._pending
      futures.wait([future])
      self._pending = None
      error = future.exception()
      if error is not None:
        raise self._save_error(step, error) from error

  def restore(
    self, template: types.ArrayTree, part: str = '', *, set_aside: bool = True
  ) -> tuple[int, types.ArrayTree] | None:
    """Reads the newest checkpoint that is whole.

    A damaged or cut-off checkpoint is warned about, moved to `damaged/` beside the directory
    (nothing is deleted), and the one before is read instead.

    Args:
      template: a freshly made state. Its tree, shapes and dtypes are what the checkpoint must have;
        its leaf types (jax array, numpy array, Python number, typed key) are what comes back.
      part: path of the part to read (`manifest.part`); the rest is left as in `template`.
      set_aside: whether to move damaged checkpoints; False for another run's.

    Returns:
      `(step, state)`, or None where there is no checkpoint yet.

    Raises:
      StructureError: the checkpoint has other leaves, shapes or dtypes than `template`.
      CheckpointError: there are checkpoints, and every one of them is damaged.
    """
    damaged: list[int] = []
    for step in reversed(self.steps()):
      try:
        state = self.load(step, template, part)
      except StructureError:
        raise
      except CheckpointError as error:
        warnings.warn(f'{error}; trying the one before', stacklevel=2)
        damaged.append(step)
        continue
      if set_aside:
        self._disk.set_aside(damaged)
      return step, state
    if damaged:
      raise CheckpointError(
        f'every checkpoint in {self.directory} is damaged (steps {sorted(damaged)}). Restore them '
        'from a backup, or start the run afresh in another (or an overwritten) work directory.'
      )
    return None

  def load(self, step: int, template: types.ArrayTree, part: str = '') -> types.ArrayTree:
    """Reads one checkpoint, of the best step say.

    Args:
      step: one of `steps()`.
      template: as in `restore`.
      part: as in `restore`.

    Raises:
      StructureError: the checkpoint has other leaves, shapes or dtypes than `template`.
      CheckpointError: it is not there, or damaged.
    """
    if step not in self.steps():
      raise CheckpointError(f'{self.directory} has no checkpoint of step {step}: {self.steps()}')
    try:
      return self._read(step, template, part)
    except StructureError:
      raise
    except Exception as error:  # whatever a broken file makes Orbax raise
      reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
      raise CheckpointError(f'checkpoint {self.directory / str(step)} is damaged ({reason})') from (
        error
      )

  def close(self) -> None:
    """Waits for the last save, and releases thread and files.

    Raises:
      CheckpointError: the last save could not be written.
    """
    try:
      self.wait()
    finally:
      self._thread.shutdown()
      self._disk.close()

  def _write(
    self, step: int, entries: list[manifest.Entry], arrays: list[np.ndarray], about: dict[str, Any]
  ) -> None:
    """Commits a checkpoint and removes those that are not to be kept. Runs in the thread."""
    self._disk.write(step, entries, arrays, about)
    steps = self._disk.steps()
    best = self._ranked(steps)[: self._best.keep if self._best else 0]
    for old in set(steps[: -self._keep]).difference(best):
      self._disk.delete(old)
    memory.release()

  def _ranked(self, steps: list[int]) -> list[int]:
    """The steps that have the metric, best first; none if no metric is asked for."""
    if self._best is None:
      return []
    metrics = {}
    for step in steps:
      with contextlib.suppress(Exception):  # a damaged checkpoint is not the best
        metrics[step] = self._disk.manifest(step)['about']['metrics']
    return self._best.rank(metrics)

  def _read(self, step: int, template: types.ArrayTree, part: str) -> types.ArrayTree:
    saved = self._disk.manifest(step)['leaves']
    wanted = manifest.describe(template)
    mine = [i for i, entry in enumerate(wanted) if manifest.belongs(entry, part)]
    theirs = [i for i, entry in enumerate(saved) if manifest.belongs(entry, part)]
    lines = manifest.differences([saved[i] for i in theirs], [wanted[i] for i in mine])
    if lines:
      raise self._structure_error(step, lines)
    arrays, leaves = self._disk.arrays(step, saved), jax.tree.leaves(template)
    for i, j in zip(mine, theirs, strict=True):
      array = arrays.get(j, manifest.to_numpy(leaves[i], ()))
      if manifest.crc32(array) != saved[j]['crc32']:
        raise ValueError(f'checksum of {saved[j]["path"]} does not match')
      leaves[i] = manifest.like(array, leaves[i])
    return jax.tree.unflatten(jax.tree.structure(template), leaves)

  def _structure_error(self, step: int, lines: list[str]) -> StructureError:
    """Names the leaves that differ."""
    more = [f'... and {len(lines) - 8} more'] if len(lines) > 8 else []
    return StructureError(
      f'the checkpoint of step {step} in {self.directory} belongs to another configuration:\n  '
      + '\n  '.join(lines[:8] + more)
      + '\nGo on with the configuration it was made with, or use another work directory.'
    )

  def _save_error(self, step: int, error: BaseException) -> CheckpointError:
    """Clears what the failed save left, and says what happened."""
    self._disk.clear_unfinished()
    steps = self.steps()
    left = f'step {steps[-1]} is intact' if steps else 'there is no earlier checkpoint'
    if disk.is_full(error):
      reason, remedy = 'the disk is full', 'Free some space, then run the same command again'
    else:
      reason, remedy = f'{type(error).__name__}: {error}', 'Then run the same command again'
    return CheckpointError(
      f'could not save step {step} in {self.directory}: {reason}; {left}. {remedy} to go on.'
    )
