"""Principal components of codes: the linear autoencoder that every other one has to beat."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg


class PCA(NamedTuple):
  """Principal component analysis (Pearson, 1901) of vectors; a pytree of arrays.

  Attributes:
    mean: f32[D].
    components: f32[rank, D], orthonormal rows, largest variance first.
    variance: f32[rank], variances of the latents.
    total: f32[], variance of all D entries together.
  """

  mean: np.ndarray
  components: np.ndarray
  variance: np.ndarray
  total: np.ndarray

  def encode(self, vectors: jax.Array) -> jax.Array:
    """Latents f32[..., rank] of f32[..., D]."""
    return (jnp.asarray(vectors) - self.mean) @ self.components.T

  def decode(self, latents: jax.Array) -> jax.Array:
    """Vectors f32[..., D], the nearest to what was encoded in the span of the components."""
    return jnp.asarray(latents) @ self.components + self.mean

  @property
  def explained(self) -> np.ndarray:
    """f32[rank], share of the total variance that every component explains."""
    return self.variance / np.maximum(self.total, np.finfo(np.float32).tiny)


def fit(vectors: np.ndarray, rank: int) -> PCA:
  """Fits components by the eigenvectors of the smaller of the two Gram matrices, in float64.

  Args:
    vectors: f32[N, D], codes of N networks.
    rank: number of components, at most min(N - 1, D).

  Raises:
    ValueError: for another shape or rank, or entries that are not finite.
  """
  vectors = np.asarray(vectors, np.float64)
  if vectors.ndim != 2 or not np.isfinite(vectors).all():
    raise ValueError(f'vectors has shape {vectors.shape}; it must be finite numbers [N, D]')
  n, size = vectors.shape
  if not 1 <= rank <= min(n - 1, size):
    raise ValueError(f'rank is {rank}; {n} vectors of {size} have 1 to {min(n - 1, size)}')
  mean = vectors.mean(axis=0)
  centred = vectors - mean
  wide = size > n
  gram = centred @ centred.T if wide else centred.T @ centred
  last = len(gram) - 1
  values, found = linalg.eigh(gram, subset_by_index=(last - rank + 1, last))
  values, found = np.maximum(values[::-1], 0.0), found[:, ::-1]
  components = found.T @ centred if wide else found.T
  components /= np.maximum(np.linalg.norm(components, axis=1, keepdims=True), 1e-300)
  largest = np.abs(components).argmax(axis=1)
  components *= np.where(components[np.arange(rank), largest] < 0, -1.0, 1.0)[:, None]
  arrays = mean, components, values / n, np.trace(gram) / n
  return PCA(*(np.asarray(x, np.float32) for x in arrays))
