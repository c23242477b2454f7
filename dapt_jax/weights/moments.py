"""Means and deviations of weights over a zoo whose networks may have several widths."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from dapt_jax.types import Params
from dapt_jax.weights import layout as layout_lib

#: Deviations below this share of their leaf's are those of weights that never learned.
_FLOOR = 1e-3


@dataclasses.dataclass(frozen=True)
class Zoo:
  """Stacks of networks and their layout.

  Attributes:
    layout: that holds all of them.
    tables: {path: array with leading axis N, or None} of every stack.
    networks: how many there are.
  """

  layout: layout_lib.Layout
  tables: tuple[layout_lib.Table, ...]
  networks: int

  @classmethod
  def of(cls, stacks: Sequence[Params]) -> Zoo:
    """Checks the stacks.

    Raises:
      TypeError: for something else than nested dicts of real arrays.
      ValueError: without networks, or if they do not fit each other or are not finite.
    """
    if not stacks:
      raise ValueError('no networks; pass parameters with a leading axis N')
    for stack in stacks:
      if any(np.ndim(x) < 1 for x in jax.tree.leaves(stack)):
        raise ValueError('a leaf is a single number; every leaf needs a leading axis N of networks')
    layout = layout_lib.Layout.of([layout_lib.without_lead(s) for s in stacks])
    tables = tuple(layout.check(s) for s in stacks)
    networks = 0
    for table in tables:
      (size,) = layout.lead(table)
      networks += size
      _check_finite(table)
    return cls(layout, tables, networks)

  def standard(self, per_leaf: bool) -> tuple[np.ndarray, np.ndarray]:
    """(means f32[D], deviations f32[D]); a weight that never varies has deviation 1.

    Deviations are at least a thousandth of their leaf's: the others are noise of weights that the
    data did not move, and would fill a code with it.
    """
    means, deviations = [], []
    for leaf in self.layout.coded:
      count, mean, square = (x.reshape(-1) for x in self._moments(leaf))
      if per_leaf and len(count):
        whole = (count * mean).sum() / count.sum()
        spread = (count * (square + (mean - whole) ** 2)).sum() / count.sum()
        mean, square = np.full_like(mean, whole), np.full_like(square, spread)
      std = np.sqrt(square)
      typical = np.sqrt((count * square).sum() / max(count.sum(), 1))
      std = np.maximum(std, _FLOOR * typical)
      means.append(mean)
      deviations.append(np.where(std > 1e-12, std, 1.0))
    return _joined(means), _joined(deviations)

  def rest(self) -> np.ndarray:
    """f32[R], means of the leaves that are not encoded."""
    parts = [self._moments(leaf)[1].reshape(-1) for leaf in self.layout.leaves if not leaf.coded]
    return _joined(parts)

  def _moments(self, leaf: layout_lib.Leaf) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(networks that have it, mean, variance) of every entry of a leaf, f64."""
    if leaf.shape is None:
      return np.zeros(0), np.zeros(0), np.zeros(0)
    count, total, square = (np.zeros(leaf.shape) for _ in range(3))
    for corner, array in self._arrays(leaf):
      count[corner] += len(array)
      total[corner] += array.sum(axis=0, dtype=np.float64)
    mean = total / np.maximum(count, 1)
    for corner, array in self._arrays(leaf):
      square[corner] += ((array - mean[corner]) ** 2).sum(axis=0)
    return count, mean, square / np.maximum(count, 1)

  def _arrays(self, leaf: layout_lib.Leaf) -> Iterator[tuple[Any, np.ndarray]]:
    """(the entries that a stack has, its array)."""
    for table in self.tables:
      if table[leaf.path] is not None:
        array = np.asarray(table[leaf.path], np.float32)
        yield (*(slice(n) for n in array.shape[1:]), ...), array


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
  return np.concatenate([np.zeros(0), *parts]).astype(np.float32)


def _check_finite(table: layout_lib.Table) -> None:
  for path, array in table.items():
    if array is not None:
      array = np.asarray(array, np.float32)
      bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
      if len(bad):
        raise ValueError(
          f'networks {bad[:8].tolist()} are not finite in leaf {"/".join(path)!r}: they have '
          'diverged; leave them out of the zoo'
        )
