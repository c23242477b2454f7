"""What devices that share a step tell each other, in as few exchanges as possible.

Between processes an exchange costs mostly latency, some tenths of a millisecond and more on CPUs. A
pytree of a hundred arrays is therefore sent as one.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import flatten_util, lax


def mean(tree: Any, axis_name: str | None) -> Any:
  """Mean over the devices of a mapped axis, of all arrays of a pytree at once.

  Args:
    tree: arrays of floating point numbers.
    axis_name: the axis; None means one device.

  Returns:
    The same pytree, equal on all devices.
  """
  if axis_name is None:
    return tree
  flat, unravel = flatten_util.ravel_pytree(tree)
  return unravel(lax.pmean(flat, axis_name))


def moments(mean: jax.Array, var: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
  """Mean and biased variance of all devices' examples, out of those of each.

  Args:
    mean: f[C], of this device's examples.
    var: f[C], likewise; every device has as many examples.
    axis_name: as in `mean`.
  """
  if axis_name is None:
    return mean, var
  means, variances = jnp.moveaxis(lax.all_gather(jnp.stack([mean, var]), axis_name), 1, 0)
  whole = means.mean(0)
  return whole, variances.mean(0) + jnp.square(means - whole).mean(0)
