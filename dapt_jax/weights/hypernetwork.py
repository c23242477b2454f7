"""A regression hypernetwork: weights as a deterministic function of the condition.

The baseline that a generator has to beat, and a choice of its own. It is trained on the same
conditions with the squared error to the zoo's weights, and optionally with the loss of the network
it writes on images of the task (`task`; ours), which can be asked of tasks without a network, too.
It writes the whole vector through dense layers and class slots, or token by token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from dapt_jax.models import segments, slots
from dapt_jax.tasks import conditioning
from dapt_jax.training import learner
from dapt_jax.types import Params, PRNGKey
from dapt_jax.weights import partition
from dapt_jax.weights import tokens as tokens_lib

#: Logits of standardised weights f32[D] on images f32[p, H, W, C], see `batches.ask`.
Outputs = Callable[[jax.Array, Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a hypernetwork is made of.

  Attributes:
    width: inside, of shared vector and slots (`models.slots`) or tokens (`models.segments`).
    blocks: number of blocks.
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
  tokens: tokens_lib.Tokens | None = None,
  encoder: conditioning.Encoder | None = None,
) -> Hypernetwork:
  """Makes a hypernetwork.

  Args:
    settings: see `Settings`.
    parts: which of the D standardised weights belong to a class.
    outputs: logits of a network from standardised weights; needed where `task` is not 0.
    tokens: of the D weights, that a transformer writes one by one; None: slots write them whole.
    encoder: of tasks, trained along; None: conditions are rows.

  Raises:
    ValueError: if `task` is set without `outputs`.
  """
  if settings.task and outputs is None:
    raise ValueError(f'task is {settings.task}, but no outputs are given; set task to 0')
  network, write = _slots(settings, parts) if tokens is None else _tokens(settings, parts, tokens)
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
    return write(network.apply(params, None, condition))

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


def _slots(settings: Settings, parts: partition.Partition) -> tuple[nn.Module, Any]:
  """(network of class slots, its results as weights f32[B, D])."""
  shared, per_class = parts.shared.size, parts.slots.shape[1]
  network = slots.Slots(settings.width, settings.blocks, shared, per_class)
  return network, lambda written: parts.join(*written)


def _tokens(
  settings: Settings, parts: partition.Partition, tokens: tokens_lib.Tokens
) -> tuple[nn.Module, Any]:
  """(transformer from the rows of conditions to tokens, its results as weights f32[B, D])."""
  owners = tuple(tokens.owners(parts.owners).tolist())
  network = segments.Segments(tokens.sizes, settings.width, settings.blocks, tokens.chunk, owners)
  return network, tokens.unpack
