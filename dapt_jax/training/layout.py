"""Layouts of state on devices: populations split along axis 0, and arrays of definite type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax import types

#: A prefix of a pytree with leaves None (replicated) or 0 (sharded along axis 0).
Axes = Any


def split(tree: Any, axes: Axes, num_devices: int, name: str = 'tree') -> Any:
  """Reshapes the sharded parts of a pytree, `[K, ...] -> [D, K/D, ...]`.

  Args:
    tree: a pytree of arrays.
    axes: prefix pytree; parts under 0 are reshaped, parts under None left as they are.
    num_devices: D.
    name: how error messages call the tree.

  Raises:
    ValueError: K is not divisible by D, or a sharded leaf has no axis.
  """
  check_divides(tree, axes, num_devices, name)

  def reshape(x):
    x = x if hasattr(x, 'reshape') else np.asarray(x)
    return x.reshape((num_devices, x.shape[0] // num_devices, *x.shape[1:]))

  visit = lambda axis, part: part if axis is None else jax.tree.map(reshape, part)
  return jax.tree.map(visit, axes, tree, is_leaf=is_axis)


def check_divides(tree: Any, axes: Axes, num_devices: int, name: str = 'tree') -> None:
  """Checks that the sharded parts of a pytree divide by a number of devices.

  Raises:
    ValueError: a part does not, or has no axis; names it.
  """

  def visit(path, axis, part):
    for inner, x in jax.tree_util.tree_leaves_with_path(part) if axis is not None else ():
      shape = np.shape(x)
      if not shape or shape[0] % num_devices:
        raise ValueError(
          f'{name}{jax.tree_util.keystr((*path, *inner))} has shape {shape} and is sharded along '
          f'axis 0, which does not divide by {num_devices} devices: make that axis a multiple of '
          f'{num_devices}, or give fewer devices (devices=jax.local_devices()[:n])'
        )

  jax.tree_util.tree_map_with_path(visit, axes, tree, is_leaf=is_axis)


def rows(tree: Any, axes: Axes, index: int, count: int) -> Any:
  """The sharded parts' rows of one process out of several: `[K, ...] -> [K / count, ...]`."""
  cut = lambda x: x[index * (len(x) // count) : (index + 1) * (len(x) // count)]
  visit = lambda axis, part: part if axis is None else jax.tree.map(cut, part)
  return tree if count == 1 else jax.tree.map(visit, axes, tree, is_leaf=is_axis)


def partition(tree: Any, axes: Axes) -> tuple[list[Any], list[Any]]:
  """(leaves of the replicated parts, leaves of the sharded parts); `join` is the inverse."""
  out: tuple[list[Any], list[Any]] = ([], [])
  visit = lambda axis, part: out[axis is not None].extend(jax.tree.leaves(part))
  jax.tree.map(visit, axes, tree, is_leaf=is_axis)
  return out


def join(replicated: Sequence[Any], sharded: Sequence[Any], axes: Axes, like: Any) -> Any:
  """The tree with the structure of `like` that `partition` took apart."""
  take = iter(replicated), iter(sharded)
  visit = lambda axis, part: jax.tree.map(lambda _: next(take[axis is not None]), part)
  return jax.tree.map(visit, axes, like, is_leaf=is_axis)


def as_arrays(tree: types.ArrayTree) -> types.ArrayTree:
  """Fresh jax arrays of every leaf, on the default device, never weakly typed.

  A weak type (a bare `1.0`) does not survive a checkpoint, so a resumed run could promote dtypes
  otherwise than an uninterrupted one.
  """

  def convert(x):
    if is_key(x):
      data = jnp.array(np.asarray(jax.random.key_data(x)))
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jnp.array(np.asarray(x), dtype=jnp.result_type(x))

  return jax.tree.map(convert, tree)


def differing_replicas(tree: Any, axes: Axes) -> list[str]:
  """Paths of leaves under None in `axes` whose copies differ by more than rounding."""
  found = []

  def visit(path, axis, part):
    if axis is not None:
      return
    for inner, leaf in jax.tree_util.tree_leaves_with_path(part):
      data = jax.random.key_data(leaf) if is_key(leaf) else leaf
      copies = [np.asarray(shard.data) for shard in data.addressable_shards]
      if not all(_same(copies[0], copy) for copy in copies[1:]):
        found.append(jax.tree_util.keystr((*path, *inner)))

  jax.tree_util.tree_map_with_path(visit, axes, tree, is_leaf=is_axis)
  return found


def fingerprints(tree: Any, axes: Axes) -> tuple[list[str], np.ndarray]:
  """(paths, f32[leaves, 2]) of the replicated leaves: mean and root of the mean square of each."""
  paths, rows_ = [], []

  def visit(path, axis, part):
    for inner, leaf in jax.tree_util.tree_leaves_with_path(part) if axis is None else ():
      data = jax.random.key_data(leaf) if is_key(leaf) else leaf
      x = np.asarray(data.addressable_data(0)).astype(np.float64)
      paths.append(jax.tree_util.keystr((*path, *inner)))
      rows_.append((x.mean(), np.sqrt(np.square(x).mean())) if x.size else (0, 0))

  jax.tree_util.tree_map_with_path(visit, axes, tree, is_leaf=is_axis)
  return paths, np.asarray(rows_, np.float32).reshape(-1, 2)


def check_same_structure(before: types.ArrayTree, after: types.ArrayTree) -> None:
  """Checks that a step returns the kind of state it was given; only then can a run be resumed.

  Args:
    before: the state a step was given.
    after: the state it returned.

  Raises:
    ValueError: trees, shapes, dtypes or weak types differ; names the leaves.
  """

  def kinds(tree):
    show = lambda x: f'{"weak " if getattr(x, "weak_type", False) else ""}{jnp.result_type(x)}'
    kind = lambda x: f'{x.dtype if is_key(x) else show(x)}{list(jnp.shape(x))}'
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): kind(leaf) for path, leaf in leaves}

  old, new = kinds(before), kinds(after)
  lines = [
    f'state{p}: {old.get(p, "absent")} in, {new.get(p, "absent")} out'
    for p in dict.fromkeys([*old, *new])
    if old.get(p) != new.get(p)
  ]
  trees = [str(jax.tree.structure(tree)) for tree in (before, after)]
  if not lines and trees[0] != trees[1]:
    lines = [f'{trees[0]} in, {trees[1]} out']
  if lines:
    raise ValueError(
      'update must return a state of the structure it was given:\n  '
      + '\n  '.join(lines)
      + '\nCast with .astype, or compile with runner.make_update, which makes weak types definite.'
    )


def is_axis(x: Any) -> bool:
  """Whether `x` is the leaf None of a prefix pytree, which JAX would take for an empty tree."""
  return x is None


def is_key(x: Any) -> bool:
  """Whether `x` is an array of typed keys (`jax.random.key`)."""
  return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
  """Equal up to rounding; whole numbers exactly."""
  if jnp.issubdtype(a.dtype, jnp.inexact):
    # numpy's own comparison does not know bfloat16
    wide = np.complex128 if jnp.issubdtype(a.dtype, jnp.complexfloating) else np.float64
    return np.allclose(a.astype(wide), b.astype(wide), rtol=1e-4, atol=1e-6, equal_nan=True)
  return np.array_equal(a, b)
