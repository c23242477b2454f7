"""Where first weights can come from without a generator: what a sampler has to beat.

Every function gives f32[T, k, size], k candidates for each of T tasks.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.models import model as model_lib
from dapt_jax.types import PRNGKey
from dapt_jax.weights import members


def random(
  flat: members.Flat, model: model_lib.Model, count: int, k: int, key: PRNGKey
) -> jax.Array:
  """Fresh weights for every candidate of `count` tasks."""
  keys = jax.random.split(key, (count, k))
  return jax.vmap(jax.vmap(lambda own: flat.ravel(model.init(own))))(keys)


def mean(vectors: np.ndarray, count: int) -> jax.Array:
  """The mean of the zoo, f32[count, 1, size]."""
  middle = jnp.asarray(vectors.mean(0, dtype=np.float64), jnp.float32)
  return jnp.broadcast_to(middle, (count, 1, len(middle)))


def nearest(
  vectors: np.ndarray, zoo_conditions: np.ndarray, conditions: np.ndarray, k: int = 1
) -> jax.Array:
  """The networks of the k tasks whose conditions are nearest, by Euclidean distance.

  Args:
    vectors: f32[N, size], the zoo.
    zoo_conditions: f32[N, ...].
    conditions: f32[T, ...], of the new tasks.
    k: candidates, nearest first; of a zoo of fewer networks all.

  Raises:
    ValueError: for conditions of another shape than the zoo's.
  """
  return jnp.asarray(vectors[_nearest(zoo_conditions, conditions, k)])


def noisy(
  vectors: np.ndarray,
  zoo_conditions: np.ndarray,
  conditions: np.ndarray,
  k: int,
  noise: float,
  key: PRNGKey,
) -> jax.Array:
  """The network of the nearest task with noise on it, as many candidates as a sampler has.

  Args:
    vectors: f32[N, size], the zoo.
    zoo_conditions: f32[N, ...].
    conditions: f32[T, ...].
    k: candidates.
    noise: standard deviation, in standard deviations of every weight over the zoo.
    key: of the noise.
  """
  found = vectors[_nearest(zoo_conditions, conditions, 1)]
  spread = noise * vectors.std(0)
  shape = (len(conditions), k, vectors.shape[1])
  return jnp.asarray(found) + spread * jax.random.normal(key, shape)


def best_of_zoo(
  flat: members.Flat,
  vectors: np.ndarray,
  images: jax.Array,
  support: np.ndarray,
  *,
  group: int | None = None,
) -> jax.Array:
  """For every task the stored network of `best_rows`, f32[T, 1, size]; its arguments."""
  best = best_rows(flat, vectors, images, support, group=group)
  return jnp.asarray(vectors[best])[:, None]


def best_rows(
  flat: members.Flat,
  vectors: np.ndarray,
  images: jax.Array,
  support: np.ndarray,
  *,
  group: int | None = None,
) -> np.ndarray:
  """For every task the stored network that gets most of its support images right.

  Args:
    flat: the network.
    vectors: f32[N, size], all of the zoo are tried.
    images: f32[n, H, W, C].
    support: i32[T, classes, k], rows of `images` that may be trained on.
    group: networks side by side; None: `flat.group`.

  Returns:
    i64[T], rows of the zoo.
  """
  everything = jnp.asarray(vectors)
  best = []
  for rows in support:
    index = jnp.broadcast_to(jnp.asarray(rows), (len(everything), *rows.shape))
    own = members.refresh(flat, everything, images, index, group=group)
    best.append(int(members.accuracy(flat, own, images, index, group=group).argmax()))
  return np.asarray(best)


@functools.partial(jax.jit, static_argnames='flat')
def choose(
  flat: members.Flat, candidates: jax.Array, images: jax.Array, support: jax.Array | np.ndarray
) -> jax.Array:
  """Of each task's candidates the one that is best on its support images.

  Where several get as many right, the one with the smallest cross-entropy there.

  Args:
    flat: the network.
    candidates: f32[T, k, size].
    images: f32[n, H, W, C].
    support: i32[T, classes, s], rows of `images` that may be trained on.

  Returns:
    i32[T], the number of the candidate.
  """

  def one(args: tuple[jax.Array, jax.Array]) -> jax.Array:
    vectors, rows = args
    labels = jnp.repeat(jnp.arange(rows.shape[0]), rows.shape[1])
    shown = images[rows.reshape(-1)]

    def score(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
      logits = flat.logits(vector, shown)
      cross = -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean()
      return (logits.argmax(-1) == labels).mean(), cross

    right, cross = jax.lax.map(score, vectors)
    return jnp.lexsort((cross, -right))[0]

  return jax.lax.map(one, (candidates, support))


def _nearest(zoo_conditions: np.ndarray, conditions: np.ndarray, k: int) -> np.ndarray:
  """i64[T, k], rows of the zoo."""
  if conditions.shape[1:] != zoo_conditions.shape[1:]:
    raise ValueError(
      f'conditions have shape {conditions.shape}, those of the zoo {zoo_conditions.shape}; make '
      'both from as many classes and images of one size'
    )
  stored, given = (c.reshape(len(c), -1) for c in (zoo_conditions, conditions))
  distances = (stored**2).sum(1) - 2.0 * given @ stored.T  # |condition|^2 is the same for all
  return np.argsort(distances, axis=1, kind='stable')[:, :k]
