"""Checkpoints as Orbax keeps them: one folder per step, whole or not there."""

from __future__ import annotations

import errno
import math
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dapt_jax.training import manifest

#: Orbax stores neither an empty tree nor zero-size arrays; this entry keeps the tree non-empty.
_STEP = 'step'
#: The bytes of all leaves of less than `_SMALL` bytes, one after the other. An array costs Orbax a
#: few milliseconds and files of its own, and tensorstore (0.1.86) loses about 300 bytes of memory
#: for each it opens: 150 leaves a minute are 3 MB an hour, and their pages cannot be given back.
_PACKED = 'packed'
_SMALL = 1_000_000
#: Ends the name of a checkpoint that is being written or removed, or was when its process died.
_UNFINISHED = '.orbax-checkpoint-tmp'


class Disk:
  """A directory of checkpoints, each of arrays and a manifest with their checksums.

  Where there are several processes, one of them opens it.
  """

  def __init__(self, directory: pathlib.Path):
    """Opens a directory that exists."""
    self.directory = directory
    # Of several processes the one that opens the directory works alone; Orbax would wait for all.
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
      primary_host=own, active_processes={own}, barrier_sync_key_prefix=f'process{own}'
    )
    self._manager = ocp.CheckpointManager(
      directory,
      options=ocp.CheckpointManagerOptions(
        create=False, enable_async_checkpointing=False, multiprocessing_options=alone
      ),
    )

  def steps(self) -> list[int]:
    """Steps of the committed checkpoints, ascending."""
    return sorted(self._manager.all_steps())

  def write(
    self,
    step: int,
    entries: Sequence[manifest.Entry],
    arrays: Sequence[np.ndarray],
    about: Mapping[str, Any],
  ) -> None:
    """Writes and commits a checkpoint.

    Args:
      step: above those that are there.
      entries: of the leaves, from `manifest.snapshot`.
      arrays: their contents.
      about: JSON data on the run and the step.
    """
    self.clear_unfinished()
    leaves = [{**e, 'crc32': manifest.crc32(a)} for e, a in zip(entries, arrays, strict=True)]
    stored = {_STEP: np.asarray(step)}
    stored |= {str(i): array for i, array in enumerate(arrays) if array.nbytes >= _SMALL}
    small = [np.ravel(a).view(np.uint8) for a in arrays if 0 < a.nbytes < _SMALL]
    if small:
      stored[_PACKED] = np.concatenate(small)
    content = {'leaves': leaves, 'about': dict(about)}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        arrays=ocp.args.StandardSave(stored),
        manifest=ocp.args.JsonSave({**content, 'crc32': manifest.crc32(content)}),
      ),
    )

  def arrays(self, step: int, entries: Sequence[manifest.Entry]) -> dict[int, np.ndarray]:
    """The arrays of a checkpoint by the place of their leaf; empty arrays are left out.

    Args:
      step: of the checkpoint.
      entries: its leaves, from its manifest.

    Raises:
      ValueError: the bytes of small leaves are not as many as the entries say. Other damage raises
        whatever Orbax makes of it.
    """
    saved = self._manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore()))
    stored = {name: np.asarray(array) for name, array in saved['arrays'].items()}
    out = {int(name): array for name, array in stored.items() if name.isdecimal()}
    packed, start = stored.get(_PACKED, np.zeros(0, np.uint8)), 0
    for i, entry in enumerate(entries):
      dtype, shape = jnp.dtype(entry['dtype']), tuple(entry['shape'])
      size = math.prod(shape) * dtype.itemsize
      if size and i not in out:
        out[i] = packed[start : start + size].copy().view(dtype).reshape(shape)
        start += size
    if start != packed.size:
      raise ValueError(f'{packed.size} bytes of small leaves where there must be {start}')
    return out

  def manifest(self, step: int) -> dict[str, Any]:
    """The manifest of a checkpoint: 'leaves' (entries with checksums) and 'about'.

    Raises:
      ValueError: its checksum does not match. Other damage raises whatever Orbax makes of it.
    """
    saved = self._manager.restore(step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore()))
    content = {name: value for name, value in saved['manifest'].items() if name != 'crc32'}
    checked = content if 'about' in content else content['leaves']  # as written before `about` was
    if manifest.crc32(checked) != saved['manifest']['crc32']:
      raise ValueError('checksum of the manifest does not match')
    return content

  def delete(self, step: int) -> None:
    """Removes a checkpoint, at once: a process killed meanwhile leaves no half of it."""
    (self.directory / str(step)).rename(self.directory / f'{step}{_UNFINISHED}')
    self.clear_unfinished()

  def set_aside(self, steps: Sequence[int]) -> None:
    """Moves checkpoints to `damaged/` beside the directory; their steps can be saved anew."""
    for step in steps:
      target = self.directory.parent / 'damaged' / str(step)
      target.parent.mkdir(exist_ok=True)
      shutil.rmtree(target, ignore_errors=True)
      (self.directory / str(step)).rename(target)
    if steps:
      self._manager.reload()

  def clear_unfinished(self) -> None:
    """Removes what saves and removals left that failed, or whose process died."""
    for path in self.directory.glob(f'*{_UNFINISHED}*'):
      shutil.rmtree(path, ignore_errors=True)
    self._manager.reload()

  def close(self) -> None:
    """Releases Orbax's resources."""
    self._manager.close()


def is_full(error: BaseException | None) -> bool:
  """Whether an error or its cause is 'no space left'; tensorstore reports that as text only."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
      return True
    if 'No space left on device' in str(error) or 'Disk quota exceeded' in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False
