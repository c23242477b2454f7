"""Distances between networks: standardised weights, nearest neighbours, spread."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_STILL = 1e-3  # share of the typical deviation below which a weight counts as never moved


class Neighbours(NamedTuple):
  """The nearest networks of a zoo, nearest first.

  Attributes:
    distance: f32[N, m].
    rows: i32[N, m], numbers in the zoo.
  """

  distance: jax.Array
  rows: jax.Array


def standardise(vectors: jax.Array, zoo: jax.Array) -> jax.Array:
  """Weights f32[..., size] in standard deviations over the zoo f32[Z, size], from its mean.

  Weights that hardly vary over the zoo (below a thousandth of the root mean square deviation, such
  as those of pixels that are always black) become 0, so that rounding in them does not count.
  """
  std = zoo.std(0)
  moves = std > _STILL * jnp.sqrt(jnp.square(std).mean())
  return jnp.where(moves, (vectors - zoo.mean(0)) / jnp.where(moves, std, 1.0), 0.0)


def nearest(
  vectors: jax.Array,
  zoo: jax.Array,
  m: int = 1,
  *,
  own: jax.Array | None = None,
  group: int = 256,
) -> Neighbours:
  """The m nearest networks of the zoo. Blocks of one matrix product each: no [N, Z] array is kept.

  Candidates come from the product; their distances are then taken entry by entry, so that a copy
  is at distance 0 exactly.

  Args:
    vectors: f32[N, size], standardised.
    zoo: f32[Z, size], standardised.
    m: neighbours.
    own: i32[N], rows of the zoo that the vectors themselves are, and which are left out (distances
      within a zoo); None for others.
    group: vectors a block.

  Raises:
    ValueError: for sizes that differ, or more neighbours than there are.
  """
  vectors, zoo = jnp.asarray(vectors), jnp.asarray(zoo)
  if vectors.ndim != 2 or zoo.ndim != 2 or vectors.shape[1] != zoo.shape[1]:
    raise ValueError(
      f'vectors have shape {vectors.shape} and the zoo {zoo.shape}; both must be [networks, size]'
    )
  there = len(zoo) - (own is not None)
  if not 1 <= m <= there:
    raise ValueError(f'm is {m}; it must be between 1 and the {there} networks to compare with')
  own = jnp.full(len(vectors), -1) if own is None else jnp.asarray(own)
  return _nearest(vectors, zoo, own, m, group)


@functools.partial(jax.jit, static_argnames=('m', 'group'))
def _nearest(vectors, zoo, own, m, group) -> Neighbours:
  squares = jnp.square(zoo).sum(1)

  def one(args: tuple[jax.Array, jax.Array]) -> Neighbours:
    vector, row = args
    apart = squares - 2.0 * jnp.dot(zoo, vector, precision=lax.Precision.HIGHEST)
    index = lax.top_k(-jnp.where(jnp.arange(len(zoo)) == row, jnp.inf, apart), m)[1]
    exact = lax.map(lambda i: jnp.linalg.norm(zoo[i] - vector), index)
    order = jnp.argsort(exact)
    return Neighbours(exact[order], index[order])

  return lax.map(one, (vectors, own), batch_size=group)


@jax.jit
def spread(vectors: jax.Array) -> jax.Array:
  """Mean distance f32[T] between the networks f32[T, k, size] of a task, two different ones."""
  k = vectors.shape[1]

  def one(own: jax.Array) -> jax.Array:
    own = own - own.mean(0)
    products = jnp.dot(own, own.T, precision=lax.Precision.HIGHEST)
    squares = jnp.diag(products)
    apart = jnp.sqrt(jnp.maximum(squares[:, None] + squares - 2.0 * products, 0.0))
    return (apart * (1.0 - jnp.eye(k))).sum() / (k * (k - 1))

  return lax.map(one, vectors)
