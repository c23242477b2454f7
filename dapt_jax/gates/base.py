"""What all relaxations share: their interface, and the checks of their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.types import ArrayTree

#: A temperature: a Python number or a scalar array, concrete or traced.
Temperature = float | jax.Array


class Sample(Protocol):
  """`sample(theta, key, hard, soft)`: gates with the derivative of the relaxation attached."""

  def __call__(
    self,
    theta: ArrayTree,
    key: Any,
    hard: Temperature = 0.1,
    soft: Temperature = 1.0,
  ) -> ArrayTree:
    """Gates in [0, 1] with the structure, shapes and dtypes of `theta`."""


class Expected(Protocol):
  """`expected(theta, hard, soft)`: the noise-free value that enters the complexity."""

  def __call__(
    self, theta: ArrayTree, hard: Temperature = 0.1, soft: Temperature = 1.0
  ) -> ArrayTree:
    """Values in [0, 1] with the structure, shapes and dtypes of `theta`."""


class Relaxation(NamedTuple):
  """One way to make gates differentiable; every relaxation of the package has this shape.

  Attributes:
    name: The name `gates.get` knows it by.
    sample: Gates in [0, 1] shaped as `theta`, to multiply the network with. Deterministic
      relaxations ignore `key` (None will do).
    expected: Values in [0, 1] shaped as `theta`, to multiply the costs with.
  """

  name: str
  sample: Sample
  expected: Expected


def _concrete(value: Temperature) -> np.floating | None:
  """The number behind `value` in float32, or None where it is known only at run time."""
  if isinstance(value, jax.core.Tracer):
    return None
  # float32 on both sides: 0.1 as a float32 array must not exceed 0.1 as a Python float.
  return np.float32(jax.device_get(value))


def check_soft(soft: Temperature) -> None:
  """Checks one temperature.

  Args:
    soft: Scalar; a traced value is checked for its shape only.

  Raises:
    ValueError: If it is not a scalar, or is known and not positive and finite.
  """
  if np.ndim(soft) != 0:
    raise ValueError(
      f'soft temperature has shape {np.shape(soft)}; it must be a scalar: pass one number for all '
      'gates, or map over temperatures with jax.vmap.'
    )
  number = _concrete(soft)
  if number is not None and not 0 < number < np.inf:
    raise ValueError(
      f'soft temperature is {number}; it must be positive and finite: use 1.0, the convention.'
    )


def check_temperatures(hard: Temperature, soft: Temperature) -> None:
  """Checks `0 < hard <= soft` as far as the values are known outside of a trace.

  Args:
    hard: Scalar, temperature of the forward value.
    soft: Scalar, temperature of the derivative.

  Raises:
    ValueError: If one is not a scalar, or a known value breaks the rule.
  """
  check_soft(soft)
  if np.ndim(hard) != 0:
    raise ValueError(
      f'hard temperature has shape {np.shape(hard)}; it must be a scalar: pass one number for all '
      'gates, or map over temperatures with jax.vmap.'
    )
  low, high = _concrete(hard), _concrete(soft)
  if low is not None and not 0 < low < np.inf:
    raise ValueError(
      f'hard temperature is {low}; it must satisfy 0 < hard <= soft: use a small positive number '
      "such as 0.1, or the 'straight_through' relaxation for the limit 0."
    )
  if low is not None and high is not None and low > high:
    raise ValueError(
      f'hard temperature {low} exceeds soft temperature {high}; the rule is 0 < hard <= soft: '
      'swap the two arguments, lower hard or raise soft.'
    )


def same_structure(first: ArrayTree, second: ArrayTree) -> bool:
  """Whether two trees have the same groups; shapes are not compared.

  Args:
    first: Any pytree.
    second: Any pytree.

  Returns:
    True where their tree structures agree.
  """
  structure: Any = jax.tree.structure(first)
  return bool(structure == jax.tree.structure(second))


def map_gates(function: Callable[..., jax.Array], theta: ArrayTree, *rest: ArrayTree) -> ArrayTree:
  """Applies `function` leaf by leaf, after checking that the logits are floating point.

  Args:
    function: Called with one leaf of `theta` and of each tree in `rest`.
    theta: Array or pytree of logits.
    *rest: Trees of the same structure.

  Returns:
    A tree of the same structure.

  Raises:
    TypeError: If a leaf of `theta` is not of floating dtype.
  """

  def leaf(logits: Any, *others: Any) -> jax.Array:
    logits = jnp.asarray(logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
      raise TypeError(
        f'gate logits have dtype {logits.dtype}; they must be floating point: '
        'cast them with .astype(jnp.float32).'
      )
    return function(logits, *others)

  return jax.tree.map(leaf, theta, *rest)


def slope(theta: jax.Array, temperature: jax.Array) -> jax.Array:
  """Derivative of `sigmoid(theta / temperature)`, never negative, never NaN for finite input.

  Args:
    theta: f[...] logits.
    temperature: Positive scalar of the same dtype.

  Returns:
    f[...] `sigma(u) sigma(-u) / temperature` with `u = theta / temperature`.
  """
  u = theta / temperature
  return jax.nn.sigmoid(u) * jax.nn.sigmoid(-u) / temperature
