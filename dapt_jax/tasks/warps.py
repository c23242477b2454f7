"""Random distortions of a whole task: one for all of its images, another for every task.

A task seen in a slightly turned, slanted and stretched world is another task with the same answer.
Generators and hypernetworks that are asked for such tasks, too, write better weights for views that
they have never met. Rotations stay far below a quarter turn, so no held-out view comes in.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dapt_jax.types import PRNGKey


class Limits(NamedTuple):
  """How far a distortion goes; every amount is drawn evenly up to the limit, to either side.

  Attributes:
    turn: rotation, in degrees.
    shear: slant, as a tangent.
    stretch: each axis is multiplied by up to 2 ** stretch, or divided by it.
    shift: displacement along each axis, in halves of the image's edge.
  """

  turn: float = 30.0
  shear: float = 0.2
  stretch: float = 0.2
  shift: float = 0.15


LIMITS = Limits()


class Warp(NamedTuple):
  """Bilinear resampling: a pixel is the weighted sum of four others; P = H W.

  Attributes:
    pixel: i32[4, P].
    weight: f32[4, P], sums to 1 for every pixel.
  """

  pixel: jax.Array
  weight: jax.Array


def draw(key: PRNGKey, height: int, width: int, limits: Limits = LIMITS) -> Warp:
  """Draws a distortion of images of this size; pixels beyond the edge repeat it."""
  keys = jax.random.split(key, 4)
  even = lambda k, limit, shape=(): jax.random.uniform(k, shape, minval=-limit, maxval=limit)
  angle = even(keys[0], jnp.deg2rad(limits.turn))
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  turned = jnp.array([[cos, -sin], [sin, cos]])
  slanted = jnp.array([[1.0, even(keys[1], limits.shear)], [0.0, 1.0]])
  matrix = turned @ slanted * jnp.exp2(even(keys[2], limits.stretch, (2,)))
  axes = jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width)
  places = jnp.stack(jnp.meshgrid(*axes, indexing='ij')).reshape(2, -1)
  return bilinear(matrix @ places + even(keys[3], limits.shift, (2, 1)), height, width)


def bilinear(places: jax.Array, height: int, width: int) -> Warp:
  """The four pixels around each of the places f32[2, P]; -1 and 1 are the edges of an image."""
  last = jnp.array([[height - 1], [width - 1]])
  found = jnp.clip((places + 1) / 2 * last, 0, last)
  low = jnp.minimum(jnp.floor(found), jnp.maximum(last - 1, 0)).astype(jnp.int32)
  part = found - low
  high = jnp.minimum(low + 1, last)
  corners = [(y, x) for y in (0, 1) for x in (0, 1)]
  pick = lambda y, x: (high if y else low)[0] * width + (high if x else low)[1]
  share = lambda y, x: jnp.abs(1 - y - part[0]) * jnp.abs(1 - x - part[1])
  return Warp(
    jnp.stack([pick(*c) for c in corners]).astype(jnp.int32),
    jnp.stack([share(*c) for c in corners]),
  )


def apply(warp: Warp, images: jax.Array) -> jax.Array:
  """Distorts images f32[..., H, W, C]."""
  *lead, height, width, channels = images.shape
  # Pixels first: whole rows of many images are moved at once.
  rows = jnp.moveaxis(images.reshape(-1, height * width, channels), 1, 0)
  out = sum(w[:, None, None] * rows[i] for i, w in zip(warp.pixel, warp.weight))
  return jnp.moveaxis(jnp.asarray(out), 0, 1).reshape(*lead, height, width, channels)


def of_tasks(
  key: PRNGKey, share: float, *images: jax.Array, limits: Limits = LIMITS
) -> tuple[jax.Array, ...]:
  """Distorts a share of the tasks.

  Args:
    key: of the draws.
    share: of the tasks that are distorted, in [0, 1].
    *images: f32[B, ..., H, W, C] of B tasks; all arrays of a task get its distortion.
    limits: see `Limits`.
  """
  of_warps, of_share = jax.random.split(key)
  count, (height, width) = len(images[0]), images[0].shape[-3:-1]
  found = jax.vmap(lambda k: draw(k, height, width, limits))(jax.random.split(of_warps, count))
  use = jax.random.bernoulli(of_share, share, (count,))
  chosen = lambda x: use.reshape(-1, *[1] * (x.ndim - 1))
  return tuple(jnp.where(chosen(x), jax.vmap(apply)(found, x), x) for x in images)
