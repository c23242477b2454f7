"""Checkpoints of any pytree, bit for bit, that survive crashes, full disks and damage.

Orbax writes and commits them (a checkpoint appears under its step number only once it is whole).
Beside the arrays lies a manifest of every leaf's path, shape, dtype and checksum, so a checkpoint
can be held against the state a run expects before it is read, and against its own contents after.
"""

from __future__ import annotations

import errno
import json
import os
import pathlib
import shutil
import warnings
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dapt_jax import types
from dapt_jax.training import layout

PathLike = str | os.PathLike[str]

#: Orbax stores neither an empty tree nor zero-size arrays; this entry keeps the tree non-empty.
_STEP = 'step'


class CheckpointError(RuntimeError):
  """A checkpoint could not be written or read; the message says what is left and what to do."""


class StructureError(CheckpointError):
  """A checkpoint is whole but belongs to a state of another structure."""


class Checkpoints:
  """The checkpoints of one run, the newest `keep` of them."""

  def __init__(self, directory: PathLike, *, keep: int = 3):
    """Opens (and makes) the directory.

    Args:
      directory: holds one folder per checkpoint, named by step.
      keep: how many to keep; at least 1. With 1 a damaged checkpoint has no predecessor to fall
        back to.

    Raises:
      ValueError: `keep` is below 1.
    """
    if keep < 1:
      raise ValueError(f'keep must be at least 1 checkpoint, got {keep}')
    self.directory = pathlib.Path(directory).absolute()
    self.directory.mkdir(parents=True, exist_ok=True)
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False),
    )

  def steps(self) -> list[int]:
    """Steps of the committed checkpoints, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: types.ArrayTree) -> None:
    """Writes a checkpoint and waits until it is committed.

    Args:
      step: updates done so far. A step that is already saved is left as it is.
      state: any pytree of jax or numpy arrays, typed or raw keys, and Python numbers.

    Raises:
      CheckpointError: it could not be written, for instance because the disk is full. Earlier
        checkpoints are untouched.
      TypeError: a leaf is none of the above.
    """
    if step in self.steps():
      return
    arrays = {_STEP: np.asarray(step)}
    manifest = []
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(state)):
      array = _to_numpy(leaf, path)
      manifest.append({**_describe(path, leaf), 'crc32': _crc32(array)})
      if array.size:
        arrays[str(i)] = array
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(
          arrays=ocp.args.StandardSave(arrays),
          manifest=ocp.args.JsonSave({'leaves': manifest, 'crc32': _crc32(manifest)}),
        ),
      )
    except Exception as error:
      raise self._save_error(step, error) from error

  def restore(self, template: types.ArrayTree) -> tuple[int, types.ArrayTree] | None:
    """Reads the newest checkpoint that is whole.

    A damaged or cut-off checkpoint is warned about, moved to `damaged/` beside the directory
    (nothing is deleted), and the one before is read instead.

    Args:
      template: a freshly made state. Its tree, shapes and dtypes are what the checkpoint must have;
        its leaf types (jax array, numpy array, Python number, typed key) are what comes back.

    Returns:
      `(step, state)`, or None where there is no checkpoint yet.

    Raises:
      StructureError: the checkpoint has other leaves, shapes or dtypes than `template`.
      CheckpointError: there are checkpoints, and every one of them is damaged.
    """
    damaged: list[int] = []
    for step in reversed(self.steps()):
      try:
        state = self._read(step, template)
      except StructureError:
        raise
      except Exception as error:  # whatever a broken file makes Orbax raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        warnings.warn(
          f'checkpoint {self.directory / str(step)} is damaged ({reason}); trying the one before',
          stacklevel=2,
        )
        damaged.append(step)
        continue
      self._set_aside(damaged)
      return step, state
    if damaged:
      raise CheckpointError(
        f'every checkpoint in {self.directory} is damaged (steps {sorted(damaged)}). Restore them '
        'from a backup, or start the run afresh in another (or an overwritten) work directory.'
      )
    return None

  def close(self) -> None:
    """Releases Orbax's resources."""
    self._manager.close()

  def _read(self, step: int, template: types.ArrayTree) -> types.ArrayTree:
    saved = self._manager.restore(step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore()))
    leaves = saved['manifest']['leaves']
    if _crc32(leaves) != saved['manifest']['crc32']:
      raise ValueError('checksum of the manifest does not match')
    paths, treedef = jax.tree_util.tree_flatten_with_path(template)
    self._check_structure(step, leaves, [_describe(path, leaf) for path, leaf in paths])
    stored = self._manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore()))
    arrays, out = stored['arrays'], []
    for i, ((path, leaf), entry) in enumerate(zip(paths, leaves, strict=True)):
      array = np.asarray(arrays[str(i)]) if str(i) in arrays else _to_numpy(leaf, path)
      if _crc32(array) != entry['crc32']:
        raise ValueError(f'checksum of {entry["path"]} does not match')
      out.append(_like(array, leaf))
    return jax.tree_util.tree_unflatten(treedef, out)

  def _check_structure(self, step: int, saved: list[dict], wanted: list[dict]) -> None:
    """Raises StructureError naming the leaves that differ."""
    kind = lambda e: f'{e["dtype"]}{list(e["shape"])}' + (f' key({e["key"]})' if e['key'] else '')
    old, new = ({entry['path']: kind(entry) for entry in entries} for entries in (saved, wanted))
    if list(old.items()) == list(new.items()):
      return
    lines = [
      f'{path}: {old.get(path, "nothing")} saved, {new.get(path, "nothing")} expected'
      for path in dict.fromkeys([*new, *old])
      if old.get(path) != new.get(path)
    ]
    shown = lines[:8] or ['the same leaves in another order']
    more = [f'... and {len(lines) - 8} more'] if len(lines) > 8 else []
    raise StructureError(
      f'the checkpoint of step {step} in {self.directory} belongs to another configuration:\n  '
      + '\n  '.join(shown + more)
      + '\nGo on with the configuration it was made with, or use another work directory.'
    )

  def _set_aside(self, steps: list[int]) -> None:
    """Moves damaged checkpoints out of the way, so that their steps can be saved anew."""
    for step in steps:
      target = self.directory.parent / 'damaged' / str(step)
      target.parent.mkdir(exist_ok=True)
      shutil.rmtree(target, ignore_errors=True)
      (self.directory / str(step)).rename(target)
    if steps:
      self._manager.reload()

  def _save_error(self, step: int, error: Exception) -> CheckpointError:
    """Clears what the failed save left, and says what happened."""
    for part in self.directory.glob('*.orbax-checkpoint-tmp*'):
      shutil.rmtree(part, ignore_errors=True)
    self._manager.reload()
    steps = self.steps()
    left = f'step {steps[-1]} is intact' if steps else 'there is no earlier checkpoint'
    if _is_disk_full(error):
      reason, remedy = 'the disk is full', 'Free some space, then run the same command again'
    else:
      reason, remedy = f'{type(error).__name__}: {error}', 'Then run the same command again'
    return CheckpointError(
      f'could not save step {step} in {self.directory}: {reason}; {left}. {remedy} to go on.'
    )


def _is_disk_full(error: BaseException | None) -> bool:
  """Whether an error or its cause is 'no space left'; tensorstore reports that as text only."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
      return True
    if 'No space left on device' in str(error) or 'Disk quota exceeded' in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


def _to_numpy(leaf: Any, path: Any) -> np.ndarray:
  """A leaf's content on the host; for a typed key its `uint32` data."""
  if layout.is_key(leaf):
    return np.asarray(jax.random.key_data(leaf))
  if isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
    array = np.asarray(leaf)
    if array.dtype.kind not in 'OSU':
      return array
  raise TypeError(
    f'state{jax.tree_util.keystr(path)} is a {type(leaf).__name__}: only arrays, keys and numbers '
    'can be saved in a checkpoint; keep other things outside the state'
  )


def _describe(path: Any, leaf: Any) -> dict[str, Any]:
  """What a leaf is: path, shape, dtype, and the algorithm where it is a typed key."""
  array = _to_numpy(leaf, path)
  return {
    'path': jax.tree_util.keystr(path) or '.',
    'shape': list(array.shape),
    'dtype': array.dtype.name,
    'key': str(jax.random.key_impl(leaf)) if layout.is_key(leaf) else '',
  }


def _like(array: np.ndarray, leaf: Any) -> Any:
  """`array` as the type of leaf it takes the place of."""
  if layout.is_key(leaf):
    return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
  if isinstance(leaf, jax.Array):
    return jnp.asarray(array)
  if isinstance(leaf, np.ndarray):
    return array
  return array[()] if isinstance(leaf, np.generic) else type(leaf)(array.item())


def _crc32(content: Any) -> int:
  """Checksum of an array's bytes, or of JSON data."""
  if isinstance(content, np.ndarray):
    return zlib.crc32(np.ascontiguousarray(content).tobytes())
  return zlib.crc32(json.dumps(content, sort_keys=True).encode('utf-8'))
