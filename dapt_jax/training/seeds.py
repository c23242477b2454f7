"""Named random keys: every use of randomness gets its own key, found by name."""

from __future__ import annotations

import zlib

import jax

from dapt_jax import types


def key(seed: int | types.PRNGKey, name: str) -> types.PRNGKey:
  """The key that belongs to `name` under `seed`.

  The name enters through its CRC-32 checksum, which is the same in every process and Python version
  (unlike `hash`), and `jax.random.fold_in`.

  Args:
    seed: an integer, or a key (to derive names below a name).
    name: any non-empty string.

  Returns:
    A typed key, shape `()`.

  Raises:
    TypeError: `seed` is neither an integer nor a key.
    ValueError: `name` is empty or no string.
  """
  if not isinstance(name, str) or not name:
    raise ValueError(f'a key needs a non-empty name, got {name!r}')
  if isinstance(seed, bool | float | str) or seed is None:
    raise TypeError(f'seed must be an integer or a jax.random key, got {seed!r}')
  root = seed if isinstance(seed, jax.Array) else jax.random.key(int(seed))
  return jax.random.fold_in(root, zlib.crc32(name.encode('utf-8')))


def keys(seed: int | types.PRNGKey, *names: str) -> dict[str, types.PRNGKey]:
  """One independent key per name.

  A key depends on the seed and its own name only: adding, removing or reordering names leaves the
  other keys as they were, so a new source of randomness does not change the results of an old one.

  Args:
    seed: an integer, or a key.
    *names: distinct non-empty strings.

  Returns:
    `{name: key}`, typed keys of shape `()`.

  Raises:
    TypeError: `seed` is neither an integer nor a key.
    ValueError: a name is empty, comes twice, or two names share a checksum.
  """
  owner: dict[int, str] = {}
  for name in names:
    other = owner.setdefault(zlib.crc32(str(name).encode('utf-8')), name)
    if other is not name and other != name:
      raise ValueError(f'names {other!r} and {name!r} share a checksum: rename one of them')
  if len(set(names)) != len(names):
    raise ValueError(f'each name may be given once, got {list(names)}')
  return {name: key(seed, name) for name in names}
