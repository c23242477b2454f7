"""Which weights of a classifier belong to one class, and which to all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Partition:
  """Entries of a vector: some for every slot, the others shared.

  Attributes:
    shared: i32[G], entries that no slot owns.
    slots: i32[S, C], entries of every slot in corresponding order; C may be 0.
  """

  shared: np.ndarray
  slots: np.ndarray

  @property
  def size(self) -> int:
    """G + S C."""
    return self.shared.size + self.slots.size

  @property
  def owners(self) -> np.ndarray:
    """i64[size]: the slot that an entry belongs to, -1 for shared ones."""
    out = np.full(self.size, -1)
    out[self.slots] = np.arange(len(self.slots))[:, None]
    return out

  def split(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """f32[..., size] as f32[..., G] and f32[..., S, C]."""
    return x[..., self.shared], x[..., self.slots]

  def join(self, shared: jax.Array, slots: jax.Array) -> jax.Array:
    """The inverse of `split`."""
    flat = jnp.concatenate([shared, slots.reshape(*slots.shape[:-2], -1)], -1)
    order = np.argsort(np.concatenate([self.shared, self.slots.reshape(-1)]))
    return flat[..., order]


def consecutive(shared: int, slots: int, per_slot: int) -> Partition:
  """The shared entries first, then slot after slot."""
  numbers = np.arange(shared + slots * per_slot, dtype=np.int32)
  return Partition(numbers[:shared], numbers[shared:].reshape(slots, per_slot))


def of_outputs(
  outputs: Callable[[jax.Array, jax.Array], jax.Array],
  size: int,
  image_shape: tuple[int, ...],
  probes: int = 4,
) -> Partition:
  """Finds by derivatives which weights move one logit only.

  These are the rows of the last layer, whatever the network is. They are in the same order for all
  classes, since a layer keeps them so.

  Args:
    outputs: logits f32[p, S] of a code f32[size] on images f32[p, H, W, C].
    size: entries of a code.
    image_shape: (H, W, C).
    probes: random networks to look at, on random images.

  Raises:
    ValueError: if the classes have no weights of their own, or unlike numbers of them.
  """
  of_codes, of_images = jax.random.split(jax.random.key(0))
  images = jax.random.normal(of_images, (8, *image_shape))
  # From the logits back: a network has thousands of weights and a few logits.
  slope = jax.jit(jax.jacrev(lambda code: outputs(code, images)))
  codes = jax.random.normal(of_codes, (probes, size))
  moves = np.max([np.abs(slope(code)).max(0) > 0 for code in codes], axis=0)
  own = [np.flatnonzero(row & (moves.sum(0) == 1)) for row in moves]
  counts = [len(entries) for entries in own]
  if not counts[0] or len(set(counts)) > 1:
    raise ValueError(
      f'the logits have {counts} weights of their own; weights are written for networks whose last '
      'layer is dense, with as many weights for every class'
    )
  slots = np.stack(own).astype(np.int32)
  return Partition(np.setdiff1d(np.arange(size), slots).astype(np.int32), slots)
