"""The one shape in which labelled pictures travel through the package."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from dapt_jax.data import pixels as pixels_lib


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
  """Labelled pictures, in memory or on disk.

  Bytes are kept as bytes: `images` turns all of them to floats on first use and keeps the result,
  `take` turns only the asked ones. To build one from your own arrays use `from_arrays`, which
  checks them. Pictures on disk (`load` with `in_memory=False`) are read and decoded by `take`, and
  by nothing else but `images`, which brings all of them into memory; labels are in memory always.

  Attributes:
    pixels: [n, h, w, c], u8 in 0..255 or f32 in [0, 1].
    labels: i32[n], classes 0..num_classes-1.
    num_classes: number of classes; a class may have no example here (after `subset`).
    class_names: one name per class.
    name: name of the data set, such as 'mnist'.
    split: 'train', 'test', 'all', or the name of a part.
    source: where the pictures came from, for people and for reports.

  Raises:
    ValueError: ranks, lengths, dtypes, labels or class names do not fit together.
  """

  pixels: np.ndarray | pixels_lib.Lazy
  labels: np.ndarray
  num_classes: int
  class_names: tuple[str, ...]
  name: str
  split: str
  source: str

  def __post_init__(self):
    where = f'data set {self.name!r} ({self.split})'
    if self.pixels.ndim != 4:
      raise ValueError(
        f'{where}: pixels have shape {self.pixels.shape}; expected [n, height, width, channels]. '
        'Use from_arrays, which adds a missing channel axis.'
      )
    if self.pixels.dtype not in (np.uint8, np.float32):
      raise ValueError(
        f'{where}: pixels have dtype {self.pixels.dtype}; expected uint8 (0..255) or float32 '
        '([0, 1]). Use from_arrays, which converts.'
      )
    if self.labels.shape != (len(self.pixels),):
      raise ValueError(
        f'{where}: {len(self.pixels)} images but labels of shape {self.labels.shape}; expected '
        'one label per image.'
      )
    if self.labels.dtype != np.int32:
      raise ValueError(f'{where}: labels have dtype {self.labels.dtype}; expected int32.')
    if len(self.class_names) != self.num_classes:
      raise ValueError(
        f'{where}: {len(self.class_names)} class names for {self.num_classes} classes.'
      )
    if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < self.num_classes:
      raise ValueError(
        f'{where}: labels span {self.labels.min()}..{self.labels.max()}; expected whole numbers '
        f'in 0..{self.num_classes - 1}.'
      )

  def __len__(self) -> int:
    return len(self.labels)

  def __repr__(self) -> str:
    h, w, c = self.image_shape
    return (
      f'Dataset({self.name}/{self.split}: {len(self)} images {h}x{w}x{c}, '
      f'{self.num_classes} classes, from {self.source})'
    )

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """`(height, width, channels)` of one picture."""
    h, w, c = self.pixels.shape[1:]
    return h, w, c

  @functools.cached_property
  def images(self) -> np.ndarray:
    """All pictures, f32[n, h, w, c] in [0, 1]; converted once, then kept."""
    return pixels_lib.to_float(self.pixels[:])

  def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pictures f32[k, h, w, c] and labels i32[k] at `indices` (int[k])."""
    return pixels_lib.to_float(self.pixels[indices]), self.labels[indices]

  def resize(self, size: int | Sequence[int]) -> Dataset:
    """Returns the same data with pictures of another size.

    An axis that shrinks is averaged over areas (28 -> 14 is the mean of 2x2 blocks, and the mean
    of a picture is preserved); an axis that grows is interpolated linearly (8 -> 14).

    Args:
      size: one edge length, or `(height, width)`, in pixels.

    Raises:
      ValueError: the size is not positive whole numbers.
    """
    if pixels_lib.check_size(size) == self.image_shape[:2]:
      return self
    if isinstance(self.pixels, np.ndarray):
      return dataclasses.replace(self, pixels=pixels_lib.resize(self.pixels, size))
    return dataclasses.replace(self, pixels=self.pixels.resize(size))

  def subset(self, indices: Sequence[int] | np.ndarray, split: str | None = None) -> Dataset:
    """Returns the examples at `indices`, in that order, with the classes unchanged.

    Args:
      indices: int[k] in 0..n-1; repeats are allowed.
      split: a new name for the part; the old one is kept where None.

    Raises:
      ValueError: an index is not a whole number or lies outside.
    """
    index = np.asarray(indices)
    if index.size == 0:
      index = index.astype(np.int64)
    if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
      raise ValueError(
        f'subset of {self.name!r}: indices have shape {index.shape} and dtype {index.dtype}; '
        'expected a list of whole numbers. For a mask use np.flatnonzero(mask).'
      )
    if index.size and (index.min() < 0 or index.max() >= len(self)):
      raise ValueError(
        f'subset of {self.name!r}: indices span {index.min()}..{index.max()}; expected '
        f'0..{len(self) - 1}.'
      )
    return dataclasses.replace(
      self, pixels=self._rows(index), labels=self.labels[index], split=split or self.split
    )

  def classes(self, keep: Sequence[int | str]) -> Dataset:
    """Returns the examples of some classes, relabelled 0..k-1 in the order given.

    Args:
      keep: class numbers or class names, without repeats.

    Raises:
      ValueError: a class is unknown or named twice, or the list is empty.
    """
    numbers = [self._class_number(which) for which in keep]
    if not numbers or len(set(numbers)) != len(numbers):
      raise ValueError(f'classes {list(keep)!r} of {self.name!r}: name at least one, each once.')
    renumber = np.full(self.num_classes, -1, np.int32)
    renumber[numbers] = np.arange(len(numbers), dtype=np.int32)
    labels = renumber[self.labels]
    chosen = np.flatnonzero(labels >= 0)
    return dataclasses.replace(
      self,
      pixels=self._rows(chosen),
      labels=labels[chosen],
      num_classes=len(numbers),
      class_names=tuple(self.class_names[k] for k in numbers),
    )

  def _rows(self, index: np.ndarray) -> np.ndarray | pixels_lib.Lazy:
    """Some pictures, where they are now: in memory or on disk."""
    return self.pixels[index] if isinstance(self.pixels, np.ndarray) else self.pixels.select(index)

  def _class_number(self, which: int | str) -> int:
    if isinstance(which, str) and which in self.class_names:
      return self.class_names.index(which)
    if isinstance(which, int | np.integer) and 0 <= which < self.num_classes:
      return int(which)
    raise ValueError(
      f'class {which!r} of {self.name!r}: expected a number in 0..{self.num_classes - 1} or one '
      f'of the names {list(self.class_names)}.'
    )


def concatenate(parts: Sequence[Dataset], split: str = 'all') -> Dataset:
  """Joins parts of one data set, one after the other, in memory.

  Args:
    parts: at least one; equal picture shapes and class names.
    split: name of the whole.

  Raises:
    ValueError: no parts, or they differ in picture shape, pixel dtype or classes.
  """
  if not parts:
    raise ValueError('concatenate: no parts given.')
  first = parts[0]
  for other in parts[1:]:
    mine = (first.image_shape, first.pixels.dtype, first.class_names)
    theirs = (other.image_shape, other.pixels.dtype, other.class_names)
    if mine != theirs:
      raise ValueError(
        f'cannot join {first!r} and {other!r}: picture shape, pixel dtype and class names must '
        'be equal. Resize or select classes first.'
      )
  return dataclasses.replace(
    first,
    pixels=np.concatenate([p.pixels[:] for p in parts]),
    labels=np.concatenate([p.labels for p in parts]),
    split=split,
  )
