"""A regression hypernetwork: weights as a deterministic function of the condition.

The baseline that a generator has to beat, and a choice of its own. It is trained on the same
conditions with the squared error to the zoo's weights, and optionally with the loss of the network
it writes on images of the task (`task`; ours), which can be asked of tasks without a network, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from dapt_jax.training import learner
from dapt_jax.types import Params, PRNGKey

#: Logits of standardised weights f32[D] on images f32[p, H, W, C].
Outputs = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a hypernetwork is made of.

  Attributes:
    size: D, entries of a weight vector.
    hidden: widths.
    regression: weight of the mean squared error to the member's standardised weights.
    task: weight of the cross-entropy that the written network has on images of the task.
    learning_rate: peak of a cosine schedule over `steps`.
    steps: updates.
  """

  size: int
  hidden: tuple[int, ...] = (512, 512)
  regression: float = 1.0
  task: float = 0.0
  learning_rate: float = 1e-3
  steps: int = 4000


class _Network(nn.Module):
  settings: Settings

  @nn.compact
  def __call__(self, condition: jax.Array) -> jax.Array:
    x = condition.reshape(condition.shape[0], -1)
    for width in self.settings.hidden:
      x = nn.gelu(nn.LayerNorm()(nn.Dense(width)(x)))
    return nn.Dense(self.settings.size)(x)


class Hypernetwork(NamedTuple):
  """A hypernetwork as pure functions.

  Attributes:
    init: `init(key, condition f32[B, ...]) -> learner.State`.
    update: `update(state, (weights f32[B, D], told), axis_name=None) -> (state, metrics)`; told is
      {'condition': f32[B, ...], 'images': f32[B, p, H, W, C], 'labels': i32[B, p]}, images and
      labels only with `task`; if it has 'fresh', the same of other tasks, the task term is the mean
      over both.
    predict: `predict(params, condition) -> f32[B, D]`, standardised weights.
  """

  init: Callable[[PRNGKey, jax.Array], learner.State]
  update: Callable[..., tuple[learner.State, dict[str, jax.Array]]]
  predict: Callable[[Params, jax.Array], jax.Array]


def make(settings: Settings, outputs: Outputs | None = None) -> Hypernetwork:
  """Makes a hypernetwork.

  Args:
    settings: see `Settings`.
    outputs: logits of a network from standardised weights; needed where `task` is not 0.

  Raises:
    ValueError: if `task` is set without `outputs`.
  """
  if settings.task and outputs is None:
    raise ValueError(f'task is {settings.task}, but no outputs are given; set task to 0')
  network = _Network(settings)
  optimizer = learner.adam(settings.learning_rate, settings.steps)

  def init(key: PRNGKey, condition: jax.Array) -> learner.State:
    of_params, of_run = jax.random.split(key)
    params = network.init(of_params, condition)
    return learner.begin(params, optimizer, of_run)

  def predict(params: Params, condition: jax.Array) -> jax.Array:
    return jnp.asarray(network.apply(params, condition))

  def cross_entropy(params: Params, told: dict[str, Any]) -> jax.Array:
    assert outputs is not None
    logits = jax.vmap(outputs)(predict(params, told['condition']), told['images'])
    return optax.softmax_cross_entropy_with_integer_labels(logits, told['labels']).mean()

  def loss(
    params: Params, batch: tuple, key: PRNGKey, axis_name: str | None
  ) -> tuple[jax.Array, learner.Metrics]:
    del key, axis_name  # nothing is drawn, and every example has a loss of its own
    weights, told = batch
    error = jnp.square(predict(params, told['condition']) - weights).mean()
    total, metrics = settings.regression * error, {'error': error}
    if settings.task:
      asked = [told, *([told['fresh']] if 'fresh' in told else [])]
      cross = jnp.stack([cross_entropy(params, t) for t in asked]).mean()
      total, metrics = total + settings.task * cross, {**metrics, 'task': cross}
    return total, {'loss': total, **metrics}

  return Hypernetwork(init, learner.make_update(loss, optimizer), predict)
