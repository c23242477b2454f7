"""What a generator is told of a task: a few images of every class, as numbers.

Classes keep their slots: entry k of a condition speaks of label k, since the rows of a classifier
are in that order. Only training or support images may enter (`Bank.draw(..., side='train')`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def moments(features: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """Mean and standard deviation of every class, the plain encoder.

  Args:
    features: f32[..., classes, k, F], k images of every class.
    mask: bool[..., classes, k], the images that count, at least one of every class; None means all.

  Returns:
    f32[..., classes, 2 F]; the deviation of a single image is 0.
  """
  where = None if mask is None else mask[..., None]
  mean = jnp.mean(features, axis=-2, where=where)
  variance = jnp.var(features, axis=-2, where=where)
  # The root has no finite slope at 0, where classes of one image are.
  positive = variance > 0
  std = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)
  return jnp.concatenate([mean, std], axis=-1)
