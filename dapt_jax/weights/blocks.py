"""Channels that may change places: where they lie in the parameters, and moving them there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from dapt_jax.graph import groups


@dataclasses.dataclass(frozen=True)
class Place:
  """Where exchangeable gates lie on one axis of one leaf of the parameters.

  Attributes:
    leaf: number of the leaf.
    axis: its axis.
    positions: i64[gates, count], the positions of every gate.
  """

  leaf: int
  axis: int
  positions: np.ndarray


@dataclasses.dataclass(frozen=True)
class Block:
  """Gates of one group that may be exchanged among each other: they show in the same places.

  A group is one block, unless some layers see a part of it only (a stage of a residual network).

  Attributes:
    group: name of the group.
    gates: i64[k], increasing.
    places: everything that moves with them.
  """

  group: str
  gates: np.ndarray
  places: tuple[Place, ...]


def moved(
  blocks: Iterable[Block],
  stack: Mapping[int, np.ndarray],
  moves: Iterable[np.ndarray | None],
) -> dict[int, np.ndarray]:
  """Reorders the leaves of N networks.

  Args:
    blocks: what is exchanged.
    stack: {number of the leaf: array with leading axis N}; all that the blocks touch.
    moves: for every block i64[N, k], entry i says which gate of the block comes to place i; None
      leaves it as it is.

  Returns:
    New leaves by number; those that nothing moves are the given ones.
  """
  out = dict(stack)
  for block, move in zip(blocks, moves):
    if move is not None:
      for place in block.places:
        out[place.leaf] = _reordered(out[place.leaf], place, move)
  return out


def _reordered(leaf: np.ndarray, place: Place, move: np.ndarray) -> np.ndarray:
  size, axis = leaf.shape[place.axis + 1], place.axis + 1
  index = np.tile(np.arange(size), (len(move), 1))
  index[:, place.positions] = place.positions[move]
  if len(leaf) == 1:
    return leaf.take(index[0], axis)
  shape = [len(index) if i == 0 else size if i == axis else 1 for i in range(leaf.ndim)]
  return np.take_along_axis(leaf, index.reshape(shape), axis)


def of_group(group: groups.Group) -> list[Block]:
  """The gates of a group by the slices that show them, and how often."""
  counts = [np.bincount(s.index, minlength=group.width) for s in group.slices]
  kinds = np.unique(np.stack(counts, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
  out = []
  for kind in range(kinds.max() + 1):
    gates, places = np.flatnonzero(kinds == kind), []
    for piece in group.slices:
      shown = np.isin(piece.index, gates)
      positions, index = piece.positions[shown], piece.index[shown]
      ordered = positions[np.lexsort((positions, index))]
      if len(ordered):
        places.append(Place(piece.leaf, piece.axis, ordered.reshape(len(gates), -1)))
    out.append(Block(group.name, gates, tuple(places)))
  return out
