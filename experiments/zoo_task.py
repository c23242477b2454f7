"""What all apps that generate weights share: split, images, model, zoo."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax import data
from dapt_jax.models import model as model_lib
from dapt_jax.tasks import Bank, Task, splits
from dapt_jax.types import Params
from dapt_jax.weights import members, zoo
from dapt_jax.weights.codec import Codec

# What a random number generator is seeded with beside the configuration's seed.
_HELD, _SUPPORT, _TEST, _TRAIN, _FRESH = 1, 2, 3, 4, 5


@dataclasses.dataclass(frozen=True)
class ZooTask:
  """Images, their split, and the network.

  Attributes:
    bank: all images of all views.
    model: the network of all members.
    flat: its flat form.
  """

  bank: Bank
  model: model_lib.Model
  flat: members.Flat


@dataclasses.dataclass(frozen=True)
class Held:
  """Tasks that the zoo has not seen.

  Attributes:
    part: of the split.
    tasks: the tasks.
    support: i32[T, classes, k], images that a generator may see.
    test: i32[T, classes, m], images that accuracies are measured on.
  """

  part: str
  tasks: list[Task]
  support: np.ndarray
  test: np.ndarray


def load(config: Any) -> ZooTask:
  """Reads the data and makes the model."""
  sources = {
    name: data.load(
      name,
      'all',
      data_dir=config.data.data_dir,
      image_size=config.data.image_size,
      source=config.data.origin,
    )
    for name in config.data.sources
  }
  classes = {d.num_classes for d in sources.values()}
  views = [(v.rpartition('/')[0], v.rpartition('/')[2]) for v in config.data.held_views]
  split = splits.make(
    config.data.sources,
    held_views=views,
    num_classes=config.data.num_classes,
    num_held_sets=config.data.held_sets,
    transforms=config.data.transforms,
    source_classes=max(classes),
    seed=config.seed,
  )
  bank = Bank(split, sources)
  model = model_lib.create(
    config.model.name,
    input_shape=bank.images.shape[1:],
    num_classes=config.data.num_classes,
    in_loop=True,
    **config.model.options.to_dict(),
  )
  return ZooTask(bank, model, members.flatten(model))


def recipe(config: Any) -> members.Recipe:
  """How networks are trained, those of the zoo and fine-tuned ones."""
  return members.Recipe(
    steps=config.zoo.steps,
    batch_size=config.zoo.batch_size,
    learning_rate=config.zoo.learning_rate,
    group=config.zoo.group,
  )


def plan(config: Any, **changes: Any) -> zoo.Plan:
  """What the zoo is made of."""
  fields = ('size', 'per_class', 'test_per_class', 'start', 'shard')
  return zoo.Plan(**{**{f: config.zoo[f] for f in fields}, 'seed': config.seed, **changes})


def zoo_path(workdir: str) -> pathlib.Path:
  """Where the zoo of a work directory lies."""
  return pathlib.Path(workdir) / 'zoo'


def held(config: Any, task: ZooTask, part: str) -> Held:
  """Tasks of a held-out part, the same for every app of a configuration."""
  bank, seed = task.bank, config.seed
  tasks = bank.split.draw(part, config.compare.tasks, seed + _HELD)
  support = bank.draw(tasks, part, 'train', config.sample.support, seed + _SUPPORT)
  test = bank.draw(tasks, part, 'test', config.zoo.test_per_class, seed + _TEST)
  return Held(part, tasks, support, test)


def training_rows(config: Any, task: ZooTask, found: zoo.Zoo) -> np.ndarray:
  """i32[N, classes, K], training images of the tasks of a zoo."""
  per_class = config.zoo.per_class
  return task.bank.draw(found.tasks, 'zoo', 'train', per_class, config.seed + _TRAIN)


def fresh_rows(config: Any, task: ZooTask) -> np.ndarray | None:
  """i32[F, classes, K], training images of more tasks of the zoo's part; None if not wanted."""
  count, seed = config.fresh.tasks, config.seed + _FRESH
  if not count:
    return None
  tasks = task.bank.split.draw('zoo', count, seed)
  mixed = round(config.fresh.mixed * count)
  draws = (task.bank.mix, tasks[:mixed]), (task.bank.draw, tasks[mixed:])
  return np.concatenate(
    [f(some, 'zoo', 'train', config.zoo.per_class, seed) for f, some in draws if some]
  )


def variables(task: ZooTask, vectors: np.ndarray) -> Params:
  """Networks f32[N, size] as variables with a leading axis N."""
  return jax.jit(jax.vmap(task.flat.unravel))(jnp.asarray(vectors))


def vectors(task: ZooTask, codec: Codec, codes: jax.Array) -> jax.Array:
  """Codes f32[N, D] as networks f32[N, size]."""
  return jax.jit(jax.vmap(lambda code: task.flat.ravel(codec.decode(code))))(codes)
