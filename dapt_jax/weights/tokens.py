"""Tokens: pieces of a weight vector that respect layers and output units."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.weights import layout as layout_lib

#: Longest token that is chosen unless told otherwise.
_LONGEST = 256


@dataclasses.dataclass(frozen=True)
class Tokens:
  """How the weights of a layout are cut into tokens of one length.

  A token holds weights of one output unit, its kernel entries first and then its bias: all of them
  where they fit, else a part. (Similar to the rows of Schuerholt et al., 2024, "SANE".) Several
  units share a token only where `of` is told which weights belong to classes.

  Attributes:
    chunk: length of a token.
    size: number of weights D.
    slot: i64[D], where in the flat tokens every weight stands.
    layer: i32[tokens], number of the layer.
    place: i32[tokens], number of the token inside its layer.
    layers: names of the layers.
  """

  chunk: int
  size: int
  slot: np.ndarray
  layer: np.ndarray
  place: np.ndarray
  layers: tuple[str, ...]

  @classmethod
  def of(
    cls,
    layout: layout_lib.Layout,
    chunk: int | None = None,
    owners: np.ndarray | None = None,
  ) -> Tokens:
    """Cuts a layout.

    Args:
      layout: of the networks.
      chunk: length of a token; None takes the longest row of an output unit, at most 256.
      owners: i[D], the class that a weight belongs to, -1 for none: units without a class then
        share tokens, as many whole ones as fit. None: every unit has tokens of its own.

    Raises:
      ValueError: for another chunk.
    """
    rows = list(_rows(layout))
    if chunk is None:
      chunk = min(max(index.shape[1] for _, index in rows), _LONGEST)
    if isinstance(chunk, bool) or not isinstance(chunk, int | np.integer) or chunk < 1:
      raise ValueError(f'chunk is {chunk!r}; the length of a token must be a positive integer')
    slot, token = np.zeros(layout.size, np.int64), 0
    counts: dict[str, int] = {}
    for name, index in rows:
      if owners is not None and (owners[index] < 0).all():
        index = _together(index, max(chunk // index.shape[1], 1))
      column = np.arange(index.shape[1])
      parts = -(-len(column) // chunk)
      first = token + parts * np.arange(len(index))[:, None]
      there = index >= 0
      slot[index[there]] = ((first + column // chunk) * chunk + column % chunk)[there]
      token += parts * len(index)
      counts[name] = counts.get(name, 0) + parts * len(index)
    layer = np.repeat(np.arange(len(counts), dtype=np.int32), [*counts.values()])
    place = np.concatenate([np.arange(n, dtype=np.int32) for n in counts.values()])
    return cls(int(chunk), layout.size, slot, layer, place, tuple(counts))

  @property
  def shape(self) -> tuple[int, int]:
    """(tokens, chunk)."""
    return len(self.layer), self.chunk

  @property
  def sizes(self) -> tuple[int, ...]:
    """Tokens of every layer."""
    return tuple(np.bincount(self.layer).tolist())

  @functools.cached_property
  def source(self) -> np.ndarray:
    """i64[tokens * chunk]: which weight stands there, D for padding."""
    out = np.full(int(np.prod(self.shape)), self.size)
    out[self.slot] = np.arange(self.size)
    return out

  def owners(self, of_weights: np.ndarray) -> np.ndarray:
    """i64[tokens]: the class that all weights of a token belong to, -1 where there is none.

    Args:
      of_weights: i[D], of every weight, -1 for none.
    """
    padding = (self.source == self.size).reshape(self.shape)
    found = np.append(of_weights, -1)[self.source].reshape(self.shape)
    seen = np.ma.array(found, mask=padding)
    least, most = seen.min(1).filled(-1), seen.max(1).filled(-1)
    return np.where(least == most, least, -1)

  def pack(self, vector: jax.Array) -> jax.Array:
    """[..., D] to [..., tokens, chunk], padded with zeros (False)."""
    padded = jnp.concatenate([vector, jnp.zeros((*vector.shape[:-1], 1), vector.dtype)], axis=-1)
    return padded[..., self.source].reshape(*vector.shape[:-1], *self.shape)

  def unpack(self, tokens: jax.Array) -> jax.Array:
    """The inverse of `pack`; padding is dropped."""
    return tokens.reshape(*tokens.shape[:-2], -1)[..., self.slot]


def _together(index: np.ndarray, units: int) -> np.ndarray:
  """i64[units, values] with so many units a row, -1 where the last row has fewer."""
  padded = np.pad(index, ((0, -len(index) % units), (0, 0)), constant_values=-1)
  return padded.reshape(-1, units * index.shape[1])


def _rows(layout: layout_lib.Layout) -> Iterator[tuple[str, np.ndarray]]:
  """(layer, i64[units, values]): numbers of the weights of its output units."""
  layers: dict[str, list[np.ndarray]] = {}
  start = 0
  for leaf in layout.coded:
    if leaf.size:
      index = np.arange(start, start + leaf.size).reshape(leaf.shape or ())
      layers.setdefault('/'.join(leaf.path[:-1]), []).append(index)
    start += leaf.size
  for name, found in layers.items():
    for units in _units(found):
      yield name, units


def _units(found: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
  """The leaves of one layer as i64[units, values].

  Leaves whose trailing axes are the shape of the bias share rows. Another kernel has a row per
  entry of its last axis, vectors alone (of a normalisation) are one row each.
  """
  own = min((x.shape for x in found), key=len)
  joined = [x for x in found if own and x.shape[-len(own) :] == own]
  if not any(x.ndim > len(own) for x in joined):
    joined = []
  if joined:
    kernels_first = sorted(joined, key=lambda x: -x.ndim)
    yield np.concatenate([x.reshape(-1, int(np.prod(own))) for x in kernels_first]).T
  for index in found:
    if not any(index is x for x in joined):
      yield index.reshape(-1, index.shape[-1]).T if index.ndim > 1 else index.reshape(1, -1)
