"""Batches as a pure function of the step, so that a resumed run sees what it would have seen."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable

import numpy as np

from dapt_jax.data import augment as augment_lib
from dapt_jax.data import dataset as dataset_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Batcher:
  """Calls give batches: `batcher(step) -> {'image': f32[B, h, w, c], 'label': i32[B]}`.

  All epochs laid end to end form one endless stream of examples, each epoch a permutation of its
  own drawn from (seed, epoch); batch `step` is positions `step * B .. (step + 1) * B - 1` of it.
  So every example comes exactly once per epoch whatever the batch size, no remainder is dropped,
  a batch may straddle two epochs, and a batch larger than the data set wraps around.

  Of several processes each gets its own rows of that one batch: process `index` of `count` those
  from `index * B / count` on. The stream does not depend on `count`, so a run that goes on with
  another number of processes still sees every example once per epoch.

  Attributes:
    dataset: where examples come from.
    batch_size: B, over all processes.
    seed: non-negative whole number.
    permutation: `epoch -> i64[n]`, the order of one epoch.
    shard: (index, count) of this process; a batch has B / count rows here.
    augment: changes the pictures of a batch, see `augment`; None leaves them as they are.
  """

  dataset: dataset_lib.Dataset
  batch_size: int
  seed: int
  permutation: Callable[[int], np.ndarray]
  shard: tuple[int, int] = (0, 1)
  augment: augment_lib.Augment | None = None

  def positions(self, step: int) -> np.ndarray:
    """Returns the places i64[B / count] in the endless stream of this process's rows.

    Raises:
      ValueError: the step is negative.
    """
    step = operator.index(step)
    if step < 0:
      raise ValueError(f'step {step}: expected 0 or more.')
    index, count = self.shard
    rows = self.batch_size // count
    return np.arange(rows) + (step * self.batch_size + index * rows)

  def indices(self, step: int) -> np.ndarray:
    """Returns the indices i64[B / count] in the data set of this process's rows of batch `step`.

    Raises:
      ValueError: the step is negative.
    """
    n = len(self.dataset)
    position = self.positions(step)
    first, last = position[0] // n, position[-1] // n
    parts = []
    for epoch in range(int(first), int(last) + 1):
      inside = position[(position >= epoch * n) & (position < (epoch + 1) * n)]
      parts.append(self.permutation(epoch)[inside - epoch * n])
    return np.concatenate(parts)

  def __call__(self, step: int) -> dict[str, np.ndarray]:
    """Returns this process's rows of batch `step`; see the class."""
    images, labels = self.dataset.take(self.indices(step))
    if self.augment is not None:
      first = int(self.positions(step)[0])
      images = self.augment(images, labels, augment_lib.uniform(self.seed, first, len(labels)))
    return {'image': images, 'label': labels}

  def epoch(self, step: int) -> float:
    """Returns how many times the data have been seen when batch `step` begins."""
    return operator.index(step) * self.batch_size / len(self.dataset)


def make_batcher(
  dataset: dataset_lib.Dataset,
  batch_size: int,
  seed: int,
  *,
  shard: tuple[int, int] = (0, 1),
  augment: augment_lib.Augment | None = None,
) -> Batcher:
  """Makes the deterministic batcher of a data set.

  Args:
    dataset: at least one example.
    batch_size: B of all processes together; at least 1; may exceed the data set, which then wraps
      around.
    seed: non-negative whole number; fixes the order of every epoch, and the augmentation.
    shard: (index, count): this process is number `index` of `count` that share every batch.
    augment: `augment(images, labels, uniform) -> images`, see `augment`.

  Returns:
    A callable `step -> {'image': f32[B / count, h, w, c] in [0, 1], 'label': i32[B / count]}`, see
    `Batcher`.

  Raises:
    ValueError: empty data set, batch size below 1 or not divisible by the number of processes, an
      index outside 0..count-1, or a negative seed.

  Example:
    >>> from dapt_jax import data
    >>> batcher = data.make_batcher(data.load('digits'), batch_size=64, seed=0)
    >>> batcher(10)['image'].shape
    (64, 8, 8, 1)
  """
  if len(dataset) == 0:
    raise ValueError(f'{dataset!r} has no examples; a batcher needs at least one.')
  if operator.index(batch_size) < 1:
    raise ValueError(f'batch_size {batch_size}: expected a whole number of at least 1.')
  if operator.index(seed) < 0:
    raise ValueError(f'seed {seed}: expected a whole number of at least 0.')
  check_shard(batch_size, shard, 'batch_size')
  n = len(dataset)

  # A few epochs are remembered: consecutive batches ask for the same one again and again.
  @functools.lru_cache(maxsize=4)
  def permutation(epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)

  return Batcher(dataset, int(batch_size), int(seed), permutation, shard, augment)


def check_shard(total: int, shard: tuple[int, int], name: str) -> None:
  """Checks that `total` rows can be shared equally.

  Args:
    total: rows of all processes together.
    shard: (index, count) of this process.
    name: how the error calls `total`.

  Raises:
    ValueError: the index is not in 0..count-1, or `total` does not divide by count.
  """
  index, count = shard
  if not 0 <= index < count:
    raise ValueError(f'shard {shard}: expected (index, count) with index in 0..count-1.')
  if total % count:
    raise ValueError(
      f'{name} {total} does not divide by {count} processes: make it a multiple of {count}, or '
      'start a number of processes that divides it.'
    )
