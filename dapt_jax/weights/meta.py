"""Meta-learned first weights: one start for all tasks, from which few steps go far.

Sources: Reptile (Nichol, Achiam, Schulman, "On first-order meta-learning algorithms", 2018,
algorithm 2); ANIL (Raghu et al., "Rapid learning or feature reuse?", 2020), a MAML (Finn, Abbeel,
Levine, 2017) whose inner loop moves the head alone, in the first-order form: the gradient at
adapted weights is taken for that of the start. Ours: the inner loop is that of the networks that
are compared, Adam included, and the outer step is Adam, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dapt_jax.models import model as model_lib
from dapt_jax.tasks import resample
from dapt_jax.training import learner
from dapt_jax.types import PRNGKey
from dapt_jax.weights import members

METHODS = ('reptile', 'anil')


@dataclasses.dataclass(frozen=True)
class Settings:
  """How first weights are meta-learned.

  Attributes:
    method: one of `METHODS`.
    inner: how networks adapt to a task; `group` is the number of tasks of an outer step.
    learning_rate: of the outer steps, peak of a cosine schedule over `steps`.
    steps: outer steps.
  """

  method: str
  inner: members.Recipe
  learning_rate: float = 1e-3
  steps: int = 4000

  def __post_init__(self) -> None:
    if self.method not in METHODS:
      raise ValueError(f'method {self.method!r}: choose one of {list(METHODS)}')


class Episodes(NamedTuple):
  """Tasks of one outer step.

  Attributes:
    images: f32[n, H, W, C], of all tasks.
    support: i32[B, classes, k], what networks adapt to.
    query: i32[B, classes, q], other images, that adapted networks are judged on.
  """

  images: jax.Array
  support: jax.Array
  query: jax.Array


#: `update(state, episodes, axis_name=None) -> (state, metrics)`.
Update = Callable[..., tuple[learner.State, learner.Metrics]]


class Training(NamedTuple):
  """A meta-learning as pure functions; what is trained is a vector f32[size], the first weights.

  Attributes:
    init: `init(start f32[size], key) -> learner.State`.
    update: one outer step on `Episodes`.
  """

  init: Callable[[jax.Array, PRNGKey], learner.State]
  update: Update


def head(model: model_lib.Model) -> np.ndarray:
  """f32[size], 1 for the weights of the head, 0 for the body."""
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  zeros = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
  ones = jax.tree.map(np.ones_like, zeros['params']['head'])
  marked = {**zeros, 'params': {**zeros['params'], 'head': ones}}
  return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(marked)])


def only(flat: members.Flat, mask: np.ndarray) -> members.Flat:
  """The same network, of which training moves the entries in `mask` f32[size] alone."""
  return dataclasses.replace(flat, trained=flat.trained * mask)


def make(settings: Settings, flat: members.Flat, mask: np.ndarray) -> Training:
  """Makes a meta-learning.

  Args:
    settings: see `Settings`.
    flat: the network.
    mask: f32[size], its head (`head`), which ANIL adapts.
  """
  optimizer = learner.adam(settings.learning_rate, settings.steps)
  adapting = only(flat, mask) if settings.method == 'anil' else flat

  def loss(
    start: jax.Array, batch: Episodes, key: PRNGKey, axis_name: str | None
  ) -> tuple[jax.Array, learner.Metrics]:
    del axis_name  # every task has a loss of its own
    count = len(batch.support)
    # The inner loop is a constant: both are first-order.
    begin = jnp.broadcast_to(lax.stop_gradient(start), (count, flat.size))
    keys = jax.random.split(key, count)
    inner = settings.inner
    adapted = members.train(adapting, inner, begin, batch.images, batch.support, keys).vector
    if settings.method == 'reptile':
      # Its gradient is `start - adapted`, the step of Reptile.
      value = 0.5 * jnp.square(start - adapted).sum(1).mean()
    else:
      # The value of adapted weights, and their gradient as that of the start.
      value = _cross_entropy(flat, adapted - begin + start, batch)
    return value, {'loss': value}

  init = lambda start, key: learner.begin(start, optimizer, key)
  return Training(init, learner.make_update(loss, optimizer))


def _cross_entropy(flat: members.Flat, vectors: jax.Array, batch: Episodes) -> jax.Array:
  """Mean loss of networks f32[B, size] on the query images of their tasks."""

  def one(vector: jax.Array, rows: jax.Array) -> jax.Array:
    labels = jnp.repeat(jnp.arange(rows.shape[0]), rows.shape[1])
    logits = flat.train_logits(vector, batch.images[rows.reshape(-1)])[0]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  return jax.vmap(one)(vectors, batch.query).mean()


def episodes(count: int, k: int) -> Callable[..., Episodes]:
  """Draws of `count` tasks with k support images a class, as `training.repeated` asks for.

  Args:
    count: tasks.
    k: support images a class; as many others are the query.

  Returns:
    `draw((rows i32[T, classes, K], images f32[n, H, W, C]), key) -> Episodes`.
  """

  def draw(data: tuple[jax.Array, jax.Array], key: PRNGKey) -> Episodes:
    rows, images = data
    of_tasks, of_images = jax.random.split(key)
    chosen = rows[jax.random.randint(of_tasks, (count,), 0, len(rows))]
    found = resample.images(of_images, chosen, 2 * k)
    return Episodes(images, found[:, :, :k], found[:, :, k:])

  return draw
