"""Are generated networks copies of the zoo? Distances, errors, noise, spread and ensembles.

Distances are Euclidean, between weights that are standardised over the zoo. A lossy autoencoder
shrinks weights towards the mean, so its samples lie nearer to everything, and its networks err
alike; *corrected* measures pass all networks through it first. What a number means shows beside
those of new networks that were trained on the same tasks, and of the zoo's members.

Source: the tests of B. Zeng et al., "Generative modeling of weights: generalization or
memorization?", 2025 (distance to the nearest training network, overlap of errors, accuracy against
novelty with noisy training networks as control); the correction of distances and of overlaps, new
networks as control, spread and ensembles are ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dapt_jax.types import PRNGKey
from dapt_jax.weights import distances, members, novelty_report

#: Standard deviations of the noise, in standard deviations of every weight over the zoo.
SIGMAS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5)
_ZOO_ROWS = 1000  # members whose distances to the rest stand for those of the zoo

nearest = distances.nearest
standardise = distances.standardise


class Overlap(NamedTuple):
  """Errors that networks share with networks of the zoo.

  Attributes:
    shared: f32[N, m], intersection over union of the images that both get wrong; NaN where neither
      is ever wrong.
    excess: f32[N, m], (shared - e) / (1 - e), where e is what two networks with as many errors
      would share by chance: 0 for independent errors, 1 for a copy. Networks with more errors share
      more; this does not count.
  """

  shared: jax.Array
  excess: jax.Array


@functools.partial(jax.jit, static_argnames=('flat', 'group'))
def overlap(
  flat: members.Flat,
  vectors: jax.Array,
  zoo: jax.Array,
  index: jax.Array,
  images: jax.Array,
  tests: jax.Array,
  *,
  group: int = 64,
) -> Overlap:
  """How far the test images that networks get wrong are those that networks of the zoo get wrong.

  Args:
    flat: the network.
    vectors: f32[N, size].
    zoo: f32[Z, size].
    index: i32[N, m], rows of the zoo to compare with.
    images: f32[n, H, W, C].
    tests: i32[N, classes, k], rows of `images` by label.
    group: networks of the zoo side by side.
  """

  def one(args: tuple[jax.Array, jax.Array, jax.Array]) -> Overlap:
    vector, rows, test = args
    labels = jnp.repeat(jnp.arange(test.shape[0]), test.shape[1])
    shown = images[test.reshape(-1)]
    wrong = lambda v: flat.logits(v, shown).argmax(-1) != labels
    mine = wrong(vector)
    theirs = lax.map(lambda i: wrong(zoo[i]), rows, batch_size=group)
    shared = (mine & theirs).sum(1) / (mine | theirs).sum(1)
    both = mine.mean() * theirs.mean(1)
    chance = both / (mine.mean() + theirs.mean(1) - both)
    return Overlap(shared, (shared - chance) / (1.0 - chance))

  return lax.map(one, (vectors, index, tests))


@functools.partial(jax.jit, static_argnames='flat')
def ensemble(
  flat: members.Flat, vectors: jax.Array, images: jax.Array, tests: jax.Array
) -> jax.Array:
  """Accuracy f32[T] of the mean softmax of the networks f32[T, k, size] of every task.

  Args: flat: the network. vectors: see above. images: f32[n, H, W, C]. tests: i32[T, classes, m].
  """

  def one(args: tuple[jax.Array, jax.Array]) -> jax.Array:
    own, test = args
    labels = jnp.repeat(jnp.arange(test.shape[0]), test.shape[1])
    shown = images[test.reshape(-1)]
    shares = lax.map(lambda v: jax.nn.softmax(flat.logits(v, shown)), own)
    return (shares.mean(0).argmax(-1) == labels).mean()

  return lax.map(one, (vectors, tests))


def accuracies(
  flat: members.Flat, vectors: jax.Array, images: jax.Array, tests: jax.Array
) -> np.ndarray:
  """Accuracy f32[T, k] of each of the networks f32[T, k, size]; arguments as `ensemble` has."""
  count, k, size = vectors.shape
  index = jnp.repeat(tests, k, axis=0)
  found = members.accuracy(flat, vectors.reshape(-1, size), images, index)
  return np.asarray(found).reshape(count, k)


def sweep(
  flat: members.Flat,
  zoo: jax.Array,
  base: np.ndarray,
  images: jax.Array,
  tests: jax.Array,
  key: PRNGKey,
  sigmas: Sequence[float] = SIGMAS,
) -> novelty_report.Sweep:
  """Stored networks with more and more noise: how accuracy pays for novelty without a generator.

  Args:
    flat: the network.
    zoo: f32[Z, size].
    base: i[T], rows of the zoo, for every task the stored network to start from.
    images: f32[n, H, W, C].
    tests: i32[T, classes, m].
    key: of the noise; the levels share its direction.
    sigmas: levels, in standard deviations of every weight over the zoo.
  """
  noise = zoo.std(0) * jax.random.normal(key, (len(base), zoo.shape[1]))
  measure, apart, found = standardise(zoo, zoo), [], []
  for sigma in sigmas:
    vectors = zoo[jnp.asarray(base)] + sigma * noise
    apart.append(nearest(standardise(vectors, zoo), measure).distance[:, 0])
    found.append(members.accuracy(flat, vectors, images, tests))
  as_array = lambda rows: np.asarray(jnp.stack(rows))
  return novelty_report.Sweep(np.asarray(sigmas), as_array(apart), as_array(found))


def report(
  flat: members.Flat,
  zoo: np.ndarray,
  samples: jax.Array,
  fresh: jax.Array,
  base: np.ndarray,
  images: jax.Array,
  tests: np.ndarray,
  key: PRNGKey,
  *,
  through: Callable[[jax.Array], jax.Array] | None = None,
  neighbours: int = 64,
  sigmas: Sequence[float] = SIGMAS,
) -> novelty_report.Report:
  """Measures everything for samples of held-out tasks.

  Args:
    flat: the network.
    zoo: f32[Z, size], weights as they are.
    samples: f32[T, k, size], k draws of one condition for each of T tasks, k >= 2.
    fresh: f32[T, r, size], networks trained on the same tasks independently, r >= 2.
    base: i[T], rows of the zoo, the best stored network for every task (on support images).
    images: f32[n, H, W, C].
    tests: i32[T, classes, m], test images.
    key: of the noise.
    through: weights f32[N, size] encoded and decoded again; None where there is no autoencoder.
    neighbours: nearest networks of the zoo whose errors the first network of every task is compared
      with; all of the zoo if it has no more.
    sigmas: levels of noise.

  Raises:
    ValueError: for shapes that do not fit.
  """
  stored, asked = jnp.asarray(zoo), jnp.asarray(tests)
  given = {'samples': jnp.asarray(samples), 'fresh': jnp.asarray(fresh)}
  _check(given, stored, base, asked)
  passes = {'raw': lambda x: x, **({} if through is None else {'corrected': through})}
  m = min(neighbours, len(stored))
  spaces = {k: _space(flat, given, stored, m, f, images, asked) for k, f in passes.items()}
  together = {name: np.asarray(ensemble(flat, own, images, asked)) for name, own in given.items()}
  noisy = sweep(flat, stored, base, images, asked, key, sigmas)
  return novelty_report.Report(spaces, noisy, together)


def _space(flat, given, zoo, m, through, images, tests) -> novelty_report.Space:
  """Everything that depends on weights, with all networks passed `through`."""
  known = through(zoo)
  measured = standardise(known, zoo)
  rows = jnp.unique(jnp.linspace(0, len(zoo) - 1, _ZOO_ROWS).astype(jnp.int32))
  found = {'zoo': np.asarray(nearest(measured[rows], measured, own=rows).distance[:, 0])}
  shared, excess, spread, accuracy = {}, {}, {}, {}
  for name, vectors in given.items():
    count, k, size = vectors.shape
    passed = through(vectors.reshape(-1, size))
    own = standardise(passed, zoo)
    found[name] = np.asarray(nearest(own, measured).distance).reshape(count, k)
    near = nearest(own[::k], measured, m).rows
    errors = overlap(flat, passed[::k], known, near, images, tests)
    shared[name], excess[name] = (np.asarray(part) for part in errors)
    spread[name] = np.asarray(distances.spread(own.reshape(count, k, size)))
    accuracy[name] = accuracies(flat, passed.reshape(count, k, size), images, tests)
  return novelty_report.Space(found, shared, excess, spread, accuracy)


def _check(given, zoo, base, tests) -> None:
  for name, vectors in given.items():
    fits = vectors.ndim == 3 and vectors.shape[::2] == (len(tests), zoo.shape[1])
    if not fits or vectors.shape[1] < 2:
      raise ValueError(
        f'{name} has shape {vectors.shape}; it must be [{len(tests)} tasks, two or more networks, '
        f'{zoo.shape[1]}]'
      )
  base = np.asarray(base)
  if base.shape != (len(tests),) or base.min() < 0 or base.max() >= len(zoo):
    raise ValueError(
      f'base has shape {base.shape}; it must name one of the {len(zoo)} networks of the zoo for '
      f'each of the {len(tests)} tasks'
    )
