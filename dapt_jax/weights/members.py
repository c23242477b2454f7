"""Trains and tests many small networks at once, each on a task of its own, in one program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import flatten_util, lax

from dapt_jax.models import model as model_lib
from dapt_jax.types import Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How every network of a zoo is trained.

  Attributes:
    steps: updates.
    batch_size: images a batch, drawn with replacement.
    learning_rate: of Adam, constant.
    weight_decay: decoupled.
    group: networks side by side in one program; the groups follow one another.
  """

  steps: int = 500
  batch_size: int = 32
  learning_rate: float = 3e-3
  weight_decay: float = 0.0
  group: int = 16

  def __post_init__(self) -> None:
    for field in ('steps', 'batch_size', 'group'):
      if getattr(self, field) < 1:
        raise ValueError(f'{field} is {getattr(self, field)}; it must be at least 1')
    if self.learning_rate <= 0 or self.weight_decay < 0:
      raise ValueError(
        'learning_rate must be positive and weight_decay not negative; got '
        f'{self.learning_rate} and {self.weight_decay}'
      )


@dataclasses.dataclass(frozen=True, eq=False)
class Flat:
  """A network whose variables travel as one vector; keep it, programs are compiled for the object.

  Attributes:
    size: entries of the vector.
    ravel: variables to f32[size].
    unravel: f32[size] to variables.
    trained: f32[size], 1 where an optimiser may move the entry, 0 for statistics.
    logits: `logits(vector, images) -> f32[B, classes]`, with stored statistics.
    train_logits: the same with the batch's statistics, and the vector with these in place.
    group: how many are tested side by side; one with convolutions, which are slower so on a CPU.
  """

  size: int
  ravel: Callable[[Params], jax.Array]
  unravel: Callable[[jax.Array], Params]
  trained: np.ndarray
  logits: Callable[[jax.Array, jax.Array], jax.Array]
  train_logits: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
  group: int = 64


def flatten(model: model_lib.Model) -> Flat:
  """The flat form of a model; create it with `in_loop=True`, since its networks run in loops."""
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
  vector, unravel = flatten_util.ravel_pytree(zeros)
  moving = {
    **jax.tree.map(np.zeros_like, zeros),
    'params': jax.tree.map(np.ones_like, zeros['params']),
  }

  def train_logits(vector: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    variables = unravel(vector)
    logits, state = model.apply_train(variables, images)
    return logits, flatten_util.ravel_pytree({**variables, **state})[0]

  return Flat(
    vector.size,
    lambda variables: flatten_util.ravel_pytree(variables)[0],
    unravel,
    np.asarray(flatten_util.ravel_pytree(moving)[0]),
    lambda vector, images: model.apply(unravel(vector), images),
    train_logits,
    1 if any(x.ndim > 2 for x in jax.tree.leaves(zeros['params'])) else Flat.group,
  )


class Run(NamedTuple):
  """Networks in training, leading axis N.

  Attributes:
    vector: f32[N, size], weights.
    optimizer: state of optax.
    loss: f32[N], average of the last losses, about the last twenty.
  """

  vector: jax.Array
  optimizer: Any
  loss: jax.Array


def begin(recipe: Recipe, start: jax.Array) -> Run:
  """Networks with first weights f32[N, size], before the first step."""
  optimizer = jax.vmap(_optimizer(recipe).init)(start)
  return Run(start, optimizer, jnp.zeros(len(start)))


@functools.partial(jax.jit, static_argnames=('flat', 'recipe'))
def advance(
  flat: Flat,
  recipe: Recipe,
  run: Run,
  images: jax.Array,
  index: jax.Array,
  keys: PRNGKey,
  first: int | jax.Array,
  last: int | jax.Array,
) -> Run:
  """Trains every network on its own task for the steps first, ..., last - 1.

  Stopping in between changes nothing: a step's batch depends on the key and its number alone.

  Args:
    flat: the network; like the recipe it is compiled in.
    recipe: how.
    run: from `begin` or an earlier call.
    images: f32[n, H, W, C], of all tasks.
    index: i32[N, classes, k], the training images of every task: label and rows of `images`.
    keys: [N], of the batches.
    first: number of the first step.
    last: where to stop, at most `recipe.steps`.
  """
  optimizer = _optimizer(recipe)

  def member(run: Run, rows: jax.Array, key: PRNGKey) -> Run:
    labels = jnp.repeat(jnp.arange(rows.shape[0]), rows.shape[1])
    pool = rows.reshape(-1)
    # All draws at once: a random number generator in the loop would cost as much as the network.
    bits = jax.random.bits(key, (recipe.steps, recipe.batch_size), jnp.uint32)
    chosen = (bits % pool.size).astype(jnp.int32)

    def loss(vector: jax.Array, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
      logits, after = flat.train_logits(vector, images[pool[batch]])
      cross = optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch])
      return cross.mean(), after

    def step(number: jax.Array, run: Run) -> Run:
      (value, after), gradient = jax.value_and_grad(loss, has_aux=True)(run.vector, chosen[number])
      moves, state = optimizer.update(gradient, run.optimizer, run.vector)
      share = jnp.maximum(1.0 / (number + 1.0), 0.05)
      mean = run.loss + share * (value - run.loss)
      return Run(after + moves * flat.trained, state, mean)

    return lax.fori_loop(first, last, step, run)

  return lax.map(lambda a: member(*a), (run, index, keys), batch_size=recipe.group)


@functools.partial(jax.jit, static_argnames=('flat', 'group'))
def refresh(
  flat: Flat, vectors: jax.Array, images: jax.Array, index: jax.Array, *, group: int | None = None
) -> jax.Array:
  """Networks with statistics of normalisation taken anew from images of their tasks.

  Weights that were drawn, averaged or moved have none that fit. Networks without normalisation stay
  as they are.

  Args:
    flat: the network.
    vectors: f32[N, size].
    images: f32[n, H, W, C].
    index: i32[N, classes, k], images that may be trained on, rows of `images`.
    group: networks side by side; None: `flat.group`.

  Returns:
    f32[N, size].
  """
  if flat.trained.all():
    return vectors

  def member(vector: jax.Array, rows: jax.Array) -> jax.Array:
    return flat.train_logits(vector, images[rows.reshape(-1)])[1]

  return lax.map(lambda a: member(*a), (vectors, index), batch_size=group or flat.group)


def train(
  flat: Flat,
  recipe: Recipe,
  start: jax.Array,
  images: jax.Array,
  index: jax.Array,
  keys: PRNGKey,
) -> Run:
  """Trains one network a task for all steps of the recipe; arguments as `advance` has them."""
  return advance(flat, recipe, begin(recipe, start), images, index, keys, 0, recipe.steps)


def curve(
  flat: Flat,
  recipe: Recipe,
  start: jax.Array,
  images: jax.Array,
  support: jax.Array,
  test: jax.Array,
  keys: PRNGKey,
  steps: Sequence[int],
) -> np.ndarray:
  """Test accuracy along the training from given first weights.

  Statistics of normalisation are those of the support images, see `refresh`.

  Args:
    flat: the network.
    recipe: how it is trained.
    start: f32[N, size], first weights.
    images: f32[n, H, W, C].
    support: i32[N, classes, k], images that may be trained on.
    test: i32[N, classes, m], images that accuracies are measured on.
    keys: [N], of the batches; the same for starts that are compared.
    steps: numbers of steps after which to look, increasing; 0 is before the first.

  Returns:
    f32[len(steps), N].

  Raises:
    ValueError: for steps that do not increase, or go beyond the recipe.
  """
  if list(steps) != sorted(set(steps)) or steps[0] < 0 or steps[-1] > recipe.steps:
    raise ValueError(f'steps is {tuple(steps)}; they must increase, from 0 to {recipe.steps}')
  run, done, found = begin(recipe, start), 0, []
  for step in steps:
    run = advance(flat, recipe, run, images, support, keys, done, step)
    done = step
    judged = refresh(flat, run.vector, images, support)
    found.append(np.asarray(accuracy(flat, judged, images, test)))
  return np.stack(found)


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
  return optax.adamw(recipe.learning_rate, weight_decay=recipe.weight_decay)


@functools.partial(jax.jit, static_argnames=('flat', 'group'))
def accuracy(
  flat: Flat, vectors: jax.Array, images: jax.Array, index: jax.Array, *, group: int | None = None
) -> jax.Array:
  """Share of a task's images that its network gets right.

  Args:
    flat: the network.
    vectors: f32[N, size].
    images: f32[n, H, W, C].
    index: i32[N, classes, k], rows of `images` by label.
    group: networks side by side; None: `flat.group`.

  Returns:
    f32[N] in [0, 1].
  """

  def member(vector: jax.Array, rows: jax.Array) -> jax.Array:
    labels = jnp.repeat(jnp.arange(rows.shape[0]), rows.shape[1])
    return (flat.logits(vector, images[rows.reshape(-1)]).argmax(-1) == labels).mean()

  return lax.map(lambda a: member(*a), (vectors, index), batch_size=group or flat.group)
