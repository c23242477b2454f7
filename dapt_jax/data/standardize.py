"""Zero mean and unit variance per channel, measured on training pictures."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import jax
import numpy as np

from dapt_jax.data import dataset as dataset_lib
from dapt_jax.data import pixels as pixels_lib

ArrayT = TypeVar('ArrayT', np.ndarray, jax.Array)
_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Standardizer:
  """`standardizer(images) = (images - mean) / std`, on NumPy arrays and inside `jax.jit` alike.

  Attributes:
    mean: one float per channel, in units of [0, 1] pixels.
    std: one positive float per channel, same units.

  Raises:
    ValueError: a standard deviation that is not positive, or lengths that differ.

  Example:
    >>> from dapt_jax import data
    >>> standardizer = data.Standardizer.fit(data.load('digits'))
    >>> float(abs(standardizer(data.load('digits').images).mean())) < 1e-4
    True
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]

  def __post_init__(self):
    if len(self.mean) != len(self.std):
      raise ValueError(f'{len(self.mean)} means but {len(self.std)} deviations; one per channel.')
    if not all(s > 0 for s in self.std):
      raise ValueError(
        f'standard deviations {self.std}: all must be positive; zero means that a channel has '
        'the same value everywhere. Drop that channel or check the pictures.'
      )

  @classmethod
  def fit(cls, dataset: dataset_lib.Dataset) -> Standardizer:
    """Measures mean and standard deviation per channel over all pixels of a training set.

    Raises:
      ValueError: no pictures, or a channel that is constant.
    """
    if len(dataset) == 0:
      raise ValueError(f'{dataset!r} has no examples to measure.')
    total, squares, count = 0.0, 0.0, 0
    for start in range(0, len(dataset), _CHUNK):
      part = pixels_lib.to_float(dataset.pixels[start : start + _CHUNK]).astype(np.float64)
      total = total + part.sum(axis=(0, 1, 2))
      squares = squares + np.square(part).sum(axis=(0, 1, 2))
      count += part.shape[0] * part.shape[1] * part.shape[2]
    mean = np.asarray(total) / count
    variance = np.asarray(squares) / count - mean**2
    # Rounding leaves about 1e-16 on a constant channel.
    std = np.sqrt(np.where(variance < 1e-12, 0.0, variance))
    return cls(tuple(mean.tolist()), tuple(std.tolist()))

  def __call__(self, images: ArrayT) -> ArrayT:
    """Returns standardised pictures; f32[..., c] to f32[..., c]."""
    self._check(images)
    return (images - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

  def inverse(self, images: ArrayT) -> ArrayT:
    """Returns pictures in [0, 1] again; f32[..., c] to f32[..., c]."""
    self._check(images)
    return images * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)

  def _check(self, images) -> None:
    if images.shape[-1] != len(self.mean):
      raise ValueError(
        f'images of shape {images.shape}: the last axis must have the {len(self.mean)} channels '
        'that were measured.'
      )
