"""Random changes of training pictures that depend on the seed and the place in the stream alone.

A batcher hands every example its own uniform random numbers, drawn from the seed and from the
example's place in the endless stream of epochs. So a resumed run sees the same pictures again, on
whatever number of processes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Independent uniform numbers that every example gets.
NUMBERS = 8
#: A counter of the generator gives four of them.
_COUNTERS = NUMBERS // 4

#: `augment(images f32[b, h, w, c], labels i32[b], uniform f64[b, NUMBERS]) -> images`.
Augment = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def uniform(seed: int, first: int, count: int) -> np.ndarray:
  """Returns numbers in [0, 1) for consecutive places of the stream, f64[count, NUMBERS].

  Philox is a generator of counters (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2,
  3"): the numbers of any place can be had without those before it.

  Args:
    seed: non-negative whole number.
    first: the first place, 0 or more.
    count: how many places.
  """
  bits = np.random.Philox(np.random.SeedSequence(seed)).advance(first * _COUNTERS)
  return np.random.Generator(bits).random((count, NUMBERS))


def shift(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Returns the pictures moved by whole pixels; zeros come in at the border.

  Args:
    images: [b, h, w, c].
    rows: int[b], downwards where positive.
    columns: int[b], to the right where positive.
  """
  reach = int(max(np.abs(rows).max(initial=0), np.abs(columns).max(initial=0)))
  padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
  h, w = images.shape[1:3]
  windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w), axis=(1, 2))
  chosen = windows[np.arange(len(images)), reach - rows, reach - columns]  # [b, c, h, w]
  return np.ascontiguousarray(np.moveaxis(chosen, 1, -1))


def flip(images: np.ndarray, which: np.ndarray) -> np.ndarray:
  """Returns the pictures [b, h, w, c], those where `which` (bool[b]) mirrored left to right."""
  return np.where(which[:, None, None, None], images[:, :, ::-1], images)


def shift_and_flip(pixels: int = 4, mirrored: bool = True) -> Augment:
  """Returns the usual augmentation of small pictures: pad, crop at random, mirror half of them.

  He et al., 2016, "Deep residual learning for image recognition", section 4.2: 4 pixels a side.

  Args:
    pixels: the farthest shift along an axis, 0 or more.
    mirrored: mirror with probability 1/2; not for letters and digits.

  Raises:
    ValueError: a negative number of pixels.
  """
  if pixels < 0:
    raise ValueError(f'pixels {pixels}: a picture is shifted by 0 pixels or more.')

  def augment(images: np.ndarray, labels: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    del labels
    rows, columns = (
      np.floor(uniform[:, k] * (2 * pixels + 1)).astype(int) - pixels for k in (0, 1)
    )
    moved = shift(images, rows, columns)
    return flip(moved, uniform[:, 2] < 0.5) if mirrored else moved

  return augment
