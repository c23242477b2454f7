"""Batch normalisation whose running statistics belong to the training loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from dapt_jax import collectives


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last (Ioffe and Szegedy, 2015).

  Parameters `scale` and `bias` (`f32[C]`), collection `batch_stats` with `mean` and `var`
  (`f32[C]`, the biased variance). In training the module normalises with the statistics of the
  batch and, where `batch_stats` is mutable, writes *this batch's* statistics there. The moving
  average is the training loop's business: it alone knows about momentum, devices, populations.

  Attributes:
    epsilon: added to the variance.
    axis_name: a mapped axis over which the batch statistics are averaged; None means one device.
  """

  epsilon: float = 1e-5
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Normalises `[..., C]`; `train` chooses the batch's or the stored statistics."""
    width, given = x.shape[-1], x.dtype
    x = x.astype(jnp.promote_types(given, jnp.float32))  # moments of short floats lose too much
    scale = self.param('scale', nn.initializers.ones, (width,))
    bias = self.param('bias', nn.initializers.zeros, (width,))
    stored_mean = self.variable('batch_stats', 'mean', jnp.zeros, (width,))
    stored_var = self.variable('batch_stats', 'var', jnp.ones, (width,))
    if train:
      mean, var = self._batch_statistics(x)
      if not self.is_initializing() and self.is_mutable_collection('batch_stats'):
        stored_mean.value, stored_var.value = mean, var
    else:
      mean, var = stored_mean.value, stored_var.value
    multiplier = scale * lax.rsqrt(var + self.epsilon)
    return (x * multiplier + (bias - mean * multiplier)).astype(given)

  def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of the batch, over devices too when `axis_name` is set."""
    axes = tuple(range(x.ndim - 1))
    # One pass over x for both moments. Taken about a value near the mean, here the first example's
    # mean, E[d^2] - E[d]^2 keeps its digits where |mean| >> deviation.
    shift = lax.stop_gradient(jnp.mean(x[:1], axes))
    deviation = x - shift
    first, second = jnp.mean(deviation, axes), jnp.mean(jnp.square(deviation), axes)
    var = jnp.maximum(second - jnp.square(first), 0.0)
    return collectives.moments(shift + first, var, self.axis_name)
