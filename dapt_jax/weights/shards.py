"""The files of a zoo: what all networks share, and shards of weights with a record a network."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from dapt_jax import files
from dapt_jax.tasks import task as task_lib
from dapt_jax.training import workdir, writers

_SHARD = files.Pair(
  format='dapt_jax.zoo_shard',
  version=1,
  what='a shard of a zoo',
  suffix='.safetensors',
  required=('members',),
)
_HEAD = 'zoo.json'


def begin(stack: contextlib.ExitStack, root: pathlib.Path, wanted: dict[str, Any]) -> None:
  """Makes the directory of a zoo, or checks that it holds this one, and locks it.

  Args:
    stack: frees the lock at its end.
    root: the directory.
    wanted: the head of this zoo.

  Raises:
    WorkdirError: another job is at work there.
    ValueError: it holds another zoo; the entries that differ are named.
  """
  root.mkdir(parents=True, exist_ok=True)
  stack.enter_context(workdir.lock(root))
  path = root / _HEAD
  found = _read_head(path) if path.is_file() else wanted
  differing = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
  if differing:
    raise ValueError(
      f'{root} holds another zoo: {differing} differ; take another directory, or the settings in '
      'its zoo.json'
    )
  writers.write_json(path, wanted)


def is_there(root: pathlib.Path, number: int) -> bool:
  """Whether a shard is there and sound; half of one is trained again, a damaged one is an error."""
  if not all(p.is_file() for p in _SHARD.paths(_path(root, number))):
    return False
  _SHARD.load(_path(root, number))
  return True


def save(
  root: pathlib.Path,
  number: int,
  tasks: Sequence[task_lib.Task],
  origins: Sequence[tuple[int, int]],
  vectors: np.ndarray,
  loss: np.ndarray,
  accuracy: np.ndarray,
) -> float:
  """Writes a shard; returns the mean accuracy of its networks.

  Args:
    root: directory of the zoo.
    number: of the shard.
    tasks: of its networks.
    origins: (first weights, width) of each.
    vectors: f32[n, size], weights.
    loss: f32[n].
    accuracy: f32[n].

  Raises:
    FloatingPointError: weights are not finite.
  """
  if not np.isfinite(vectors).all():
    bad = int((~np.isfinite(vectors).all(1)).sum())
    raise FloatingPointError(
      f'{bad} of {len(vectors)} networks of shard {number} diverged; lower the learning rate'
    )
  records = [
    {
      **{'task': t.name, 'start': int(s), 'width': int(w)},
      **{'accuracy': round(float(a), 6), 'loss': round(float(v), 6)},
    }
    for t, (s, w), a, v in zip(tasks, origins, accuracy, loss)
  ]
  payload = safetensors.numpy.save({'weights': np.ascontiguousarray(vectors, np.float32)})
  _SHARD.save(_path(root, number), {'members': records}, payload)
  return float(accuracy.mean())


def read(root: pathlib.Path) -> tuple[dict[str, Any], list[dict[str, Any]], np.ndarray]:
  """(head, records, weights f32[N, size]) of a zoo.

  Raises:
    FileNotFoundError: if there is none, or shards are missing.
    ValueError: for a damaged file; the message names it.
  """
  if not (root / _HEAD).is_file():
    raise FileNotFoundError(f'{root} holds no zoo: {_HEAD} is missing; build one first')
  head = _read_head(root / _HEAD)
  size, shard = head['plan']['size'], head['plan']['shard']
  records, vectors = [], []
  for number in range(-(-size // shard)):
    found, payload = _SHARD.load(_path(root, number))
    records += found['members']
    vectors.append(safetensors.numpy.load(payload)['weights'])
  whole = np.concatenate(vectors)
  if len(whole) != size or len(records) != size:
    raise ValueError(
      f'{root}: {len(whole)} weights and {len(records)} records for {size} networks; remove its '
      'shards and build it again'
    )
  return head, records, whole


def _read_head(path: pathlib.Path) -> dict[str, Any]:
  try:
    head = json.loads(path.read_text(encoding='utf-8'))
    return {**head, 'plan': head['plan']}
  except (ValueError, TypeError, KeyError) as error:
    raise ValueError(
      f'{path} is damaged ({error!r}); remove it and build the zoo again with the same settings: '
      'sound shards are kept'
    ) from error


def _path(root: pathlib.Path, number: int) -> pathlib.Path:
  return root / f'shard-{number:04d}'
