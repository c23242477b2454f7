"""The order of the weights of networks of one kind, as one vector; widths may differ."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.types import Params

#: {path: leaf}
Table = dict[tuple[str, ...], Any]


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One array of the parameters.

  Attributes:
    path: keys of the nested dicts that lead to it.
    shape: the largest in all networks; None where no network has it (a branch that was cut).
    dtype: of what is decoded.
    coded: whether it is encoded; statistics of normalisation are not.
  """

  path: tuple[str, ...]
  shape: tuple[int, ...] | None
  dtype: str
  coded: bool

  @property
  def name(self) -> str:
    """The path with slashes."""
    return '/'.join(self.path)

  @property
  def size(self) -> int:
    """Number of weights."""
    return 0 if self.shape is None else int(np.prod(self.shape))


@dataclasses.dataclass(frozen=True)
class Layout:
  """The order of the weights of networks of one kind.

  Narrower networks fill the leading entries of every axis of a leaf; the rest is padding.

  Attributes:
    leaves: in the order of the pytree.
  """

  leaves: tuple[Leaf, ...]

  @classmethod
  def of(cls, trees: Sequence[Params]) -> Layout:
    """The layout that holds all these networks (arrays or `jax.ShapeDtypeStruct`).

    Args:
      trees: parameters of one structure; shapes may differ, None is a leaf that a network lacks.

    Raises:
      TypeError: for leaves that are not in nested dicts, or not real numbers.
      ValueError: for networks of different structures.
    """
    tables = [_table(t) for t in trees]
    for table in tables[1:]:
      _check_same(set(tables[0]), set(table))
    some = any(path[0] == 'params' for path in tables[0])
    leaves = tuple(
      _largest(path, [t[path] for t in tables], not some or path[0] == 'params')
      for path in tables[0]
    )
    if not any(leaf.size for leaf in leaves if leaf.coded):
      raise ValueError('the networks have no weights to encode; pass variables as model.init gives')
    return cls(leaves)

  @functools.cached_property
  def coded(self) -> tuple[Leaf, ...]:
    """The leaves that are encoded."""
    return tuple(leaf for leaf in self.leaves if leaf.coded)

  @functools.cached_property
  def size(self) -> int:
    """Number of weights D."""
    return sum(leaf.size for leaf in self.coded)

  def flatten(self, params: Params) -> jax.Array:
    """Weights as vectors f32[..., D]; leading axes that all leaves share are kept.

    Raises:
      ValueError: for parameters of another structure, or leaves that are larger.
    """
    table = self.check(params)
    lead = self.lead(table)
    parts = [_widened(table[leaf.path], leaf, lead) for leaf in self.coded if leaf.size]
    return jnp.concatenate([p.reshape(*lead, -1) for p in parts], axis=-1)

  def unflatten(self, vector: jax.Array, rest: Any, like: Params = None) -> Params:
    """The inverse of `flatten`.

    Args:
      vector: f32[..., D].
      rest: f32[R], what is not coded.
      like: parameters (or shapes) of a network whose widths are wanted; None: the largest.
    """
    lead = vector.shape[:-1]
    shapes = {leaf.path: leaf.shape for leaf in self.leaves}
    if like is not None:
      self.lead(self.check(like), ())
      shapes = {p: None if x is None else tuple(x.shape) for p, x in _table(like).items()}
    rest = jnp.broadcast_to(jnp.asarray(rest), (*lead, len(rest)))
    starts = {True: 0, False: 0}
    out: dict[str, Any] = {}
    for leaf in self.leaves:
      start = starts[leaf.coded]
      starts[leaf.coded] += leaf.size
      if leaf.path not in shapes:  # statistics that `like` comes without
        continue
      shape, array = shapes[leaf.path], None
      if shape is not None:
        part = (vector if leaf.coded else rest)[..., start : start + leaf.size]
        whole = part.reshape(*lead, *(leaf.shape or ()))
        array = whole[(..., *(slice(n) for n in shape))].astype(leaf.dtype)
      _put(out, leaf.path, array)
    return out

  def mask(self, params: Params) -> np.ndarray:
    """bool[D]: the weights that a network (arrays or shapes, without leading axes) has."""
    table = self.check(params)
    self.lead(table, ())
    parts = []
    for leaf in self.coded:
      there = np.zeros((0,) if leaf.shape is None else leaf.shape, bool)
      if table[leaf.path] is not None:
        there[tuple(slice(n) for n in table[leaf.path].shape)] = True
      parts.append(there.reshape(-1))
    return np.concatenate(parts)

  def single(self, params: Params) -> Params:
    """Shapes of one of the networks that share leading axes."""
    axes = len(self.lead(self.check(params)))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[axes:], x.dtype), params)

  def check(self, params: Params) -> Table:
    """The leaves by path, None for statistics that are missing; ValueError for other structures."""
    rest = {leaf.path: None for leaf in self.leaves if not leaf.coded}
    table = rest | _table(params)
    _check_same({leaf.path for leaf in self.leaves}, set(table))
    return table

  def lead(self, table: Table, wanted: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The leading axes that all leaves have in common; raises ValueError for leaves too large."""
    for leaf in self.leaves:
      array = table[leaf.path]
      if array is None:
        continue
      own = len(leaf.shape or ())
      found = tuple(array.shape[: max(array.ndim - own, 0)])
      wanted = found if wanted is None else wanted
      shape = tuple(array.shape[len(found) :])
      fits = leaf.shape is not None and len(shape) == own
      if not fits or any(n > most for n, most in zip(shape, leaf.shape or ())) or found != wanted:
        raise ValueError(
          f'leaf {leaf.name!r} has shape {tuple(array.shape)}; the codec was fitted to networks '
          f'with at most {leaf.shape} there, after leading axes {wanted}; fit one that includes '
          'networks like this'
        )
    return wanted or ()


def without_lead(stack: Params) -> Params:
  """Shapes of one network of a stack."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stack)


def _table(tree: Params) -> Table:
  """{path: leaf}, None leaves included."""
  found = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)[0]
  out = {}
  for path, leaf in found:
    if not path or not all(isinstance(getattr(k, 'key', None), str) for k in path):
      raise TypeError(
        f'params has a leaf at {jax.tree_util.keystr(path)!r}; the codec takes nested dicts with '
        'string keys, as the models of the package have'
      )
    dtype = getattr(leaf, 'dtype', np.dtype(object))
    if leaf is not None and not jnp.issubdtype(dtype, jnp.floating):
      raise TypeError(
        f'leaf {jax.tree_util.keystr(path)!r} is {type(leaf).__name__} of dtype '
        f'{dtype}; weights must be arrays of real numbers'
      )
    out[tuple(k.key for k in path)] = leaf
  return out


def _check_same(wanted: set[tuple[str, ...]], found: set[tuple[str, ...]]) -> None:
  if wanted != found:
    missing, extra = (['/'.join(p) for p in sorted(s)] for s in (wanted - found, found - wanted))
    raise ValueError(
      f'params has another structure: leaves {missing} are missing, {extra} are not known; pass '
      'parameters of the model that the codec was fitted to'
    )


def _largest(path: tuple[str, ...], arrays: Sequence[Any], coded: bool) -> Leaf:
  """The leaf that holds all of these."""
  there = [a for a in arrays if a is not None]
  if not there:
    return Leaf(path, None, 'float32', coded)
  if len({a.ndim for a in there}) > 1:
    raise ValueError(
      f'leaf {"/".join(path)!r} has shapes {[tuple(a.shape) for a in there]}; networks of one '
      'codec may differ in widths, not in axes'
    )
  shape = tuple(int(n) for n in np.max([a.shape for a in there], axis=0)) if there[0].ndim else ()
  return Leaf(path, shape, str(there[0].dtype), coded)


def _widened(array: Any, leaf: Leaf, lead: tuple[int, ...]) -> jax.Array:
  """f32, with zeros after the entries of every axis, up to the shape of the layout."""
  shape = leaf.shape or ()
  if array is None:  # a leaf that this network lacks
    return jnp.zeros((*lead, *shape), jnp.float32)
  array = jnp.asarray(array, jnp.float32)
  missing = [0] * len(lead) + [n - m for n, m in zip(shape, array.shape[len(lead) :])]
  return jnp.pad(array, [(0, n) for n in missing]) if any(missing) else array


def _put(tree: dict[str, Any], path: Sequence[str], leaf: Any) -> None:
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = leaf
