"""Batches that are drawn on the device: networks of a zoo, conditions and images of their tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dapt_jax.tasks import conditions, resample, warps
from dapt_jax.types import PRNGKey


class Data(NamedTuple):
  """What batches are drawn from; all of it on the device.

  Attributes:
    codes: f32[N, D], standardised weights.
    latents: f32[N, L], their standardised latents, or None before there are any.
    rows: i32[N, classes, K], training images of every network's task, rows of `images`.
    images: f32[n, H, W, C].
    fresh: i32[F, classes, K], training images of tasks that no network was trained on, or None.
    widths: f32[N, W], one-hot: which of W widths every network has; None where all are alike.
  """

  codes: jax.Array
  latents: jax.Array | None
  rows: jax.Array
  images: jax.Array
  fresh: jax.Array | None = None
  widths: jax.Array | None = None


#: `draw(data, key) -> batch`, what `training.repeated` asks for.
Draw = Callable[[Data, PRNGKey], Any]


def condition(images: jax.Array, rows: jax.Array) -> jax.Array:
  """The condition of images: moments of their pixels, a row for every class.

  Args:
    images: f32[n, H, W, C].
    rows: i32[B, classes, k].

  Returns:
    f32[B, classes, 2 H W C].
  """
  return describe(images[rows])


def describe(pictures: jax.Array) -> jax.Array:
  """The condition of pictures f32[B, classes, k, H, W, C], f32[B, classes, 2 H W C]."""
  return conditions.moments(pictures.reshape(*pictures.shape[:3], -1))


def tell(condition: jax.Array, widths: jax.Array | None) -> jax.Array:
  """The condition f32[B, S, C], behind every row the width f32[B, W] wanted, if there is one."""
  if widths is None:
    return condition
  rows = jnp.broadcast_to(widths[:, None], (*condition.shape[:2], widths.shape[1]))
  return jnp.concatenate([condition, rows], axis=-1)


def ask(images: jax.Array, widths: jax.Array | None) -> Any:
  """What `Outputs` are asked about: images, and of which width the network is, if that differs."""
  return images if widths is None else (images, widths)


def of_autoencoder(batch_size: int, probes: int) -> Draw:
  """Batches `(codes, images to probe networks with, or None)`."""

  def draw(data: Data, key: PRNGKey) -> tuple[jax.Array, Any]:
    chosen, rows, key = _members(data, batch_size, key)
    if not probes:
      return data.codes[chosen], None
    probed = data.images[_any(rows, probes, key)[0]]
    return data.codes[chosen], ask(probed, _widths(data, chosen))

  return draw


def of_generator(batch_size: int, k: int, shown: int, warped: float = 0.0) -> Draw:
  """Batches `(latents, told)`, see `generator.Generator`.

  Args:
    batch_size: networks.
    k: images a class in a condition.
    shown: images that the task term looks at.
    warped: share of the tasks without a network that are distorted.
  """

  def draw(data: Data, key: PRNGKey) -> tuple[jax.Array, dict[str, Any]]:
    assert data.latents is not None
    chosen, told = _told(data, batch_size, k, shown, warped, key)
    return data.latents[chosen], told

  return draw


def of_hypernetwork(batch_size: int, k: int, shown: int, warped: float = 0.0) -> Draw:
  """Batches `(codes, told)`, see `hypernetwork.Hypernetwork`; arguments as of `of_generator`."""

  def draw(data: Data, key: PRNGKey) -> tuple[jax.Array, dict[str, Any]]:
    chosen, told = _told(data, batch_size, k, shown, warped, key)
    return data.codes[chosen], told

  return draw


def _told(
  data: Data, size: int, k: int, shown: int, warped: float, key: PRNGKey
) -> tuple[jax.Array, dict[str, Any]]:
  """(numbers of networks i32[size], what is said of their tasks and, maybe, of fresh ones)."""
  chosen, rows, key = _members(data, size, key)
  widths = _widths(data, chosen)
  told = _of_tasks(data.images, rows, widths, k, shown, *jax.random.split(key))
  if data.fresh is not None:
    keys = jax.random.split(jax.random.fold_in(key, 1), 4)
    mine = data.fresh[jax.random.randint(keys[0], (size,), 0, len(data.fresh))]
    widths = None if data.widths is None else _any_width(data.widths, size, keys[0])
    fresh = _of_tasks(data.images, mine, widths, k, shown, keys[2], keys[1], warped)
    told['fresh'] = {**fresh, 'key': jax.random.split(keys[3], size)}
  return chosen, told


def _of_tasks(
  images: jax.Array,
  rows: jax.Array,
  widths: jax.Array | None,
  k: int,
  shown: int,
  of_condition: PRNGKey,
  of_images: PRNGKey,
  warped: float = 0.0,
) -> dict[str, Any]:
  """What a generator is told of tasks i32[B, classes, K], and images that it is asked about."""
  seen, labels = _any(rows, shown, of_images)
  given, asked = images[resample.images(of_condition, rows, k)], images[seen]
  if warped:
    given, asked = warps.of_tasks(jax.random.fold_in(of_images, 1), warped, given, asked)
  given, asked = tell(describe(given), widths), ask(asked, widths)
  return {'condition': given, 'images': asked, 'labels': labels}


def _members(data: Data, size: int, key: PRNGKey) -> tuple[jax.Array, jax.Array, PRNGKey]:
  """(numbers of networks i32[size], images of their tasks, another key)."""
  own, rest = jax.random.split(key)
  chosen = jax.random.randint(own, (size,), 0, len(data.codes))
  return chosen, data.rows[chosen], rest


def _widths(data: Data, chosen: jax.Array) -> jax.Array | None:
  return None if data.widths is None else data.widths[chosen]


def _any_width(widths: jax.Array, size: int, key: PRNGKey) -> jax.Array:
  """f32[size, W], one-hot: a task without a network can be asked for in every width."""
  count = widths.shape[1]
  return jax.nn.one_hot(jax.random.randint(jax.random.fold_in(key, 1), (size,), 0, count), count)


def _any(rows: jax.Array, count: int, key: PRNGKey) -> tuple[jax.Array, jax.Array]:
  """(rows of images, labels), i32[B, count], of any classes."""
  size, classes, stored = rows.shape
  place = jax.random.randint(key, (size, count), 0, classes * stored)
  return jnp.take_along_axis(rows.reshape(size, -1), place, axis=1), place // stored
