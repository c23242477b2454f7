"""What all apps that generate weights share: split, images, model, zoo."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dapt_jax as dapt
from dapt_jax import data
from dapt_jax.models import cut
from dapt_jax.models import model as model_lib
from dapt_jax.tasks import Bank, Task, splits
from dapt_jax.tasks import bank as bank_lib
from dapt_jax.training import seeds
from dapt_jax.types import Params
from dapt_jax.weights import first_weights as start_lib
from dapt_jax.weights import members, zoo
from dapt_jax.weights import widths as widths_lib
from dapt_jax.weights.codec import Codec

# What a random number generator is seeded with beside the configuration's seed.
_HELD, _SUPPORT, _TEST, _TRAIN, _FRESH, _WHOLE = 1, 2, 3, 4, 5, 6


@dataclasses.dataclass(frozen=True)
class ZooTask:
  """Images, their split, and the network.

  Attributes:
    bank: all images of all views.
    model: the network of all members, the widest one.
    flat: its flat form.
    widths: all networks, the model first.
    architecture: fingerprint of what is left of the network, None for all of it.
  """

  bank: Bank
  model: model_lib.Model
  flat: members.Flat
  widths: widths_lib.Widths
  architecture: str | None = None

  @functools.cached_property
  def images(self) -> jax.Array:
    """The images of the bank on the device, once."""
    return jnp.asarray(self.bank.images)


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
  c = config.data
  sources = {name: _read(c, name) for name in c.sources}
  classes = {d.num_classes for s in sources.values() for d in bank_lib.datasets(s)}
  views = [(v.rpartition('/')[0], v.rpartition('/')[2]) for v in c.held_views]
  split = splits.make(
    c.sources,
    held_views=views,
    num_classes=c.num_classes,
    num_held_sets=c.held_sets,
    transforms=c.transforms,
    source_classes=max(classes),
    train_share=0.7 if c.split == 'random' else None,
    seed=config.seed,
  )
  for part in config.compare.parts:
    split.draw(part, 1, 0)  # an empty part is an error before any work
  bank = Bank(split, sources, (c.per_class, c.test_per_class))
  models, arch = _networks(config, bank.images.shape[1:], c.num_classes)
  return ZooTask(bank, models[0], members.flatten(models[0]), widths_lib.make(models), arch)


def _read(c: Any, name: str) -> bank_lib.Source:
  """A source whole, or as (training split, test split)."""
  train, *test = [
    data.load(name, split, data_dir=c.data_dir, image_size=c.image_size, source=c.origin)
    for split in (('all',) if c.split == 'random' else bank_lib.SIDES)
  ]
  return (train, test[0]) if test else train


def _networks(
  config: Any, input_shape: tuple[int, ...], num_classes: int
) -> tuple[list[model_lib.Model], str | None]:
  """(networks of all widths, the widest first; fingerprint of what is left of it)."""
  c = config.model
  models = [
    model_lib.create(
      c.name,
      input_shape=input_shape,
      num_classes=num_classes,
      in_loop=True,
      **{**c.options.to_dict(), **changes},
    )
    for changes in ({}, *c.narrower)
  ]
  if c.architecture is None:
    return models, None
  arch = dapt.Architecture.load(c.architecture)
  return [cut.cut(models[0], arch, in_loop=True)], arch.fingerprint()


def with_outputs(config: Any, task: ZooTask, count: int) -> model_lib.Model:
  """The network of width `sample.width` with another number of outputs."""
  return _networks(config, task.model.input_shape, count)[0][config.sample.width]


def head(config: Any, task: ZooTask) -> dict[str, Any]:
  """What `zoo.json` says beside model, split, plan and recipe; nothing for the defaults."""
  entries = {
    'architecture': task.architecture,
    'images': [config.data.per_class, config.data.test_per_class],
  }
  return {name: value for name, value in entries.items() if value not in (None, [0, 0])}


def require_architecture(task: ZooTask, found: str | None, path: pathlib.Path) -> None:
  """Raises ValueError if the generator in `path` was trained for another architecture."""
  if found != task.architecture:
    name = lambda fingerprint: fingerprint or 'the whole network'
    raise ValueError(
      f'the generator in {path} writes weights of {name(found)}, but model.architecture is '
      f'{name(task.architecture)}; give the architecture it was trained with, or train another'
    )


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
  fields = ('size', 'per_class', 'test_per_class', 'start', 'starts', 'shard')
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


def first_weights(config: Any, task: ZooTask) -> jax.Array:
  """f32[size], the first initialisation that networks of width `sample.width` share."""
  return start_lib.shared(task.flat, task.widths, config.seed, 1, config.sample.width)[0]


def trained(config: Any, task: ZooTask, tasks: Held) -> jax.Array:
  """f32[T, compare.trained, size], networks trained on held-out tasks as those of the zoo are.

  Each has images of its own, as many as a network of the zoo: more than `tasks.support`.
  """
  bank, count = task.bank, config.compare.trained
  repeated = [t for t in tasks.tasks for _ in range(count)]
  seed = config.seed + _WHOLE
  rows = jnp.asarray(bank.draw(repeated, tasks.part, 'train', config.zoo.per_class, seed))
  root = seeds.key(config.seed, f'trained {tasks.part}')
  keys = jax.random.split(root, len(repeated))
  if config.zoo.start == 'shared':
    start = jnp.broadcast_to(first_weights(config, task), (len(keys), task.flat.size))
  else:
    init = task.widths.models[config.sample.width].init
    own = lambda k: task.flat.ravel(task.widths.embed(init(jax.random.fold_in(k, 1))))
    start = jax.vmap(own)(keys)
  run = members.train(task.flat, recipe(config), start, task.images, rows, keys)
  return run.vector.reshape(len(tasks.tasks), count, task.flat.size)


def variables(task: ZooTask, vectors: np.ndarray) -> Params:
  """Networks f32[N, size] as variables with a leading axis N."""
  return jax.jit(jax.vmap(task.flat.unravel))(jnp.asarray(vectors))


def vectors(
  task: ZooTask, codec: Codec, codes: jax.Array, widths: np.ndarray | int = 0
) -> jax.Array:
  """Codes f32[N, D] as networks f32[N, size] of one width or of widths i[N]."""
  decode = jax.jit(jax.vmap(lambda code: task.flat.ravel(codec.decode(code))))
  return decode(codes) * task.widths.masks[widths]
