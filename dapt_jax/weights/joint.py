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
    model: the network with all heads side by side.
    init: `init(key) -> learner.State`, whose parameters are variables of `model`.
    update: `update(state, batch Labelled, axis_name=None) -> (state, metrics)`.
  """

  model: model_lib.Model
  init: Callable[[PRNGKey], learner.State]
  update: Callable[..., tuple[learner.State, learner.Metrics]]


def make(settings: Settings, model: model_lib.Model) -> Training:
  """Makes a joint training of the body of a network.

  Args:
    settings: see `Settings`.
    model: the network of a task.
  """
  spec = {**model.spec, 'num_classes': settings.views * settings.classes}
  wide = model_lib.create(**spec.pop('config'), **spec, in_loop=True)
  optimizer = learner.adam(settings.learning_rate, settings.steps)

  def loss(
    variables: Params, batch: Labelled, key: PRNGKey, axis_name: str | None
  ) -> tuple[jax.Array, learner.Metrics]:
    del key, axis_name  # nothing is drawn, and every image has a loss of its own
    logits = wide.apply_train(variables, batch.images[batch.rows])[0]
    every = logits.reshape(-1, settings.views, settings.classes)
    own = every[jnp.arange(len(every)), batch.view]
    value = optax.softmax_cross_entropy_with_integer_labels(own, batch.label).mean()
    return value, {'loss': value, 'error': (own.argmax(-1) != batch.label).mean()}

  def init(key: PRNGKey) -> learner.State:
    of_params, of_run = jax.random.split(key)
    return learner.begin(wide.init(of_params), optimizer, of_run)

  return Training(wide, init, learner.make_update(loss, optimizer))


def with_zeros(model: model_lib.Model, variables: Params) -> Params:
  """Variables of `model`: the body of a network with other classes, and a head of zeros."""
  head = jax.eval_shape(model.init, jax.random.key(0))['params']['head']
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), head)
  return {**variables, 'params': {**variables['params'], 'head': zeros}}


def with_means(
  model: model_lib.Model, variables: Params, images: jax.Array, support: jax.Array
) -> Params:
  """Variables with a head of class means.

  Args:
    model: the network of a task.
    variables: of it; the head does not matter.
    images: f32[n, H, W, C].
    support: i32[classes, k], labelled images of the task, two or more a class.
  """
  features = model.features(variables, images[support.reshape(-1)])
  own = features.reshape(*support.shape, -1)
  means = own.mean(1)
  variance = jnp.maximum(jnp.square(own - means[:, None]).mean(), 1e-6)
  # The same vector taken from all classes changes no probability, and keeps logits small.
  kernel = (means - means.mean(0)) / variance
  bias = -0.5 * jnp.square(means).sum(1) / variance
  head = {'kernel': kernel.T, 'bias': bias - bias.mean()}
  return {**variables, 'params': {**variables['params'], 'head': head}}
