"""A regression hypernetwork: weights as a deterministic function of the condition.

The baseline that a generator has to beat, and a choice of its own. It is trained on the same
conditions with the squared error to the zoo's weights, and optionally with the loss of the network
it writes on images of the task (`task`; ours), which can be asked of tasks without a network, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from dapt_jax.models import slots
from dapt_jax.tasks import conditioning
from dapt_jax.training import learner
from dapt_jax.types import Params, PRNGKey
from dapt_jax.weights import partition

#: Logits of standardised weights f32[D] on images f32[p, H, W, C], see `batches.ask`.
Outputs = Callable[[jax.Array, Any], jax.Array]
Pair = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a hypernetwork is made of.

  Attributes:
    width: of shared vector and slots inside.
    blocks: number of blocks, see `models.slots`.
    regression: weight of the mean squared error to the member's standardised weights.
    task: weight of the cross-entropy that the written network has on images of the task.
    learning_rate: peak of a cosine schedule over `steps`.
    steps: updates.
  """

  width: int = 256
  blocks: int = 2
  regression: float = 1.0
  task: float = 0.0
  learning_rate: float = 1e-3
  steps: int = 4000


class Hypernetwork(NamedTuple):
  """A hypernetwork as pure functions.

  With an encoder of tasks, its parameters are {'network': ..., 'encoder': ...}, and conditions are
  what the encoder takes; without one they are rows f32[B, S, C].

  Attributes:
    init: `init(key, condition f32[B, S, ...]) -> learner.State`.
    update: `update(state, (weights f32[B, D], told), axis_name=None) -> (state, metrics)`; told is
      {'condition': f32[B, S, ...], 'images': f32[B, p, H, W, C], 'labels': i32[B, p]}, images and
      labels only with `task`; if it has 'fresh', the same of other tasks, the task term is the mean
      over both.
    predict: `predict(params, condition) -> f32[B, D]`, standardised weights.
  """

  init: Callable[[PRNGKey, jax.Array], learner.State]
  update: Callable[..., tuple[learner.State, dict[str, jax.Array]]]
  predict: Callable[[Params, jax.Array], jax.Array]


def make(
  settings: Settings,
  parts: partition.Partition,
  outputs: Outputs | None = None,
  encoder: conditioning.Encoder | None = None,
) -> Hypernetwork:
  """Makes a hypernetwork.

  Args:
    settings: see `Settings`.
    parts: which of the D standardised weights belong to a class.
    outputs: logits of a network from standardised weights; needed where `task` is not 0.
    encoder: of tasks, trained along; None: conditions are rows.

  Raises:
    ValueError: if `task` is set without `outputs`.
  """
  if settings.task and outputs is None:
    raise ValueError(f'task is {settings.task}, but no outputs are given; set task to 0')
  network = slots.Slots(settings.width, settings.blocks, parts.shared.size, parts.slots.shape[1])
  optimizer = learner.adam(settings.learning_rate, settings.steps)

  def init(key: PRNGKey, condition: jax.Array) -> learner.State:
    of_params, of_run = jax.random.split(key)
    if encoder is None:
      return learner.begin(network.init(of_params, None, condition), optimizer, of_run)
    inner = encoder.init(jax.random.fold_in(of_params, 1), condition)
    given = encoder.encode(inner, condition[:1]).tokens
    params = {'network': network.init(of_params, None, given), 'encoder': inner}
    return learner.begin(params, optimizer, of_run)

  def predict(params: Params, condition: jax.Array) -> jax.Array:
    if encoder is not None:
      condition = encoder.encode(params['encoder'], condition).tokens
      params = params['network']
    return parts.join(*cast(Pair, network.apply(params, None, condition)))

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
