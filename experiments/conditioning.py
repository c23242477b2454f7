"""The condition of a configuration: features of images, encoder, and its alignment.

`condition.encoder` reads `condition.features` of a few images of every class. Features of a network
need one: 'network' is the joint body of `experiments.train_baselines`, trained on images of the
zoo's tasks; they are computed once for all images of the bank, and in the batch where tasks are
distorted. EfficientNet-Lite0 is too large for that, so with it fresh tasks are not distorted. What
features are computed with is kept in the generator's file; sampling needs nothing else.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.tasks import alignment, features
from dapt_jax.tasks import conditioning as conditioning_lib
from dapt_jax.training import seeds
from dapt_jax.types import Params
from dapt_jax.weights import batches
from dapt_jax.weights import zoo as zoo_lib
from experiments import fitting, train_baselines, zoo_modes, zoo_task

#: Tasks that are told at a time.
_PART = 256


def sizes(config: Any) -> tuple[int, ...]:
  """How many images a class conditions have in training, one of them drawn for every task."""
  return tuple(config.condition.images) or (config.sample.support,)


def learn(
  config: Any, task: zoo_task.ZooTask, found: zoo_lib.Zoo, rows: np.ndarray, workdir: str
) -> dict[str, Any]:
  """What features are computed with, from images of the zoo's tasks; empty for pixels.

  Args:
    config: of the apps.
    task: images and models.
    found: the zoo.
    rows: i32[N, classes, K], training images of its tasks.
    workdir: where the network is trained, and features are kept.
  """
  if config.condition.features == 'pixels':
    return {}
  learned: dict[str, Any] = {}
  if config.condition.features == 'network':
    widest = config.copy_and_resolve_references()
    widest.sample.width = 0
    vector = train_baselines.joint_body(widest, task, found, rows, workdir)
    learned['network'] = task.flat.unravel(vector)
  raw = _extract(config, task, learned, task.bank.images, workdir)
  return {**learned, **features.Scaling.fit(raw, rows)._asdict()}


def make(
  config: Any, task: zoo_task.ZooTask, learned: Params, workdir: str
) -> conditioning_lib.Conditioning:
  """The way from images to a condition; `learned` is what `learn` found."""
  c = config.condition
  options: dict[str, Any] = {'width': c.width, 'slots': c.slots}
  if c.features != 'pixels':
    scaling = features.Scaling(learned['mean'], learned['std'])
    known = lambda images: jnp.asarray(
      scaling.apply(_extract(config, task, learned, np.asarray(images), workdir))
    )
    look = None
    if c.features == 'network':
      look = lambda pictures: scaling.apply(_features(task, learned['network'], pictures))
    options |= {'look': look, 'known': known}
  return conditioning_lib.make(c.encoder, config.data.num_classes, **options)


def aligned(
  config: Any,
  how: conditioning_lib.Conditioning,
  data: batches.Data,
  told: jax.Array,
  workdir: str,
) -> conditioning_lib.Conditioning:
  """The same with an encoder that starts where `condition.align` leaves it.

  Args:
    config: of the apps.
    how: from `make`.
    data: networks with their latents.
    told: f32[1, classes, k, C], an example.
    workdir: where the stage is trained.
  """
  c, encoder = config.condition, how.encoder
  if c.align == 'none' or encoder is None:
    return how
  assert data.latents is not None
  settings = alignment.Settings(data.latents.shape[1], c.align, steps=c.align_steps)
  stage = alignment.make(settings, (lambda key: encoder.init(key, told), encoder.encode))
  told_by = batches.Told(sizes(config), 0, how=how)
  drawn = batches.of_alignment(min(config.training.batch_size, len(data.rows)), told_by)
  begin = stage.init(seeds.key(config.seed, 'alignment'), told)
  params = fitting.fit(
    *(config, pathlib.Path(workdir) / 'alignment', 'condition', stage.update, begin),
    *(drawn, data, c.align_steps),
  ).params['encoder']
  # On the host: two trainings start from it, and each gives its first state away.
  kept = jax.tree.map(np.asarray, params)
  start = lambda key, told: jax.tree.map(jnp.asarray, kept)
  return how._replace(encoder=encoder._replace(init=start))


class Reader:
  """What is told of tasks at sampling time, by any number of images a class.

  Attributes:
    how: from `make`.
  """

  def __init__(self, config: Any, task: zoo_task.ZooTask, learned: Params, workdir: str) -> None:
    self.how = make(config, task, learned, workdir)
    self._task = task

  def told(self, images: jax.Array, rows: np.ndarray, width: int) -> jax.Array:
    """f32[T, classes, ...] of rows i32[T, classes, k] of images, for networks of one width."""
    return self._of(self.how, images, rows, width)

  def moments(self, rows: np.ndarray, width: int) -> jax.Array:
    """f32[T, classes, C], moments of the features of images of the bank, with class slots."""
    plain = conditioning_lib.make('moments', 0, look=self.how.look, known=self.how.known)
    return self._of(plain, self._task.images, rows, width)

  def _of(
    self, how: conditioning_lib.Conditioning, images: jax.Array, rows: np.ndarray, width: int
  ) -> jax.Array:
    known = self._known(images)
    # In parts: all images of a zoo's conditions at once would be gigabytes.
    parts = np.array_split(rows, -(-len(rows) // _PART))
    given = jnp.concatenate([how.of(images, jnp.asarray(part), known) for part in parts])
    return batches.tell(given, zoo_modes.told(self._task, np.full(len(rows), width)))

  def _known(self, images: jax.Array) -> jax.Array | None:
    if self.how.known is None:
      return None
    return self._stored if images is self._task.images else self.how.known(images)

  @functools.cached_property
  def _stored(self) -> jax.Array:
    """Features of the images of the bank."""
    assert self.how.known is not None
    return self.how.known(self._task.images)


def _extract(
  config: Any, task: zoo_task.ZooTask, learned: Params, images: np.ndarray, workdir: str
) -> np.ndarray:
  """Features f32[n, F] of standardised images f32[n, H, W, C]."""
  pictures = images * np.float32(0.5) + np.float32(0.5)
  return features.extract(
    config.condition.features,
    pictures,
    model=task.model,
    variables=learned.get('network'),
    cache_dir=pathlib.Path(workdir) / 'features',
  )


def _features(task: zoo_task.ZooTask, variables: Params, pictures: jax.Array) -> jax.Array:
  """What the head of the network reads, f32[..., F] of pictures f32[..., H, W, C]."""
  flat = pictures.reshape(-1, *pictures.shape[-3:])
  return task.model.features(variables, flat).reshape(*pictures.shape[:-3], -1)
