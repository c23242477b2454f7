"""Statistics of normalisation for weights that came without them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dapt_jax.types import Params


def recalibrate(
  apply_train: Callable[[Params, jax.Array], tuple[jax.Array, Params]],
  variables: Params,
  images: jax.Array,
  batch_size: int | None = None,
) -> Params:
  """Takes the statistics of BatchNorm anew from images.

  One pass in training mode; statistics of several batches are averaged, by their sizes. Works
  under `jit` and `vmap` over variables.

  Args:
    apply_train: `apply_train(variables, images) -> (logits, statistics of this batch)`, of a
      `models.model.Model` or a `transfer.retrain.Structure`.
    variables: `{'params': ...}`; old `batch_stats` do not matter.
    images: f32[n, H, W, C], training images as the network will see them.
    batch_size: images at once; None means all.

  Returns:
    The variables with new `batch_stats`; the same object for a network without any.

  Raises:
    ValueError: without images, or for a batch size below 1.
  """
  if not len(images) or (batch_size is not None and batch_size < 1):
    raise ValueError(f'{len(images)} images in batches of {batch_size}; both must be at least 1')
  step = batch_size or len(images)
  parts = [images[i : i + step] for i in range(0, len(images), step)]
  states = [apply_train(variables, part)[1] for part in parts]
  if not states[0]:
    return variables
  shares = [len(part) / len(images) for part in parts]
  mean = lambda *leaves: sum(share * jnp.asarray(x) for share, x in zip(shares, leaves))
  return {**variables, **jax.tree.map(mean, *states)}
