"""Other images at every step: draws on the device out of the rows that a bank gave.

All functions are pure, for the `draw` of `training.repeated`. They choose among rows and never
look further: what `Bank.draw(..., side='train')` left out cannot come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dapt_jax.types import PRNGKey


class Support(NamedTuple):
  """A batch of tasks with a few images of each class.

  Attributes:
    task: i32[B], which tasks; no task twice.
    rows: i32[B, classes, k], of the bank's images and features.
  """

  task: jax.Array
  rows: jax.Array


def images(key: PRNGKey, rows: jax.Array, k: int) -> jax.Array:
  """Draws k of the stored images of every class, without repeats, in random order.

  Args:
    key: of the draw.
    rows: i32[..., K], what to choose from.
    k: how many.

  Returns:
    i32[..., k].

  Raises:
    ValueError: for k below 1 or above K.
  """
  if not 1 <= k <= rows.shape[-1]:
    raise ValueError(
      f'k={k}: {rows.shape[-1]} images of a class are stored; choose from 1 to that many, or draw '
      'more from the bank'
    )
  _, chosen = lax.top_k(jax.random.uniform(key, rows.shape), k)
  return jnp.take_along_axis(rows, chosen, axis=-1)


def support(key: PRNGKey, rows: jax.Array, batch: int, k: int) -> Support:
  """Draws some tasks, and images of them.

  Args:
    key: of the draw.
    rows: i32[T, classes, K], of T tasks.
    batch: B, number of tasks.
    k: images a class.

  Raises:
    ValueError: for more tasks or images than there are.
  """
  if not 1 <= batch <= len(rows):
    raise ValueError(f'batch={batch}: there are {len(rows)} tasks; choose from 1 to that many')
  of_tasks, of_images = jax.random.split(key)
  task = jax.random.choice(of_tasks, len(rows), (batch,), replace=False)
  return Support(task, images(of_images, rows[task], k))


def sizes(key: PRNGKey, batch: int, k: int, allowed: Sequence[int]) -> jax.Array:
  """How many of k images count, drawn for every task: one program trains all numbers of shots.

  Args:
    key: of the draw.
    batch: B, number of tasks.
    k: images a class that were drawn.
    allowed: numbers of shots, all equally likely.

  Returns:
    bool[B, 1, k], a mask for encoders; the first images count.

  Raises:
    ValueError: if a number is below 1 or above k, or there is none.
  """
  if not allowed or not all(1 <= n <= k for n in allowed):
    raise ValueError(f'allowed={tuple(allowed)}: give numbers of images from 1 to k={k}')
  count = jax.random.choice(key, jnp.asarray(allowed), (batch,))
  return (jnp.arange(k) < count[:, None])[:, None]
