"""The loss, on images of tasks, of networks that a generator predicts in its training; ours."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dapt_jax import diffusion
from dapt_jax.diffusion import objective
from dapt_jax.types import Params
from dapt_jax.weights import autoencoder


@dataclasses.dataclass(frozen=True)
class TaskTerm:
  """The loss, on images of tasks, of the networks that predicted latents stand for.

  Attributes:
    task: weight on tasks of the zoo, see `generator.Settings`.
    fresh: weight on tasks without a network.
    target: what the denoiser says.
    predict: the denoiser, `predict(params, x_t, t, rows, drop)`.
    decode: `decode(params, z f32[B, L]) -> f32[B, D]`, standardised weights.
    rows: `rows(params, told) -> f32[B, S, C]`, the condition's rows.
    outputs: logits of a network from standardised weights.
    size: L.
  """

  task: float
  fresh: float
  target: objective.Objective
  predict: diffusion.train.PredictFn
  decode: Callable[[Params, jax.Array], jax.Array]
  rows: Callable[[Params, jax.Array], jax.Array]
  outputs: autoencoder.Outputs | None
  size: int

  def __call__(
    self, params: Params, z: jax.Array, condition: dict[str, Any], drop: jax.Array
  ) -> jax.Array:
    """f32[B], of latents predicted in training and, with `fresh`, of other tasks."""
    loss = jnp.zeros(len(z))
    if self.task:  # what is drawn without a condition belongs to no task
      own = self.cross_entropy(params, z, condition)
      loss += self.task * jnp.where(drop, 0.0, own)
    if self.fresh:
      loss += self.fresh * self.of_fresh(params, condition['fresh'])
    return loss

  def cross_entropy(self, params: Params, z: jax.Array, told: dict[str, Any]) -> jax.Array:
    """f32[B], of the networks that latents f32[B, L] stand for."""
    assert self.outputs is not None
    logits = jax.vmap(self.outputs)(self.decode(params, z), told['images'])
    return optax.softmax_cross_entropy_with_integer_labels(logits, told['labels']).mean(-1)

  def of_fresh(self, params: Params, told: dict[str, Any]) -> jax.Array:
    """f32[B], of what is drawn from pure noise, and of that noised anew and drawn again."""
    keys = jax.vmap(functools.partial(jax.random.split, num=3))(told['key'])
    some = jax.vmap(lambda key: jax.random.normal(key, (self.size,)))
    keep, given = jnp.zeros(len(keys), bool), self.rows(params, told['condition'])

    def predicted(x_t: jax.Array, t: jax.Array) -> jax.Array:
      said = self.predict(params['denoiser'], x_t, t, given, keep)
      return self.target.recover(x_t, t, said)[0]

    first = predicted(some(keys[:, 0]), jnp.ones(len(keys)))
    t = jax.vmap(self.target.process.draw)(keys[:, 1])
    alpha, sigma = self.target.process.at(t[:, None])
    again = predicted(alpha * lax.stop_gradient(first) + sigma * some(keys[:, 2]), t)
    both = self.cross_entropy(params, first, told), self.cross_entropy(params, again, told)
    return 0.5 * (both[0] + both[1])
