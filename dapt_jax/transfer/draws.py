"""Few-shot draws: a few labelled examples a class, seeded, disjoint from the test split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Support(NamedTuple):
  """Support sets of several runs, padded to one size.

  Attributes:
    index: i32[runs, size] into the target's training split; a set smaller than `size` is repeated
      in order. Where its size does not divide `size`, its first examples occur once more.
    count: i32[runs], different examples in each set.
    shots: i32[runs], examples a class.
    draw: i32[runs], which draw; runs of equal draw and shots share their examples.
  """

  index: np.ndarray  # type: ignore[assignment]
  count: np.ndarray  # type: ignore[assignment]
  shots: np.ndarray
  draw: np.ndarray


def draw(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
  """Chooses `shots` examples of every class.

  Args:
    labels: i32[n], classes 0..C-1.
    shots: examples a class, at least 1.
    seed: draws of one seed are nested: 5 shots contain 1 shot.

  Returns:
    i32[shots * C], ordered round by round, one example of every class a round.

  Raises:
    ValueError: if a class has fewer examples; the message names it.
  """
  if shots < 1:
    raise ValueError(f'shots is {shots}; at least one example a class is needed')
  columns = []
  for label in range(int(labels.max()) + 1):
    members = np.flatnonzero(labels == label)
    if len(members) < shots:
      raise ValueError(
        f'class {label} has {len(members)} training examples, {shots} shots were asked for; '
        'lower the shots or take another target'
      )
    order = np.random.default_rng([seed, label]).permutation(members)
    columns.append(order[:shots])
  return np.stack(columns, axis=1).reshape(-1).astype(np.int32)


def supports(labels: np.ndarray, shots: Sequence[int], num_draws: int, seed: int = 0) -> Support:
  """All support sets of a few-shot protocol, `len(shots) * num_draws` runs.

  Args:
    labels: i32[n] of the target's training split.
    shots: e.g. (1, 5, 10, 20).
    num_draws: independent draws for every number of shots.
    seed: of draw 0; draw d uses seed + d.

  Returns:
    The sets, shots-major.

  Raises:
    ValueError: without shots or draws, or if a class has too few examples.
  """
  if not len(shots) or num_draws < 1:
    raise ValueError(
      f'shots is {tuple(shots)} and num_draws is {num_draws}; give at least one of each'
    )
  sets = [(s, d, draw(labels, s, seed + d)) for s in shots for d in range(num_draws)]
  size = max(len(index) for _, _, index in sets)
  return Support(
    np.stack([np.resize(index, size) for _, _, index in sets]),
    np.array([len(index) for _, _, index in sets], np.int32),
    np.array([s for s, _, _ in sets], np.int32),
    np.array([d for _, d, _ in sets], np.int32),
  )
