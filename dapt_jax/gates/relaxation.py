"""Two-temperature relaxation of binary gates: deterministic and with logistic noise.

A gate is a logit `theta`. The *hard* temperature shapes the value that the network sees, the *soft*
one shapes the derivative that the optimiser sees, `0 < hard <= soft`. Rescaling the logits together
with both temperatures (and the step size by the square) changes nothing, so `soft = 1` is the
convention and the ratio `hard / soft` is the one knob.

Every function takes an array or any pytree of arrays and returns the same structure; dtypes are
kept. Temperatures may be Python numbers or traced scalars, so annealing them never retraces.

Source: the name "two-temperature relaxation" is from Colombo & Gao, "Differentiable Architecture
Pruning for Transfer Learning", 2021; the formulas are our reconstruction, see `docs/gates.md`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dapt_jax.gates import base
from dapt_jax.gates.base import Temperature
from dapt_jax.types import ArrayTree, PRNGKey

ESTIMATORS = ('raw', 'trapezoid')


@jax.custom_jvp
def _two_temperature(theta: jax.Array, hard: jax.Array, soft: jax.Array) -> jax.Array:
  return jax.nn.sigmoid(theta / hard)


@_two_temperature.defjvp
def _two_temperature_jvp(primals, tangents):
  theta, hard, soft = primals
  return _two_temperature(theta, hard, soft), base.slope(theta, soft) * tangents[0]


@jax.custom_jvp
def _raw(theta: jax.Array, noise: jax.Array, hard: jax.Array, soft: jax.Array) -> jax.Array:
  return jax.nn.sigmoid((theta + soft * noise) / hard)


@_raw.defjvp
def _raw_jvp(primals, tangents):
  theta, noise, hard, soft = primals
  return _raw(theta, noise, hard, soft), base.slope(theta, soft) * tangents[0]


@jax.custom_jvp
def _trapezoid(theta: jax.Array, noise: jax.Array, soft: jax.Array) -> jax.Array:
  return (theta + soft * noise > 0).astype(theta.dtype)


@_trapezoid.defjvp
def _trapezoid_jvp(primals, tangents):
  theta, noise, soft = primals
  bit = _trapezoid(theta, noise, soft)
  u = theta / soft
  # The probability of the outcome that was not drawn: sigmoid(-u), not 1 - p, keeps its digits.
  other = jnp.where(bit > 0, jax.nn.sigmoid(-u), jax.nn.sigmoid(u))
  return bit, other / (2 * soft) * tangents[0]


def two_temperature(
  theta: ArrayTree, hard: Temperature = 0.1, soft: Temperature = 1.0
) -> ArrayTree:
  """Gates with the value of a steep sigmoid and the derivative of a flat one.

  Value `sigma(theta / hard)`, derivative `sigma'(theta / soft) / soft`: the direction is the
  gradient of the hard objective under a positive diagonal preconditioner that is at least
  `hard / soft`, so stationary points stay where they were while saturated gates keep moving.
  Derivatives with respect to the temperatures are defined as zero.

  Args:
    theta: Array or pytree of logits, f[...]; safe for |theta| up to 1e4 and far beyond.
    hard: Scalar temperature of the value.
    soft: Scalar temperature of the derivative, `0 < hard <= soft`.

  Returns:
    Gates in [0, 1] with the structure, shapes and dtypes of `theta`.

  Raises:
    TypeError: If logits are not floating point.
    ValueError: If known temperatures break `0 < hard <= soft`.

  Example:
    >>> gates = two_temperature({'conv': jnp.zeros(2)})
    >>> gates['conv'].tolist()
    [0.5, 0.5]

  References:
    Equation (2) of `docs/gates.md` (reconstruction).
  """
  base.check_temperatures(hard, soft)
  return base.map_gates(
    lambda t: _two_temperature(t, jnp.asarray(hard, t.dtype), jnp.asarray(soft, t.dtype)), theta
  )


def logistic_noise(theta: ArrayTree, key: PRNGKey) -> ArrayTree:
  """Standard logistic noise (mean 0, variance pi^2 / 3) for every gate.

  Leaf number i, in the order of sorted names, draws from `fold_in(key, i)`: the same key gives the
  same noise whatever the order in which a dict was filled.

  Args:
    theta: Array or pytree of logits.
    key: Random key.

  Returns:
    Noise with the structure, shapes and dtypes of `theta`.

  Raises:
    ValueError: If `key` is None.
  """
  if key is None:
    raise ValueError('key is None; a noisy relaxation needs a random key: pass jax.random.key(0).')
  leaves, treedef = jax.tree.flatten(theta)
  keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
  return base.map_gates(
    lambda t, k: jax.random.logistic(k, t.shape, t.dtype), theta, jax.tree.unflatten(treedef, keys)
  )


def noisy_gates(
  theta: ArrayTree,
  noise: ArrayTree,
  hard: Temperature = 0.1,
  soft: Temperature = 1.0,
  estimator: str = 'trapezoid',
) -> ArrayTree:
  """`gumbel_gates` with the noise given, for common random numbers and exact enumeration.

  Args:
    theta: Array or pytree of logits.
    noise: The same structure and shapes, standard logistic.
    hard: Scalar, residual softness of the 'raw' gates; 'trapezoid' does not use it.
    soft: Scalar, scale of the noise.
    estimator: 'raw' or 'trapezoid'.

  Returns:
    Gates with the structure, shapes and dtypes of `theta`.

  Raises:
    TypeError: If logits are not floating point.
    ValueError: If the estimator is unknown or known temperatures break `0 < hard <= soft`.
  """
  base.check_temperatures(hard, soft)
  if estimator not in ESTIMATORS:
    raise ValueError(f'unknown estimator {estimator!r}; it must be one of {", ".join(ESTIMATORS)}.')

  def leaf(t: jax.Array, eps: jax.Array) -> jax.Array:
    th, ts = jnp.asarray(hard, t.dtype), jnp.asarray(soft, t.dtype)
    return _raw(t, eps, th, ts) if estimator == 'raw' else _trapezoid(t, eps, ts)

  return base.map_gates(leaf, theta, noise)


def gumbel_gates(
  theta: ArrayTree,
  key: PRNGKey,
  hard: Temperature = 0.1,
  soft: Temperature = 1.0,
  estimator: str = 'trapezoid',
) -> ArrayTree:
  """Random gates whose expected objective is smooth in `theta`.

  With logistic noise eps, P(theta + soft * eps > 0) = sigma(theta / soft): `soft` is exactly the
  smoothing that the noise induces and `hard` the softness that remains.

  'raw': value `sigma((theta + soft * eps) / hard)`, derivative `sigma'(theta / soft) / soft`;
  as `hard -> 0` the value is Bernoulli and the estimate unbiased for multilinear objectives.
  'trapezoid': value b in {0, 1}, b ~ Bernoulli(p), p = sigma(theta / soft), derivative
  `(1 - p if b else p) / (2 * soft)`; unbiased for objectives quadratic in each gate, and the
  one of the two that ends at 0 or 1.

  Args:
    theta: Array or pytree of logits.
    key: Random key, split over leaves in the order of sorted names.
    hard: Scalar, used by 'raw' only.
    soft: Scalar, scale of the noise.
    estimator: 'raw' or 'trapezoid'.

  Returns:
    Gates with the structure, shapes and dtypes of `theta`; 'trapezoid' gives exactly 0 and 1.

  Raises:
    TypeError: If logits are not floating point.
    ValueError: If the key is None, the estimator unknown, or known temperatures break
      `0 < hard <= soft`.

  References:
    Equations (5) and (6) of `docs/gates.md` (reconstruction).
  """
  return noisy_gates(theta, logistic_noise(theta, key), hard, soft, estimator)


def probability(theta: ArrayTree, soft: Temperature = 1.0) -> ArrayTree:
  """Probability `sigma(theta / soft)` that a noisy gate is open, with its true derivative.

  Args:
    theta: Array or pytree of logits.
    soft: Positive scalar.

  Returns:
    Probabilities with the structure, shapes and dtypes of `theta`.

  Raises:
    TypeError: If logits are not floating point.
    ValueError: If a known temperature is not positive and finite.
  """
  base.check_soft(soft)
  return base.map_gates(lambda t: jax.nn.sigmoid(t / jnp.asarray(soft, t.dtype)), theta)


def binary(theta: ArrayTree) -> ArrayTree:
  """Final gates `1[theta > 0]`, free of any temperature; their derivative is zero.

  Args:
    theta: Array or pytree of logits.

  Returns:
    Exact 0s and 1s with the structure, shapes and dtypes of `theta`.

  Raises:
    TypeError: If logits are not floating point.
  """
  return base.map_gates(lambda t: (t > 0).astype(t.dtype), theta)
