"""What a generator is told of a task: a few images of every class, as numbers.

Classes keep their slots: entry k of a condition speaks of label k, since the rows of a classifier
are in that order. Only training or support images may enter (`Bank.draw(..., side='train')`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def moments(features: jax.Array) -> jax.Array:
  """Mean and standard deviation of every class, the plain encoder.

  Args:
    features: f32[..., classes, k, F], k images of every class.

  Returns:
    f32[..., classes, 2 F]; the deviation of a single image is 0.
  """
  return jnp.concatenate([features.mean(-2), features.std(-2)], axis=-1)
