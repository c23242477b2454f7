"""Zoos with several modes: networks of several seeds in one order, networks of several widths."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dapt_jax as dapt
from dapt_jax.models import model as model_lib
from dapt_jax.training import seeds
from dapt_jax.types import Params
from dapt_jax.weights import align, codec, symmetry
from dapt_jax.weights import zoo as zoo_lib
from experiments import zoo_task

#: How often the mean of the networks in their new order becomes the reference.
_ROUNDS = 5
#: How many images activations are compared on.
_IMAGES = 256


def aligned(
  config: Any, task: zoo_task.ZooTask, found: zoo_lib.Zoo, like: zoo_lib.Zoo | None = None
) -> zoo_lib.Zoo:
  """The zoo with its networks in one order, as `zoo.align` says; the files stay as they are.

  Every width has an order of its own. By weights the reference is the mean of the zoo, found in
  turns with the order (Ainsworth et al., 2023, algorithm 3, for a few networks). By activations it
  is the first network: what a mean of weights computes is no reference.

  Args:
    config: of the apps.
    task: images and models.
    found: the zoo.
    like: an aligned zoo whose order is wanted; None: its own.
  """
  if config.zoo.align == 'none':
    return found
  vectors = found.vectors.copy()
  for width in range(len(task.widths)):
    mine = found.widths == width
    known = vectors[mine] if like is None else like.vectors[like.widths == width]
    if mine.any():
      vectors[mine] = _in_order(config, task, width, vectors[mine], known, like is None)
  return dataclasses.replace(found, vectors=vectors)


def _in_order(
  config: Any,
  task: zoo_task.ZooTask,
  width: int,
  vectors: np.ndarray,
  known: np.ndarray,
  anew: bool,
) -> np.ndarray:
  """Networks f32[N, size] of one width in the order of `known`, or in one found for them."""
  cut = lambda v: jax.tree.map(np.asarray, task.widths.cut(width, zoo_task.variables(task, v)))
  stack, key = cut(vectors), seeds.key(config.seed, 'align')
  found = _symmetry(task.widths.models[width], jax.tree.map(lambda x: x[0], stack))
  if config.zoo.align == 'activations':
    first = jax.tree.map(lambda x: x[0], cut(known[:1]))
    stack, _ = align.align_zoo(found, stack, first, key, (_images(config, task),))
  elif anew:
    first = jax.tree.map(lambda x: x[0], stack)
    stack, _ = align.align_zoo(found, stack, first, key)
    for _ in range(_ROUNDS):
      stack, _ = align.align_zoo(found, stack, _mean(stack), key)
  else:
    stack, _ = align.align_zoo(found, stack, _mean(cut(known)), key)
  whole = lambda variables: task.flat.ravel(task.widths.embed(variables))
  return np.asarray(jax.jit(jax.vmap(whole))(stack))


def _images(config: Any, task: zoo_task.ZooTask) -> np.ndarray:
  """f32[n, H, W, C], training images of tasks of the zoo's part."""
  tasks = task.bank.split.draw('zoo', _IMAGES, config.seed)
  return task.bank.images[task.bank.draw(tasks, 'zoo', 'train', 1, config.seed)[:, 0, 0]]


def _mean(stack: Params) -> Params:
  return jax.tree.map(lambda x: x.mean(0), stack)


def _symmetry(model: model_lib.Model, variables: Params) -> symmetry.Symmetry:
  spec = model.spec
  plain = model_lib.create(
    spec['name'],
    input_shape=spec['input_shape'],
    num_classes=spec['num_classes'],
    lowering='lax',
    **spec['config'],
  )
  images = jnp.zeros((2, *spec['input_shape']))
  return symmetry.find(dapt.trace(plain.apply, variables, images), variables)


def fit_codec(config: Any, task: zoo_task.ZooTask, found: zoo_lib.Zoo) -> codec.Codec:
  """The codec of a zoo; means are over the networks that have a weight."""
  stacks = [
    task.widths.cut(width, zoo_task.variables(task, found.vectors[found.widths == width]))
    for width in range(len(task.widths))
    if (found.widths == width).any()
  ]
  return codec.Codec.fit(*stacks, scale=config.autoencoder.scale)


def encode(task: zoo_task.ZooTask, coding: codec.Codec, found: zoo_lib.Zoo) -> jax.Array:
  """Codes f32[N, D] of the networks of a zoo, 0 where a network has no weight."""
  masks = np.stack([coding.mask(task.widths.shapes(w)) for w in range(len(task.widths))])
  codes = jax.jit(coding.encode)(zoo_task.variables(task, found.vectors))
  return codes * masks[found.widths]


def told(task: zoo_task.ZooTask, widths: np.ndarray) -> jax.Array | None:
  """What conditions say of widths i[N], one-hot f32[N, W]; None where there is only one."""
  return None if len(task.widths) == 1 else jax.nn.one_hot(widths, len(task.widths))
