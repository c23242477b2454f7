"""Retraining one structure on many support sets at once, in one compiled program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import flatten_util, lax

from dapt_jax import collectives
from dapt_jax.models import population as population_lib
from dapt_jax.models import recalibration
from dapt_jax.training import runner
from dapt_jax.transfer import draws
from dapt_jax.types import Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a structure is retrained; the same for everything that is compared.

  Attributes:
    steps: most updates.
    batch_size: examples a batch, drawn from the support set with replacement.
    learning_rate: peak of a cosine schedule.
    weight_decay: decoupled (AdamW).
    chunk: updates between two looks at the support loss.
    stop_loss: a run stops when its mean support loss over a chunk is below this (early stopping
      that looks at nothing but the support set).
  """

  steps: int = 300
  batch_size: int = 32
  learning_rate: float = 3e-3
  weight_decay: float = 1e-4
  chunk: int = 50
  stop_loss: float = 0.01

  def __post_init__(self) -> None:
    for field in ('steps', 'batch_size', 'chunk'):
      if getattr(self, field) < 1:
        raise ValueError(f'{field} is {getattr(self, field)}; it must be at least 1')
    if self.learning_rate <= 0 or self.weight_decay < 0 or self.stop_loss < 0:
      raise ValueError(
        'learning_rate must be positive, weight_decay and stop_loss not negative; got '
        f'{self.learning_rate}, {self.weight_decay}, {self.stop_loss}'
      )


class Structure(NamedTuple):
  """A trainable structure.

  Attributes:
    init: `init(key) -> params`, first weights of one run.
    apply: `apply(params, images) -> logits`, with stored statistics; called outside of loops.
    apply_train: `apply_train(params, images) -> (logits, new state)`, the batch's statistics;
      called inside a loop over runs and steps.
    measure: the same as `apply_train`, called outside of loops; None: the same function.
    trainable: params with True leaves where the optimiser may move them; None: everything.
  """

  init: Callable[[PRNGKey], Params]
  apply: Callable[[Params, jax.Array], jax.Array]
  apply_train: Callable[[Params, jax.Array], tuple[jax.Array, Params]]
  measure: Callable[[Params, jax.Array], tuple[jax.Array, Params]] | None = None
  trainable: Any = None


class Outcome(NamedTuple):
  """Results of all runs.

  Attributes:
    accuracy: f32[runs] on the test split.
    loss: f32[runs], support loss of the last chunk.
    steps: i32[runs], updates until the run stopped.
    params: trained parameters, leading axis runs.
  """

  accuracy: np.ndarray
  loss: np.ndarray
  steps: np.ndarray
  params: Params


class _Run(NamedTuple):
  params: jax.Array  # as one vector: an optimiser on many small arrays takes long to compile
  optimizer: Any
  key: PRNGKey
  loss: jax.Array
  steps: jax.Array
  done: jax.Array


def retrain(
  structure: Structure,
  train_images: jax.Array,
  train_labels: jax.Array,
  support: draws.Support,
  test_images: jax.Array,
  test_labels: jax.Array,
  *,
  recipe: Recipe,
  key: PRNGKey,
  on_chunk: Callable[[int, int, float], None] | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Outcome:
  """Trains one network per support set and tests it.

  Normalisation statistics are taken anew from the support set after training.

  Args:
    structure: what to train.
    train_images: f32[n, H, W, C], the target's training split.
    train_labels: i32[n].
    support: which of them each run may see.
    test_images: f32[m, H, W, C], looked at once, after training.
    test_labels: i32[m].
    recipe: see `Recipe`.
    key: run r starts from `fold_in(key, draw of r)`, so runs of one draw share their first weights.
    on_chunk: called with (updates done, runs still training, mean support loss).
    devices: the runs are spread over them, also over those of several processes, which then all
      get the whole outcome; one if None.

  Returns:
    The `Outcome`.

  Raises:
    FloatingPointError: if a run ended with a loss that is not finite.
    ValueError: if the runs do not divide by the devices.
  """
  train = jnp.asarray(train_images), jnp.asarray(train_labels)
  flat = _Flat.of(structure, recipe, key)
  runs = _train(flat, train, support, key, on_chunk, list(devices or jax.local_devices()[:1]))
  loss = np.asarray(runs.loss)
  if not np.isfinite(loss).all():
    raise FloatingPointError(
      f'{int((~np.isfinite(loss)).sum())} of {len(loss)} runs ended with a loss that is not '
      f'finite; lower learning_rate (now {recipe.learning_rate})'
    )
  # Run by run and not in a loop of the program: large batches want the threaded convolution.
  test, tests = jax.jit(flat.test), (jnp.asarray(test_images), jnp.asarray(test_labels))
  accuracy, params = zip(
    *[test(p, train[0][i], *tests) for p, i in zip(runs.params, support.index)]
  )
  whole = jax.tree.map(lambda *leaves: np.stack(leaves), *params)
  return Outcome(np.asarray(accuracy), loss, np.asarray(runs.steps), whole)


def _train(flat, train, support, key, on_chunk, devices) -> _Run:
  """All runs to their end, chunk by chunk; leading axis runs."""
  over, recipe = population_lib.map_population, flat.recipe
  advance = over(flat.chunk, in_axes=(0, 0, 0, None, None))

  def update(state, length, axis_name=None):
    runs = advance(state['runs'], state['index'], state['count'], length, state['train'])
    seen = {'active': (~runs.done).sum() / len(runs.done), 'loss': runs.loss.mean()}
    return {**state, 'runs': runs}, collectives.mean(seen, axis_name)

  axes = {'runs': 0, 'index': 0, 'count': 0, 'train': None}
  step = runner.make_update(update, state_axes=axes, devices=devices)
  begun = jax.jit(over(flat.start, in_axes=(0, None)))(jnp.asarray(support.draw), key)
  given = {'index': support.index, 'count': support.count, 'train': train}
  state = step.place({'runs': begun, **given})
  for done in range(0, recipe.steps, recipe.chunk):
    length = min(recipe.chunk, recipe.steps - done)
    state, seen = step(state, np.int32(length))
    active = round(float(seen['active']) * len(support.draw))
    if on_chunk is not None:
      on_chunk(done + length, active, float(seen['loss']))
    if not active:
      break
  return step.gather(state)['runs']


@dataclasses.dataclass(frozen=True)
class _Flat:
  """A structure whose parameters travel as one vector, and how one run of it goes."""

  structure: Structure
  recipe: Recipe
  optimizer: optax.GradientTransformation
  unravel: Callable[[jax.Array], Params]

  @classmethod
  def of(cls, structure: Structure, recipe: Recipe, key: PRNGKey) -> _Flat:
    """The flat form of a structure; `key` serves for the shapes only."""
    shapes = jax.eval_shape(structure.init, key)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    unravel = flatten_util.ravel_pytree(zeros)[1]
    return cls(structure, recipe, _optimizer(structure, recipe, shapes), unravel)

  def start(self, draw: jax.Array, key: PRNGKey) -> _Run:
    """First state of the run on a draw."""
    own = jax.random.fold_in(key, draw)
    params = flatten_util.ravel_pytree(self.structure.init(jax.random.fold_in(own, 0)))[0]
    zero = jnp.int32(0)
    begin = jax.random.fold_in(own, 1)
    return _Run(params, self.optimizer.init(params), begin, jnp.float32(jnp.inf), zero, zero > 0)

  def chunk(
    self,
    run: _Run,
    index: jax.Array,
    count: jax.Array,
    length: jax.Array,
    data: tuple[jax.Array, jax.Array],
  ) -> _Run:
    """`length` updates, unless the run has stopped.

    Images and labels are arguments, not constants of the program: the compiler would fold through
    them.
    """
    images, labels = data

    def step(_: int, carry: tuple[_Run, jax.Array]) -> tuple[_Run, jax.Array]:
      run, total = carry
      key, batch_key = jax.random.split(run.key)
      chosen = index[jax.random.randint(batch_key, (self.recipe.batch_size,), 0, count)]
      loss, gradient = jax.value_and_grad(self.loss)(run.params, images[chosen], labels[chosen])
      moves, state = self.optimizer.update(gradient, run.optimizer, run.params)
      params = optax.apply_updates(run.params, moves)
      run = run._replace(params=params, optimizer=state, key=key, steps=run.steps + 1)
      return run, total + loss

    def train() -> _Run:
      after, total = lax.fori_loop(0, length, step, (run, jnp.float32(0)))
      mean = total / length
      return after._replace(loss=mean, done=mean < self.recipe.stop_loss)

    return lax.cond(run.done, lambda: run, train)

  def loss(self, params: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of a batch."""
    logits = self.structure.apply_train(self.unravel(params), images)[0]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  def test(
    self, params: jax.Array, supports: jax.Array, images: jax.Array, labels: jax.Array
  ) -> tuple[jax.Array, Params]:
    """(accuracy, parameters with normalisation statistics of the support set)."""
    whole = refresh_statistics(self.structure, self.unravel(params), supports)
    return (self.structure.apply(whole, images).argmax(-1) == labels).mean(), whole


def refresh_statistics(structure: Structure, params: Params, images: jax.Array) -> Params:
  """Replaces normalisation statistics by those of `images` f32[n, H, W, C] as one batch."""
  return recalibration.recalibrate(structure.measure or structure.apply_train, params, images)


def _optimizer(
  structure: Structure, recipe: Recipe, shapes: Params
) -> optax.GradientTransformation:
  rate = optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps, alpha=0.05)
  chain = optax.adamw(rate, weight_decay=recipe.weight_decay)
  if structure.trainable is None:
    return chain
  moving = jax.tree.map(lambda t, s: np.full(s.shape, t, np.float32), structure.trainable, shapes)
  mask = flatten_util.ravel_pytree(moving)[0]
  return optax.chain(chain, optax.stateless(lambda moves, _: moves * mask))
