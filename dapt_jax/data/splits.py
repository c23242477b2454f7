"""Class-balanced splits, decided by labels, sizes and a seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dapt_jax.data import dataset as dataset_lib

#: Share of every class held out of data without a test split, and the seed of the draw.
TEST_FRACTION = 0.2
SPLIT_SEED = 0


def check_split(split: str) -> None:
  """Raises ValueError where `split` is not 'train', 'test' or 'all'."""
  if split not in ('train', 'test', 'all'):
    raise ValueError(f"split {split!r}: expected 'train', 'test' or 'all'.")


def _apportion(counts: np.ndarray, total: int) -> np.ndarray:
  """Shares `total` among classes in proportion to `counts` (largest remainders)."""
  quota = counts * (total / max(counts.sum(), 1))
  shares = np.floor(quota + 1e-9).astype(np.int64)
  order = np.argsort(-(quota - shares), kind='stable')
  shares[order[: total - shares.sum()]] += 1
  return shares


def stratified(labels: np.ndarray, sizes: Sequence[int], seed: int) -> list[np.ndarray]:
  """Draws disjoint parts of given sizes, every class in proportion.

  Per class, a part holds its proportional share rounded down or up. A pure function of its
  arguments.

  Args:
    labels: i32[n], non-negative.
    sizes: examples per part; they may sum to less than n, the rest is left out.
    seed: non-negative whole number.

  Returns:
    One i64[size] per part, ascending indices.

  Raises:
    ValueError: the sizes ask for more than there is, or a part would miss a class.
  """
  if min(sizes, default=0) < 1 or sum(sizes) > len(labels):
    raise ValueError(
      f'part sizes {list(sizes)} from {len(labels)} examples: each must be at least 1 and their '
      'sum at most the number of examples.'
    )
  rng = np.random.default_rng(seed)
  present = np.unique(labels)
  pools = [rng.permutation(np.flatnonzero(labels == k)) for k in present]
  parts = []
  for size in sizes:
    shares = _apportion(np.array([len(pool) for pool in pools]), size)
    if shares.min() == 0:
      k = int(np.argmin(shares))
      raise ValueError(
        f'class {present[k]} has {int(np.sum(labels == present[k]))} examples: too few for a '
        f'part of {size} of {len(labels)} to hold one. Add examples of it or ask for fewer, '
        'larger parts.'
      )
    parts.append(np.sort(np.concatenate([pool[:m] for pool, m in zip(pools, shares)])))
    pools = [pool[m:] for pool, m in zip(pools, shares)]
  return parts


def split(
  dataset: dataset_lib.Dataset, fractions: Sequence[float], seed: int
) -> tuple[dataset_lib.Dataset, ...]:
  """Splits a data set into disjoint class-balanced parts.

  Args:
    dataset: what to split.
    fractions: share of each part, positive, sum at most 1 (the rest is left out); for example
      (0.5, 0.5) for the weight half and the gate half of an architecture search.
    seed: non-negative whole number; the same seed gives the same parts.

  Returns:
    One `Dataset` per fraction; every class present keeps its proportion in every part.

  Raises:
    ValueError: fractions that are not positive or sum to more than 1, or a class too small.
  """
  shares = np.asarray(fractions, np.float64)
  positive = shares.ndim == 1 and shares.size > 0 and bool(np.all(shares > 0))
  if not positive or shares.sum() > 1 + 1e-9:
    raise ValueError(
      f'fractions {fractions!r}: expected positive numbers with a sum of at most 1, for example '
      '(0.5, 0.5).'
    )
  cuts = np.rint(np.concatenate([[0.0], np.cumsum(shares)]) * len(dataset)).astype(int)
  parts = stratified(dataset.labels, [int(s) for s in np.diff(cuts)], seed)
  names = [f'{dataset.split}[{i + 1}/{len(parts)}]' for i in range(len(parts))]
  return tuple(dataset.subset(index, split=name) for index, name in zip(parts, names))


def train_test_indices(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the seeded class-balanced (train, test) indices for data without a test split.

  Args:
    labels: i32[n], every class at least twice.

  Returns:
    Ascending i64 indices, disjoint, together all of them; a fifth is test, at least one a class.
  """
  test = []
  rng = np.random.default_rng(SPLIT_SEED)
  for k in np.unique(labels):
    members = rng.permutation(np.flatnonzero(labels == k))
    test.append(members[: max(1, round(TEST_FRACTION * len(members)))])
  held_out = np.sort(np.concatenate(test))
  return np.setdiff1d(np.arange(len(labels)), held_out), held_out
