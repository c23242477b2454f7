"""What a checkpoint says about its leaves: path, shape, dtype, kind of key, checksum."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax import types
from dapt_jax.training import layout

#: What is written down about a leaf; see `describe`.
Entry = dict[str, Any]


def snapshot(state: types.ArrayTree) -> tuple[list[Entry], list[np.ndarray]]:
  """Copies a state to the host.

  Args:
    state: any pytree of jax or numpy arrays, typed or raw keys, and Python numbers.

  Returns:
    For every leaf its entry (without a checksum) and its content. The arrays share no memory with
    the state, which may therefore be donated or changed at once.

  Raises:
    TypeError: a leaf is none of the above.
  """
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return describe(state), [np.array(to_numpy(leaf, path)) for path, leaf in leaves]


def describe(state: types.ArrayTree) -> list[Entry]:
  """For every leaf: path, shape, dtype, and the algorithm where it is a typed key.

  Raises:
    TypeError: a leaf is no array, key or number.
  """
  out = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    array = to_numpy(leaf, path)
    out.append(
      {
        'path': jax.tree_util.keystr(path) or '.',
        'shape': list(array.shape),
        'dtype': array.dtype.name,
        'key': str(jax.random.key_impl(leaf)) if layout.is_key(leaf) else '',
      }
    )
  return out


def differences(saved: Sequence[Entry], wanted: Sequence[Entry]) -> list[str]:
  """A line for every leaf in which two lists of entries differ; empty for the same structure."""
  kind = lambda e: f'{e["dtype"]}{list(e["shape"])}' + (f' key({e["key"]})' if e['key'] else '')
  old, new = ({entry['path']: kind(entry) for entry in entries} for entries in (saved, wanted))
  if list(old.items()) == list(new.items()):
    return []
  return [
    f'{path}: {old.get(path, "nothing")} saved, {new.get(path, "nothing")} expected'
    for path in dict.fromkeys([*new, *old])
    if old.get(path) != new.get(path)
  ] or ['the same leaves in another order']


def part(state: types.ArrayTree, name: str) -> str | None:
  """The path of the part of a state that is called so (`".params"`, `"['params']"`), if any."""
  for path, _ in jax.tree_util.tree_leaves_with_path(state):
    if path and name in (getattr(path[0], 'name', None), getattr(path[0], 'key', None)):
      return jax.tree_util.keystr(path[:1])
  return None


def belongs(entry: Entry, to: str) -> bool:
  """Whether a leaf is in the part of a state at a path, as `part` gives it; '' is the whole."""
  path = entry['path']
  return not to or (path.startswith(to) and path[len(to) :][:1] in ('', '.', '['))


def to_numpy(leaf: Any, path: Any) -> np.ndarray:
  """A leaf's content on the host, perhaps its own memory; for a typed key its `uint32` data.

  Raises:
    TypeError: the leaf is no array, key or number.
  """
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


def like(array: np.ndarray, leaf: Any) -> Any:
  """`array` as the type of leaf it takes the place of."""
  if layout.is_key(leaf):
    return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
  if isinstance(leaf, jax.Array):
    return jnp.asarray(array)
  if isinstance(leaf, np.ndarray):
    return array
  return array[()] if isinstance(leaf, np.generic) else type(leaf)(array.item())


def crc32(content: Any) -> int:
  """Checksum of an array's bytes, or of JSON data."""
  if isinstance(content, np.ndarray):
    return zlib.crc32(np.ascontiguousarray(content).reshape(-1).view(np.uint8).data)
  return zlib.crc32(json.dumps(content, sort_keys=True).encode('utf-8'))
