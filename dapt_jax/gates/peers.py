"""Relaxations to compare with: one temperature, straight-through, hard concrete.

They share the signature of `base.Relaxation.sample` and `.expected`, so that an experiment
changes a name and nothing else.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from dapt_jax.gates import base, relaxation
from dapt_jax.gates.base import Temperature
from dapt_jax.types import ArrayTree, PRNGKey

#: Ends of the stretched interval of the hard concrete distribution, as its authors set them.
STRETCH = (-0.1, 1.1)


def one_temperature(
  theta: ArrayTree, hard: Temperature = 0.1, soft: Temperature = 1.0
) -> ArrayTree:
  """The ablation `hard = soft`: value and derivative of one sigmoid at the soft temperature.

  Args:
    theta: Array or pytree of logits.
    hard: Scalar, checked and not used: the soft temperature stands for both.
    soft: Scalar temperature.

  Returns:
    Gates with the structure, shapes and dtypes of `theta`.

  Raises:
    TypeError: If logits are not floating point.
    ValueError: If known temperatures break `0 < hard <= soft`.
  """
  base.check_temperatures(hard, soft)
  return relaxation.probability(theta, soft)


@jax.custom_jvp
def _step(theta: jax.Array, soft: jax.Array) -> jax.Array:
  return (theta > 0).astype(theta.dtype)


@_step.defjvp
def _step_jvp(primals, tangents):
  theta, soft = primals
  return _step(theta, soft), base.slope(theta, soft) * tangents[0]


def straight_through(
  theta: ArrayTree, hard: Temperature = 0.1, soft: Temperature = 1.0
) -> ArrayTree:
  """The limit `hard -> 0` without noise: value `1[theta > 0]`, derivative of the soft sigmoid.

  A baseline, not a recommendation: no step size guarantees descent in this limit and iterates
  chatter around theta = 0.

  Args:
    theta: Array or pytree of logits.
    hard: Scalar, checked and not used.
    soft: Scalar temperature of the derivative.

  Returns:
    Exact 0s and 1s with the structure, shapes and dtypes of `theta`.

  Raises:
    TypeError: If logits are not floating point.
    ValueError: If known temperatures break `0 < hard <= soft`.

  References:
    Bengio, Leonard & Courville, "Estimating or Propagating Gradients Through Stochastic Neurons
    for Conditional Computation", 2013.
  """
  base.check_temperatures(hard, soft)
  return base.map_gates(lambda t: _step(t, jnp.asarray(soft, t.dtype)), theta)


def hard_concrete(
  theta: ArrayTree, key: PRNGKey, hard: Temperature = 0.1, soft: Temperature = 1.0
) -> ArrayTree:
  """Stretched and clipped concrete gates: exactly 0 or 1 with positive probability.

  s = sigma((theta + soft * eps) / hard) is stretched to (-0.1, 1.1) and clipped to [0, 1]. In the
  notation of the source log alpha = theta / soft and beta = hard / soft; its beta = 2/3 is
  `hard=2/3, soft=1`. The derivative is the true one, zero where the clip is active.

  Args:
    theta: Array or pytree of logits.
    key: Random key, split over leaves in the order of sorted names.
    hard: Scalar, softness of the concrete variable.
    soft: Scalar, scale of the noise.

  Returns:
    Gates in [0, 1] with the structure, shapes and dtypes of `theta`.

  Raises:
    TypeError: If logits are not floating point.
    ValueError: If the key is None or known temperatures break `0 < hard <= soft`.

  References:
    Louizos, Welling & Kingma, "Learning Sparse Neural Networks through L0 Regularization", 2018,
    equations (10) and (11).
  """
  base.check_temperatures(hard, soft)
  low, high = STRETCH

  def leaf(t: jax.Array, eps: jax.Array) -> jax.Array:
    th, ts = jnp.asarray(hard, t.dtype), jnp.asarray(soft, t.dtype)
    return jnp.clip(jax.nn.sigmoid((t + ts * eps) / th) * (high - low) + low, 0, 1)

  return base.map_gates(leaf, theta, relaxation.logistic_noise(theta, key))


def hard_concrete_expected_l0(
  theta: ArrayTree, hard: Temperature = 0.1, soft: Temperature = 1.0
) -> ArrayTree:
  """Probability that a hard concrete gate is not exactly 0.

  Args:
    theta: Array or pytree of logits.
    hard: Scalar, softness of the concrete variable.
    soft: Scalar, scale of the noise.

  Returns:
    Probabilities `sigma((theta - hard * log(0.1 / 1.1)) / soft)` with the structure of `theta`.

  Raises:
    TypeError: If logits are not floating point.
    ValueError: If known temperatures break `0 < hard <= soft`.

  References:
    Louizos, Welling & Kingma, 2018, equation (12).
  """
  base.check_temperatures(hard, soft)
  offset = math.log(-STRETCH[0] / STRETCH[1])

  def leaf(t: jax.Array) -> jax.Array:
    th, ts = jnp.asarray(hard, t.dtype), jnp.asarray(soft, t.dtype)
    return jax.nn.sigmoid((t - th * offset) / ts)

  return base.map_gates(leaf, theta)
