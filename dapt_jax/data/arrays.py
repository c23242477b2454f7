"""Data sets from arrays in memory, checked so that mistakes are named and not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dapt_jax.data import dataset as dataset_lib
from dapt_jax.data import pixels as pixels_lib


def from_arrays(
  images: np.ndarray | Sequence[np.ndarray],
  labels: np.ndarray | Sequence[int],
  *,
  num_classes: int | None = None,
  class_names: Sequence[str] | None = None,
  image_size: int | Sequence[int] | None = None,
  name: str = 'arrays',
  split: str = 'train',
  source: str = 'arrays in memory',
) -> dataset_lib.Dataset:
  """Builds a data set from your own arrays.

  Args:
    images: [n, h, w] or [n, h, w, c] (channels last), u8 in 0..255 or floats in [0, 1]; or a list
      of pictures [h, w] or [h, w, c], whose sizes may differ where `image_size` is given.
    labels: n whole numbers in 0..num_classes-1, every class at least once.
    num_classes: number of classes; taken from `class_names` or the largest label where None.
    class_names: one name per class; '0', '1', ... where None.
    image_size: edge length or `(height, width)` to resize to; the sizes as they are where None.
    name: name of the data set.
    split: name of this part.
    source: where the pictures came from.

  Returns:
    A `Dataset`.

  Raises:
    ValueError: empty input, wrong rank, sizes that differ without `image_size`, channels first,
      pixels that are NaN, infinite or out of range, labels that do not match the images, are not
      whole numbers or leave 0..num_classes-1, or a class without examples.
  """
  pixels = check_pixels(stack(images, image_size))
  if image_size is not None:
    size = pixels_lib.check_size(image_size)
    pixels = pixels if pixels.shape[1:3] == size else pixels_lib.resize(pixels, size)
  if num_classes is None and class_names is not None:
    num_classes = len(class_names)
  classes = check_labels(labels, len(pixels), num_classes)
  total = int(classes.max()) + 1 if num_classes is None else num_classes
  names = tuple(class_names) if class_names is not None else tuple(map(str, range(total)))
  return dataset_lib.Dataset(pixels, classes, total, names, name, split, source)


def stack(
  images: np.ndarray | Sequence[np.ndarray], image_size: int | Sequence[int] | None = None
) -> np.ndarray:
  """Returns pictures as one array [n, h, w, c], adding a channel axis of one where missing.

  A list of pictures of different sizes is resized to `image_size`, one picture at a time.

  Args:
    images: an array, or a list of pictures; see `from_arrays`.
    image_size: needed only where sizes differ.

  Raises:
    ValueError: no pictures, a wrong rank, channels first or mixed, or sizes that differ without
      `image_size`.
  """
  if len(images) == 0:
    raise ValueError('images: there are none; give at least one picture.')
  if isinstance(images, np.ndarray) and images.dtype != object:
    if images.ndim not in (3, 4):
      raise ValueError(
        f'images: shape {images.shape} has rank {images.ndim}; expected [n, height, width] or '
        '[n, height, width, channels]. Flat rows are reshaped with images.reshape(n, h, w).'
      )
    array = images if images.ndim == 4 else images[..., None]
  else:
    array = _stack_list([_with_channels(i, x) for i, x in enumerate(images)], image_size)
  if array.shape[1] in (1, 3) and array.shape[3] not in (1, 3, 4):
    raise ValueError(
      f'images: shape {array.shape} looks channels first; expected channels last. Use '
      'np.moveaxis(images, 1, -1).'
    )
  if 0 in array.shape:
    raise ValueError(f'images: shape {array.shape} has an axis of length 0.')
  return array


def _with_channels(i: int, image: np.ndarray) -> np.ndarray:
  image = np.asarray(image)
  if image.ndim not in (2, 3):
    raise ValueError(
      f'images[{i}]: shape {image.shape} has rank {image.ndim}; expected [height, width] or '
      '[height, width, channels].'
    )
  return image if image.ndim == 3 else image[..., None]


def _stack_list(images: list[np.ndarray], image_size: int | Sequence[int] | None) -> np.ndarray:
  channels = sorted({image.shape[2] for image in images})
  if len(channels) > 1:
    raise ValueError(f'images: pictures have {channels} channels; make all alike.')
  shapes = sorted({image.shape[:2] for image in images})
  if len(shapes) == 1:
    return np.stack(images)
  if image_size is None:
    raise ValueError(
      f'images: {len(shapes)} different sizes, from {shapes[0]} to {shapes[-1]}; pass '
      'image_size=..., for example image_size=28.'
    )
  resized = [pixels_lib.resize(check_pixels(image[None]), image_size) for image in images]
  return np.concatenate(resized)


def check_pixels(pixels: np.ndarray) -> np.ndarray:
  """Returns pixels as u8, or as f32 in [0, 1].

  Args:
    pixels: [n, h, w, c]; u8, bool, or floats in [0, 1].

  Raises:
    ValueError: another dtype, NaN, infinity, or floats outside [0, 1].
  """
  if pixels.dtype == np.uint8:
    return pixels
  if pixels.dtype != bool and not np.issubdtype(pixels.dtype, np.floating):
    raise ValueError(
      f'images: dtype {pixels.dtype}; expected uint8 (0..255) or floats in [0, 1]. Whole numbers '
      'in 0..255 are cast with images.astype(np.uint8).'
    )
  values = pixels.astype(np.float32)
  finite = np.isfinite(values)
  if not finite.all():
    where = tuple(int(i) for i in np.argwhere(~finite)[0])
    raise ValueError(
      f'images[{where[0]}] has {values[where]} at (row, column, channel) {where[1:]}; pixels must '
      'be finite numbers in [0, 1]. Remove or repair that picture.'
    )
  # Decoders and resizers overshoot by a rounding error; anything beyond that is another scale.
  low, high = float(values.min()), float(values.max())
  if low < -1e-5 or high > 1 + 1e-5:
    raise ValueError(
      f'images: floats span {low:g}..{high:g}; expected [0, 1]. Divide 0..255 by 255, and undo '
      'any standardisation: the package has its own (Standardizer).'
    )
  return np.clip(values, 0, 1)


def check_labels(
  labels: np.ndarray | Sequence[int], n: int, num_classes: int | None = None
) -> np.ndarray:
  """Returns labels as i32[n], with every class 0..num_classes-1 present.

  Args:
    labels: n whole numbers.
    n: number of pictures.
    num_classes: number of classes; largest label plus one where None.

  Raises:
    ValueError: a wrong shape, dtype or length, a label outside, or a class without examples.
  """
  array = np.asarray(labels)
  if array.ndim != 1:
    raise ValueError(
      f'labels: shape {array.shape}; expected one whole number per image. One-hot rows are turned '
      'with labels.argmax(axis=1).'
    )
  if len(array) != n:
    raise ValueError(f'{n} images but {len(array)} labels; expected one label per image.')
  if not np.issubdtype(array.dtype, np.integer):
    raise ValueError(
      f'labels: dtype {array.dtype}; expected whole numbers 0, 1, 2, ... Names are turned with '
      'class_names, labels = np.unique(labels, return_inverse=True).'
    )
  total = int(array.max()) + 1 if num_classes is None else num_classes
  if array.min() < 0 or array.max() >= total:
    raise ValueError(
      f'labels span {array.min()}..{array.max()}; expected 0..{total - 1}. Renumber with '
      'np.unique(labels, return_inverse=True)[1].'
    )
  empty = sorted(set(range(total)) - set(np.unique(array).tolist()))
  if empty:
    raise ValueError(
      f'classes {empty[:10]} of 0..{total - 1} have no example (labels must be 0..n-1 without '
      'gaps). Add examples, or renumber with np.unique(labels, return_inverse=True)[1].'
    )
  return array.astype(np.int32)
