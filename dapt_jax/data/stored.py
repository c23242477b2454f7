"""Pictures that stay on disk: rows of an array that are read and decoded when asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from dapt_jax.data import arrays
from dapt_jax.data import pixels as pixels_lib

#: `read(positions i64[k]) -> k pictures`, each [h, w] or [h, w, c]; called from several threads.
Read = Callable[[np.ndarray], list[np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class StoredPixels:
  """Pictures on disk that are indexed as the array [n, h, w, c] would be.

  Attributes:
    read: brings pictures by their position.
    index: i64[n], the position of each row.
    image_shape: (h, w, c) of every row.
    dtype: u8, or f32 in [0, 1].
    size: (h, w) to which pictures are resized; None takes them as they are.
  """

  read: Read
  index: np.ndarray
  image_shape: tuple[int, int, int]
  dtype: np.dtype
  size: tuple[int, int] | None = None

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """(n, h, w, c)."""
    return (len(self.index), *self.image_shape)

  @property
  def ndim(self) -> int:
    """4."""
    return 4

  def __len__(self) -> int:
    return len(self.index)

  def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
    """Reads rows, each picture once however often it is asked for.

    Args:
      rows: a slice, or int[k].

    Returns:
      [k, h, w, c] of `dtype`.

    Raises:
      ValueError: a picture is damaged, or of another size than the others.
    """
    positions, back = np.unique(self.index[rows], return_inverse=True)
    if not len(positions):
      return np.empty((0, *self.image_shape), self.dtype)
    pixels = _decoded(self.read(positions), self.size)
    if pixels.shape[1:] != self.image_shape:
      raise ValueError(
        f'pictures {positions[0]}..{positions[-1]} have shape {pixels.shape[1:]}, the first one '
        f'{self.image_shape}; pass image_size=..., for example image_size={self.image_shape[0]}.'
      )
    return pixels[back]

  def select(self, index: np.ndarray) -> StoredPixels:
    """Returns the rows `index` (int[k]), still on disk."""
    return dataclasses.replace(self, index=self.index[index])

  def resize(self, size: int | Sequence[int]) -> StoredPixels:
    """Returns the pictures in another size, as `pixels.resize` makes it, still on disk.

    Raises:
      ValueError: they are resized already.
    """
    if self.size is not None:
      raise ValueError(
        f'stored pictures are resized to {self.size} already; pass another image_size where they '
        'are loaded.'
      )
    height, width = pixels_lib.check_size(size)
    shape = (height, width, self.image_shape[2])
    dtype = np.dtype(np.float32)
    return dataclasses.replace(self, image_shape=shape, dtype=dtype, size=(height, width))


def make(read: Read, count: int, image_size: int | Sequence[int] | None = None) -> StoredPixels:
  """Makes the pictures 0..count-1 of a reader, and looks at the first one.

  Args:
    read: brings pictures by position.
    count: n, at least 1.
    image_size: edge length or `(height, width)` to resize to; needed where sizes differ.

  Raises:
    ValueError: the size is not positive whole numbers, or the first picture is damaged.
  """
  first = _decoded(read(np.zeros(1, np.int64)), None)
  height, width, channels = first.shape[1:]
  found = StoredPixels(read, np.arange(count), (height, width, channels), first.dtype)
  return found if image_size is None else found.resize(image_size)


def _decoded(images: list[np.ndarray], size: tuple[int, int] | None) -> np.ndarray:
  """Checked pictures as one array, f32 of the given size where there is one."""
  pixels = arrays.check_pixels(arrays.stack(images, size))
  if size is None or (pixels.shape[1:3] == size and pixels.dtype == np.float32):
    return pixels
  return pixels_lib.resize(pixels, size)
