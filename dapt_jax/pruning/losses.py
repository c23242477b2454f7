"""Losses of a network on a batch, in the form that the search wants: `loss(params, batch)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from dapt_jax.types import Params

Batch = Mapping[str, jax.Array]
LossFn = Callable[[Params, Batch], jax.Array]


def cross_entropy(apply_train: Callable[[Params, jax.Array], tuple[jax.Array, Params]]) -> LossFn:
  """Mean cross-entropy of a network that normalises with the batch's own statistics.

  Args:
    apply_train: `(params, image) -> (logits f32[B, classes], new state)`.

  Returns:
    `loss(params, {'image': f32[B, ...], 'label': i32[B]}) -> f32[]`, in nats.
  """

  def loss(params: Params, batch: Batch) -> jax.Array:
    logits, _ = apply_train(params, batch['image'])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']).mean()

  return loss


def ridge_readout(features: jax.Array, targets: jax.Array, penalty: float) -> jax.Array:
  """The readout V that minimises mean |features V - targets|^2 + penalty |V|^2.

  Args:
    features: f32[B, F].
    targets: f32[B, C].
    penalty: weight of the squared norm, positive.

  Returns:
    f32[F, C].
  """
  size, width = features.shape
  gram = features.T @ features / size + penalty * jnp.eye(width, dtype=features.dtype)
  return jax.scipy.linalg.solve(gram, features.T @ targets / size, assume_a='pos')


def ridge(
  features: Callable[[Params, jax.Array], jax.Array], num_classes: int, penalty: float = 1e-2
) -> LossFn:
  """Squared error with a closed-form readout, refitted at every call (W2).

  The readout is held fixed in the derivative: at its optimum that is exact (envelope theorem).

  Args:
    features: `(params, image) -> f32[B, F]`.
    num_classes: width of the one-hot targets.
    penalty: ridge penalty, positive.

  Returns:
    `loss(params, batch) -> f32[]`.

  Raises:
    ValueError: if the penalty is not positive.
  """
  if not penalty > 0:
    raise ValueError(f'penalty is {penalty}; the readout is unique only for a positive one')

  def loss(params: Params, batch: Batch) -> jax.Array:
    hidden = features(params, batch['image'])
    targets = jax.nn.one_hot(batch['label'], num_classes, dtype=hidden.dtype)
    readout = jax.lax.stop_gradient(ridge_readout(hidden, targets, penalty))
    error = jnp.mean(jnp.sum((hidden @ readout - targets) ** 2, axis=-1))
    return error + penalty * jnp.sum(readout**2)

  return loss
