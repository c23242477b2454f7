"""Draws first weights for a data set that nobody trained on, from a few of its labelled images.

  python -m experiments.sample_weights --config=configs/generate.py --workdir=runs/generate
      --data=fashion_mnist --classes=7,1,8,2,0 --tune=50

Needs WORKDIR/generator (`experiments.train_generator`). Draws `sample.candidates` networks, takes
the one that is best on the support images, trains it for `--tune` steps on these images, and writes
it as a network of its own: OUT.safetensors (one array per parameter) and OUT.json (the model, where
the weights come from). Accuracy on the test split is printed beside that of random first weights.
"""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import flags as absl_flags
from flax import traverse_util

from dapt_jax import data, files
from dapt_jax.tasks import bank as bank_lib
from dapt_jax.training import seeds
from dapt_jax.transfer import draws
from dapt_jax.weights import members, starts, zoo
from experiments import compare_starts, flags, generation, zoo_task

_DATA = absl_flags.DEFINE_string('data', None, 'Data set: a name, or folder:/path.', required=True)
_CLASSES = absl_flags.DEFINE_list('classes', None, 'Its classes, in the order of the labels.')
_METHOD = absl_flags.DEFINE_string(
  'method', 'generator', "'generator', or 'hypernetwork-VARIANT' out of hypernetwork.variants."
)
_TUNE = absl_flags.DEFINE_integer('tune', 0, 'Steps of training on the support.', lower_bound=0)
_OUT = absl_flags.DEFINE_string('out', None, 'Where to; WORKDIR/sampled by default.')

_FILES = files.Pair(
  format='dapt_jax.sampled_weights',
  version=1,
  what='sampled weights',
  suffix='.safetensors',
  required=('model', 'provenance'),
)


class Shown(NamedTuple):
  """A data set as a network sees it.

  Attributes:
    images: f32[n, H, W, C], support images, then test images.
    support: i32[1, classes, k], rows of `images`.
    test: rows and labels of the test images.
  """

  images: jax.Array
  support: np.ndarray
  test: tuple[np.ndarray, np.ndarray]


def show(config: Any, name: str, classes: list[str] | None) -> Shown:
  """Loads a data set and draws its support.

  Raises:
    ValueError: if it is a source of the zoo, has another number of classes than the generator
      writes networks for, or a class with too few images.
  """
  if name in config.data.sources and f'{name}/*' not in config.data.held_views:
    raise ValueError(
      f'{name!r} is a source of the zoo, whose networks have seen test images of it; for held-out '
      'tasks of the sources there is experiments.compare_starts'
    )
  parts = [
    data.load(name, split, data_dir=config.data.data_dir, image_size=config.data.image_size)
    for split in ('train', 'test')
  ]
  if classes:
    names = parts[0].class_names
    chosen = [c if c in names or not c.isdigit() else int(c) for c in classes]
    parts = [p.classes(chosen) for p in parts]
  train, test = parts
  wanted = config.data.num_classes
  if train.num_classes != wanted:
    raise ValueError(
      f'{name!r} has {train.num_classes} classes, this generator writes networks for {wanted}; '
      f'choose {wanted} of them: --classes=0,1,...'
    )
  support = draws.draw(train.labels, config.sample.support, config.seed)
  # Drawn round by round, one image of every class a round.
  rows = np.arange(len(support), dtype=np.int32).reshape(-1, wanted).T
  images = np.concatenate([train.images[support], test.images])
  tests = len(support) + np.arange(len(test))
  return Shown(jnp.asarray(bank_lib.standardise(images)), rows[None], (tests, test.labels))


def candidates(source: compare_starts.Starts, shown: Shown, method: str) -> jax.Array:
  """f32[1, k, size], networks for the data set.

  Raises:
    ValueError: for a method that the generator does not have.
  """
  config = source.config
  known = ['generator', *(f'hypernetwork-{v}' for v in source.hypernetworks)]
  if method not in known:
    raise ValueError(f'--method={method}: choose one of {known}')
  given = source.condition(shown.images, shown.support)
  if method == 'generator':
    return source.sampled(given, config.sample.candidates, config.sample.guidance, 'sample')
  return source.written(method.removeprefix('hypernetwork-'), given)


def run(
  source: compare_starts.Starts, shown: Shown, method: str, tune: int
) -> tuple[jax.Array, dict[str, float]]:
  """Draws, chooses and tunes; (weights f32[size], {start: test accuracy})."""
  config, task = source.config, source.task
  support = jnp.asarray(shown.support)
  drawn = candidates(source, shown, method)
  drawn = compare_starts.refreshed(task, drawn, shown.images, support)
  chosen = drawn[0, starts.choose(task.flat, drawn, shown.images, shown.support)[0]]
  random = starts.random(task.flat, task.model, 1, 1, seeds.key(config.seed, 'random'))
  random = compare_starts.refreshed(task, random, shown.images, support)[0, 0]
  found = {}
  recipe, keys = zoo_task.recipe(config), jax.random.split(seeds.key(config.seed, 'tune'), 1)
  for name, vector in (('random first weights', random), ('drawn weights', chosen)):
    found[name] = _accuracy(task, vector, shown)
    if tune:
      begun = members.begin(recipe, vector[None])
      last = min(tune, recipe.steps)
      tuned = members.advance(task.flat, recipe, begun, shown.images, support, keys, 0, last)
      vector = members.refresh(task.flat, tuned.vector, shown.images, support)[0]
      found[f'{name}, {last} steps'] = _accuracy(task, vector, shown)
  return vector, found


def _accuracy(task: zoo_task.ZooTask, vector: jax.Array, shown: Shown) -> float:
  rows, labels = shown.test
  predicted = jax.jit(task.flat.logits)(vector, shown.images[rows]).argmax(-1)
  return float((np.asarray(predicted) == labels).mean())


def save(
  path: pathlib.Path, task: zoo_task.ZooTask, vector: jax.Array, provenance: dict[str, Any]
) -> None:
  """Writes the network: named arrays, and what it takes to rebuild the model."""
  flat = traverse_util.flatten_dict(task.flat.unravel(vector), sep='/')
  there = {k: np.ascontiguousarray(v) for k, v in flat.items() if v is not None}
  payload = safetensors.numpy.save(there)
  _FILES.save(path, {'model': task.model.spec, 'provenance': provenance}, payload)


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Draws weights and says how good they are."""
  del overwrite  # the file is replaced whole
  shown = show(config, _DATA.value, _CLASSES.value)
  task = zoo_task.load(config)
  stored = zoo.load(zoo_task.zoo_path(workdir))
  source = compare_starts.Starts(config, task, stored, workdir)
  vector, found = run(source, shown, _METHOD.value, _TUNE.value)
  path = pathlib.Path(_OUT.value or pathlib.Path(workdir) / 'sampled')
  provenance = {
    'architecture': task.architecture,
    'data': _DATA.value,
    'classes': _CLASSES.value,
    'method': _METHOD.value,
    'tuned': _TUNE.value,
    'accuracy': found,
    'sample': config.sample.to_dict(),
  }
  save(path, task, vector, provenance)
  for name, accuracy in found.items():
    print(f'{name:32} {accuracy:.3f}')
  print(f'{path}.safetensors')


if __name__ == '__main__':
  flags.run(main, generation)
