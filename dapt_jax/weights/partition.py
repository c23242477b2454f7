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

  def split(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """f32[..., size] as f32[..., G] and f32[..., S, C]."""
    return x[..., self.shared], x[..., self.slots]

  def join(self, shared: jax.Array, slots: jax.Array) -> jax.Array:
    """The inverse of `split`."""
    flat = jnp.concatenate([shared, slots.reshape(*slots.shape[:-2], -1)], -1)
    order = np.argsort(np.concatenate([self.shared, self.slots.reshape(-1)]))
    return flat[..., order]


def blocks(shared: int, slots: int, per_slot: int) -> Partition:
  """The shared entries first, then slot after slot."""
  numbers = np.arange(shared + slots * per_slot, dtype=np.int32)
  return Partition(numbers[:shared], numbers[shared:].reshape(slots, per_slot))


def of_outputs(
  outputs: Callable[[jax.Array, jax.Array], jax.Array],
  size: int,
  images: jax.Array,
  classes: int,
  probes: int = 4,
) -> Partition:
  """Finds by derivatives which weights move one logit only.

  These are the rows of the last layer, whatever the network is. They are in the same order for all
  classes, since a layer keeps them so.

  Args:
    outputs: logits f32[p, classes] of a code f32[size] on images f32[p, H, W, C].
    size: entries of a code.
    images: a few images to look at.
    classes: number of logits.
    probes: random networks to look at; a weight that moves nothing in any of them is shared.

  Returns:
    The partition; no slot owns anything where classes have unlike numbers of entries.
  """
  # From the logits back: a program has thousands of weights and a few logits.
  slope = jax.jit(jax.jacrev(lambda code: outputs(code, images)))
  moves = np.zeros((classes, size), bool)
  for key in jax.random.split(jax.random.key(0), probes):
    moves |= np.asarray(jnp.abs(slope(jax.random.normal(key, (size,)))).max(0) > 0)
  own = [np.flatnonzero(moves[c] & (moves.sum(0) == 1)) for c in range(classes)]
  if len({len(entries) for entries in own}) > 1:
    own = [np.zeros(0, int)] * classes
  slots = np.stack(own).astype(np.int32)
  shared = np.setdiff1d(np.arange(size), slots).astype(np.int32)
  return Partition(shared, slots)
