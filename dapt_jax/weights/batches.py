"""Batches that are drawn on the device: networks of a zoo, conditions and images of their tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dapt_jax.tasks import conditioning, resample, warps
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
    known: f32[n, F], features of the images, where `Conditioning.known` gives any.
  """

  codes: jax.Array
  latents: jax.Array | None
  rows: jax.Array
  images: jax.Array
  fresh: jax.Array | None = None
  widths: jax.Array | None = None
  known: jax.Array | None = None


class Told(NamedTuple):
  """What batches say of tasks.

  Attributes:
    sizes: images a class in a condition; of several numbers one is drawn for every task.
    shown: images that the task term looks at.
    warped: share of the tasks without a network that are distorted.
    how: conditions are made.
  """

  sizes: Sequence[int]
  shown: int
  warped: float = 0.0
  how: conditioning.Conditioning = conditioning.PIXELS


#: `draw(data, key) -> batch`, what `training.repeated` asks for.
Draw = Callable[[Data, PRNGKey], Any]


def tell(condition: jax.Array, widths: jax.Array | None) -> jax.Array:
  """What is told f32[B, S, ..., C], behind each row the width f32[B, W] wanted, if there is one."""
  if widths is None:
    return condition
  rows = jnp.expand_dims(widths, range(1, condition.ndim - 1))
  rows = jnp.broadcast_to(rows, (*condition.shape[:-1], widths.shape[1]))
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


def of_generator(batch_size: int, settings: Told) -> Draw:
  """Batches `(latents, told)`, see `generator.Generator`.

  Raises:
    ValueError: if images are distorted, but only stored images have features.
  """
  _check(settings)

  def draw(data: Data, key: PRNGKey) -> tuple[jax.Array, dict[str, Any]]:
    assert data.latents is not None
    chosen, told = _told(data, batch_size, settings, key)
    return data.latents[chosen], told

  return draw


def of_hypernetwork(batch_size: int, settings: Told) -> Draw:
  """Batches `(codes, told)`, see `hypernetwork.Hypernetwork` and `of_generator`."""
  _check(settings)

  def draw(data: Data, key: PRNGKey) -> tuple[jax.Array, dict[str, Any]]:
    chosen, told = _told(data, batch_size, settings, key)
    return data.codes[chosen], told

  return draw


def of_alignment(batch_size: int, settings: Told) -> Draw:
  """Batches `(told, None, latents)` of networks, none twice, see `tasks.alignment.Alignment`."""

  def draw(data: Data, key: PRNGKey) -> tuple[jax.Array, None, jax.Array]:
    assert data.latents is not None
    sizes, how = settings.sizes, settings.how
    chosen, rows = resample.support(key, data.rows, batch_size, max(sizes))
    told = how.tell(how.features(data.images, rows, data.known), _mask(key, rows, sizes))
    return tell(told, _widths(data, chosen)), None, data.latents[chosen]

  return draw


def _told(data: Data, size: int, settings: Told, key: PRNGKey) -> tuple[jax.Array, dict[str, Any]]:
  """(numbers of networks i32[size], what is said of their tasks and, maybe, of fresh ones)."""
  chosen, rows, key = _members(data, size, key)
  own = settings._replace(warped=0.0)  # a network is for the images it was trained on
  told = _of_tasks(data, rows, _widths(data, chosen), own, *jax.random.split(key))
  if data.fresh is not None:
    keys = jax.random.split(jax.random.fold_in(key, 1), 4)
    mine = data.fresh[jax.random.randint(keys[0], (size,), 0, len(data.fresh))]
    widths = None if data.widths is None else _any_width(data.widths, size, keys[0])
    fresh = _of_tasks(data, mine, widths, settings, keys[2], keys[1])
    told['fresh'] = {**fresh, 'key': jax.random.split(keys[3], size)}
  return chosen, told


def _of_tasks(
  data: Data,
  rows: jax.Array,
  widths: jax.Array | None,
  settings: Told,
  of_condition: PRNGKey,
  of_images: PRNGKey,
) -> dict[str, Any]:
  """What a generator is told of tasks i32[B, classes, K], and images that it is asked about."""
  sizes, how = settings.sizes, settings.how
  seen, labels = _any(rows, settings.shown, of_images)
  chosen, asked = resample.images(of_condition, rows, max(sizes)), data.images[seen]
  if settings.warped:
    given, of_warps = data.images[chosen], jax.random.fold_in(of_images, 1)
    given, asked = warps.of_tasks(of_warps, settings.warped, given, asked)
    assert how.look is not None
    features = how.look(given)
  else:
    features = how.features(data.images, chosen, data.known)
  told = how.tell(features, _mask(of_condition, chosen, sizes))
  return {'condition': tell(told, widths), 'images': ask(asked, widths), 'labels': labels}


def _mask(key: PRNGKey, rows: jax.Array, sizes: Sequence[int]) -> jax.Array | None:
  """Which of the images i32[B, classes, k] that a key drew count, bool[B, 1, k]; None: all."""
  if len(sizes) == 1:
    return None
  return resample.sizes(jax.random.fold_in(key, 1), len(rows), rows.shape[-1], sizes)


def _check(settings: Told) -> None:
  if settings.warped and settings.how.look is None:
    raise ValueError(
      f'{settings.warped:.0%} of the tasks are distorted, but only stored images have features '
      'here; set warped to 0, or take features that are computed in the batch'
    )


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
