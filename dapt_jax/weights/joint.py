"""First weights from joint training: one body for all classes of all views, then a new head.

The plain way to use many tasks, without a trained network of any of them: one body is trained with
a head a view, on all classes of the view at once, and every new task gets a head of its own on it.
That is all zeros, or made of class means: with mean m_c of a feature in class c and variance s^2
inside the classes, logits m_c . x / s^2 - |m_c|^2 / (2 s^2) are those of Gaussians of equal width
(the simplest linear discriminant; compare the imprinted weights of Qi, Brown, Lowe, 2018).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dapt_jax.models import model as model_lib
from dapt_jax.tasks import task as task_lib
from dapt_jax.tasks import warps
from dapt_jax.training import learner
from dapt_jax.types import Params, PRNGKey


class Labelled(NamedTuple):
  """Images with a view and a class.

  Attributes:
    images: f32[n, H, W, C], of everything.
    rows: i32[m], images that may be trained on.
    view: i32[m], number of the view of each.
    label: i32[m], its class in the source.
  """

  images: jax.Array
  rows: jax.Array
  view: jax.Array
  label: jax.Array


def labelled(tasks: Sequence[task_lib.Task], rows: np.ndarray, images: jax.Array) -> Labelled:
  """The images of some tasks, each once, by view and class of the source.

  Args:
    tasks: T tasks.
    rows: i32[T, classes, k], rows of their images.
    images: f32[n, H, W, C].
  """
  views = {name: number for number, name in enumerate(sorted({t.view for t in tasks}))}
  view, label = np.full(len(images), -1), np.zeros(len(images), int)
  view[rows] = np.array([views[t.view] for t in tasks])[:, None, None]
  label[rows] = np.array([t.classes for t in tasks])[:, :, None]
  found = np.flatnonzero(view >= 0)
  return Labelled(images, *(jnp.asarray(a, jnp.int32) for a in (found, view[found], label[found])))


def draw(batch_size: int, warped: float = 0.0) -> Callable[[Labelled, PRNGKey], Labelled]:
  """Random batches, as `training.repeated` asks for.

  Args:
    batch_size: images.
    warped: share of them that is distorted (`tasks.warps`), each in its own way.
  """

  def batch(data: Labelled, key: PRNGKey) -> Labelled:
    of_images, of_warps = jax.random.split(key)
    chosen = jax.random.randint(of_images, (batch_size,), 0, len(data.rows))
    pictures = data.images[data.rows[chosen]]
    if warped:
      (pictures,) = warps.of_tasks(of_warps, warped, pictures)
    return Labelled(pictures, jnp.arange(batch_size), data.view[chosen], data.label[chosen])

  return batch


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a body is trained.

  Attributes:
    views: number of views.
    classes: of every source.
    learning_rate: peak of a cosine schedule over `steps`.
    steps: updates.
  """

  views: int
  classes: int
  learning_rate: float = 1e-2
  steps: int = 5000


class Training(NamedTuple):
  """A joint training as pure functions.

  Attributes:
    init: `init(key) -> learner.State`, whose parameters are variables.
    update: `update(state, batch Labelled, axis_name=None) -> (state, metrics)`.
  """

  init: Callable[[PRNGKey], learner.State]
  update: Callable[..., tuple[learner.State, learner.Metrics]]


def make(settings: Settings, model: model_lib.Model) -> Training:
  """Makes a joint training.

  Args:
    settings: see `Settings`.
    model: the network of a task, with `views * classes` outputs: all heads side by side.

  Raises:
    ValueError: for another number of outputs.
  """
  if model.num_classes != settings.views * settings.classes:
    raise ValueError(
      f'the network has {model.num_classes} outputs; {settings.views} heads of {settings.classes} '
      f'classes need {settings.views * settings.classes}'
    )
  optimizer = learner.adam(settings.learning_rate, settings.steps)

  def loss(
    variables: Params, batch: Labelled, key: PRNGKey, axis_name: str | None
  ) -> tuple[jax.Array, learner.Metrics]:
    del key, axis_name  # nothing is drawn, and every image has a loss of its own
    logits = model.apply_train(variables, batch.images[batch.rows])[0]
    every = logits.reshape(-1, settings.views, settings.classes)
    own = every[jnp.arange(len(every)), batch.view]
    value = optax.softmax_cross_entropy_with_integer_labels(own, batch.label).mean()
    return value, {'loss': value, 'error': (own.argmax(-1) != batch.label).mean()}

  def init(key: PRNGKey) -> learner.State:
    of_params, of_run = jax.random.split(key)
    return learner.begin(model.init(of_params), optimizer, of_run)

  return Training(init, learner.make_update(loss, optimizer))


def width(variables: Params) -> int:
  """Number of features that the head reads."""
  return int(variables['params']['head']['kernel'].shape[0])


def with_head(variables: Params, kernel: jax.Array, bias: jax.Array) -> Params:
  """The same body with another head, kernel f32[F, classes] and bias f32[classes]."""
  head = {'kernel': kernel, 'bias': bias}
  return {**variables, 'params': {**variables['params'], 'head': head}}


def with_zeros(variables: Params, num_classes: int) -> Params:
  """The body with a head of zeros for another number of classes."""
  zeros = jnp.zeros((width(variables), num_classes))
  return with_head(variables, zeros, jnp.zeros(num_classes))


def with_means(
  reader: model_lib.Model, variables: Params, images: jax.Array, support: jax.Array
) -> Params:
  """The body with a head of class means.

  Args:
    reader: the network with as many outputs as features, see `width`.
    variables: of the body; the head does not matter.
    images: f32[n, H, W, C].
    support: i32[classes, k], labelled images of the task, two or more a class. They give the
      statistics of normalisation, too.
  """
  size = width(variables)
  # A head that copies its input: cut networks have no other way to their features.
  copying = with_head(variables, jnp.eye(size), jnp.zeros(size))
  features, statistics = reader.apply_train(copying, images[support.reshape(-1)])
  own = features.reshape(*support.shape, size)
  means = own.mean(1)
  variance = jnp.maximum(jnp.square(own - means[:, None]).mean(), 1e-6)
  # The same vector taken from all classes changes no probability, and keeps logits small.
  kernel = (means - means.mean(0)) / variance
  bias = -0.5 * jnp.square(means).sum(1) / variance
  return with_head({**variables, **statistics}, kernel.T, bias - bias.mean())
