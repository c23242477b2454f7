"""Batches that are drawn on the device: networks of a zoo, conditions and images of their tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dapt_jax.tasks import conditions, resample
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
  """The condition of images: moments of their pixels, class after class.

  Args:
    images: f32[n, H, W, C].
    rows: i32[B, classes, k].

  Returns:
    f32[B, classes * 2 H W C].
  """
  shown = images[rows].reshape(*rows.shape, -1)
  return conditions.moments(shown).reshape(rows.shape[0], -1)


def tell(condition: jax.Array, widths: jax.Array | None) -> jax.Array:
  """The condition f32[B, C] with the width f32[B, W] that is wanted behind it, if there is one."""
  return condition if widths is None else jnp.concatenate([condition, widths], axis=1)


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


def of_generator(batch_size: int, k: int, shown: int) -> Draw:
  """Batches `(latents, {'condition', 'images', 'labels'})`, see `generator.Generator`.

  Args:
    batch_size: networks.
    k: images a class in a condition.
    shown: images that the task term looks at.
  """

  def draw(data: Data, key: PRNGKey) -> tuple[jax.Array, dict[str, Any]]:
    assert data.latents is not None
    chosen, rows, key = _members(data, batch_size, key)
    widths = _widths(data, chosen)
    more = _told(data.images, rows, widths, k, shown, *jax.random.split(key))
    if data.fresh is not None:
      more['fresh'] = _fresh(data, data.fresh, batch_size, k, shown, jax.random.fold_in(key, 1))
    return data.latents[chosen], more

  return draw


def _fresh(
  data: Data, rows: jax.Array, size: int, k: int, shown: int, key: PRNGKey
) -> dict[str, Any]:
  """Tasks without a network; `key` [B] is for the noise that latents are made of."""
  keys = jax.random.split(key, 4)
  mine, widths = rows[jax.random.randint(keys[0], (size,), 0, len(rows))], None
  if data.widths is not None:  # every task can be asked for in every width
    count = data.widths.shape[1]
    of_width = jax.random.fold_in(keys[0], 1)
    widths = jax.nn.one_hot(jax.random.randint(of_width, (size,), 0, count), count)
  told = _told(data.images, mine, widths, k, shown, keys[2], keys[1])
  return {**told, 'key': jax.random.split(keys[3], size)}


def _told(
  images: jax.Array,
  rows: jax.Array,
  widths: jax.Array | None,
  k: int,
  shown: int,
  of_condition: PRNGKey,
  of_images: PRNGKey,
) -> dict[str, Any]:
  """What a generator is told of tasks i32[B, classes, K], and images that it is asked about."""
  seen, labels = _any(rows, shown, of_images)
  given = tell(condition(images, resample.images(of_condition, rows, k)), widths)
  return {'condition': given, 'images': ask(images[seen], widths), 'labels': labels}


def of_hypernetwork(batch_size: int, k: int, shown: int) -> Draw:
  """Batches `(condition, codes, images, labels)`; arguments as of `of_generator`."""

  def draw(data: Data, key: PRNGKey) -> tuple[jax.Array, ...]:
    chosen, rows, key = _members(data, batch_size, key)
    widths = _widths(data, chosen)
    told = _told(data.images, rows, widths, k, shown, *jax.random.split(key))
    return told['condition'], data.codes[chosen], told['images'], told['labels']

  return draw


def _members(data: Data, size: int, key: PRNGKey) -> tuple[jax.Array, jax.Array, PRNGKey]:
  """(numbers of networks i32[size], images of their tasks, another key)."""
  own, rest = jax.random.split(key)
  chosen = jax.random.randint(own, (size,), 0, len(data.codes))
  return chosen, data.rows[chosen], rest


def _widths(data: Data, chosen: jax.Array) -> jax.Array | None:
  return None if data.widths is None else data.widths[chosen]


def _any(rows: jax.Array, count: int, key: PRNGKey) -> tuple[jax.Array, jax.Array]:
  """(rows of images, labels), i32[B, count], of any classes."""
  size, classes, stored = rows.shape
  place = jax.random.randint(key, (size, count), 0, classes * stored)
  return jnp.take_along_axis(rows.reshape(size, -1), place, axis=1), place // stored
