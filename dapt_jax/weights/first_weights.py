"""First weights of the networks of a zoo: one for all, one of a few, or each network's own."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.training import seeds
from dapt_jax.types import PRNGKey
from dapt_jax.weights import members
from dapt_jax.weights import widths as widths_lib

#: Where first weights come from: ones that networks share, or each network's own.
STARTS = ('shared', 'independent')


class Drawn(NamedTuple):
  """First weights of some networks, and what they are.

  Attributes:
    vectors: f32[N, size].
    start: i64[N], which of the shared ones; 0 where networks have their own.
    width: i64[N], which of the models.
  """

  vectors: jax.Array
  start: np.ndarray
  width: np.ndarray


def shared_key(seed: int, number: int = 0) -> PRNGKey:
  """The key of the first weights number `number` that networks of a zoo share."""
  first = seeds.key(seeds.key(seed, 'zoo'), 'first weights')
  return jax.random.fold_in(first, number) if number else first


def shared(
  flat: members.Flat, several: widths_lib.Widths, seed: int, starts: int, width: int = 0
) -> jax.Array:
  """f32[starts, size], the first weights that networks of one width share."""
  keys = jnp.stack([shared_key(seed, number) for number in range(starts)])
  return _of_width(flat, several, keys, width)


def draw(
  flat: members.Flat,
  several: widths_lib.Widths,
  count: int,
  starts: int,
  seed: int,
  rng: np.random.Generator,
  key: PRNGKey,
) -> Drawn:
  """First weights of `count` networks; widths in equal shares, both in random order.

  Args:
    flat: the widest network.
    several: the networks; a list of one for a single width.
    count: N.
    starts: how many initialisations are shared; 0: each network has its own.
    seed: of the shared ones.
    rng: which network gets which.
    key: of networks' own.
  """
  width = rng.permutation(np.arange(count) % len(several))
  start = rng.integers(max(starts, 1), size=count)
  if starts:
    keys = jnp.stack([shared_key(seed, number) for number in range(starts)])[start]
  else:
    keys = jax.random.split(key, count)
  vectors = _of_width(flat, several, keys, 0)
  for number in range(1, len(several)):
    mine = jnp.asarray(width == number)[:, None]
    vectors = jnp.where(mine, _of_width(flat, several, keys, number), vectors)
  return Drawn(vectors, start, width)


def _of_width(
  flat: members.Flat, several: widths_lib.Widths, keys: PRNGKey, width: int
) -> jax.Array:
  model = several.models[width]
  return jax.vmap(lambda key: flat.ravel(several.embed(model.init(key))))(keys)
