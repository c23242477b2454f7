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
_SUPPORT = absl_flags.DEFINE_integer(
  'support', None, 'Images a class that are shown; sample.support by default.', lower_bound=1
)
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


def show(
  config: Any, channels: int, name: str, classes: list[str] | None, support: int | None = None
) -> Shown:
  """Loads a data set and draws its support.

  Images of any size are resized to that of the generator's networks; colour is turned gray for
  networks that read one channel, and gray repeated for those that read three.

  Args:
    config: of the generator.
    channels: that its networks read.
    name: of the data set, as `data.load` has it.
    classes: names or numbers of its classes, in the order of the labels; None: all.
    support: images a class; `sample.support` where None. Fewer than the generator was trained with
      cost accuracy, but work.

  Raises:
    ValueError: if it is a source of the zoo, has another number of classes than the generator
      writes networks for, a class with too few images, or another number of channels.
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
  k = config.sample.support if support is None else support
  _check(config, train, k)
  drawn = draws.draw(train.labels, k, config.seed)
  # Drawn round by round, one image of every class a round.
  rows = np.arange(len(drawn), dtype=np.int32).reshape(k, -1).T
  images = _with_channels(np.concatenate([train.images[drawn], test.images]), channels, name)
  tests = len(drawn) + np.arange(len(test))
  return Shown(jnp.asarray(bank_lib.standardise(images)), rows[None], (tests, test.labels))


def _check(config: Any, train: data.Dataset, support: int) -> None:
  """Refuses other numbers of classes, and classes with too few images."""
  wanted, found = config.data.num_classes, train.num_classes
  if found != wanted:
    remedy = (
      f'choose {wanted} of them: --classes={",".join(train.class_names[:wanted])}'
      if found > wanted
      else f'take a data set with more, or train a generator with --config.data.num_classes={found}'
    )
    raise ValueError(
      f'{train.name!r} has {found} classes, this generator writes networks for {wanted}; {remedy}'
    )
  counts = np.bincount(train.labels, minlength=found)
  if counts.min() < support:
    least = int(counts.argmin())
    raise ValueError(
      f'class {train.class_names[least]!r} of {train.name!r} has {counts[least]} training images, '
      f'the support takes {support}; add images, or give --support={max(counts[least], 1)}: the '
      'same generator takes fewer, and knows less'
    )


def _with_channels(images: np.ndarray, channels: int, name: str) -> np.ndarray:
  """Images f32[n, H, W, C] as networks read them: gray by luma (ITU-R BT.601), or repeated."""
  found = images.shape[-1]
  if found == channels:
    return images
  if (found, channels) == (3, 1):
    return (images @ np.array([[0.299], [0.587], [0.114]], np.float32)).clip(0, 1)
  if (found, channels) == (1, 3):
    return images.repeat(3, axis=-1)
  raise ValueError(
    f"images of {name!r} have {found} channels, the generator's networks read {channels}; save "
    'them gray or as RGB'
  )


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
  """Draws, chooses and tunes; (weights f32[size], {start: test accuracy}).

  Raises:
    ValueError: for more steps than the recipe of the zoo has, or an unknown method.
  """
  config, task = source.config, source.task
  support = jnp.asarray(shown.support)
  recipe = zoo_task.recipe(config)
  if tune > recipe.steps:
    raise ValueError(
      f'--tune={tune}: the recipe of the zoo has zoo.steps={recipe.steps}; tune for fewer, and '
      'train on with a recipe of your own'
    )
  drawn = candidates(source, shown, method)
  drawn = compare_starts.refreshed(task, drawn, shown.images, support)
  chosen = drawn[0, starts.choose(task.flat, drawn, shown.images, shown.support)[0]]
  random = source.random(1, 1, seeds.key(config.seed, 'random'))
  random = compare_starts.refreshed(task, random, shown.images, support)[0, 0]
  found = {}
  keys = jax.random.split(seeds.key(config.seed, 'tune'), 1)
  for name, vector in (('random first weights', random), ('drawn weights', chosen)):
    found[name] = _accuracy(task, vector, shown)
    if tune:
      begun = members.begin(recipe, vector[None])
      tuned = members.advance(task.flat, recipe, begun, shown.images, support, keys, 0, tune)
      vector = members.refresh(task.flat, tuned.vector, shown.images, support)[0]
      found[f'{name}, {tune} steps'] = _accuracy(task, vector, shown)
  return vector, found


def _accuracy(task: zoo_task.ZooTask, vector: jax.Array, shown: Shown) -> float:
  rows, labels = shown.test
  predicted = jax.jit(task.flat.logits)(vector, shown.images[rows]).argmax(-1)
  return float((np.asarray(predicted) == labels).mean())


def save(
  path: pathlib.Path,
  task: zoo_task.ZooTask,
  vector: jax.Array,
  provenance: dict[str, Any],
  width: int = 0,
) -> None:
  """Writes the network: arrays by name, as narrow as it is, and how to rebuild the model."""
  variables = task.widths.cut(width, task.flat.unravel(vector))
  flat = traverse_util.flatten_dict(variables, sep='/')
  there = {k: np.ascontiguousarray(v) for k, v in flat.items() if v is not None}
  payload = safetensors.numpy.save(there)
  _FILES.save(path, {'model': task.widths.models[width].spec, 'provenance': provenance}, payload)


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Draws weights and says how good they are."""
  del overwrite  # the file is replaced whole
  task = zoo_task.load(config)
  channels = task.model.input_shape[-1]
  shown = show(config, channels, _DATA.value, _CLASSES.value, _SUPPORT.value)
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
    'support': shown.support.shape[-1],
    'accuracy': found,
    'sample': config.sample.to_dict(),
  }
  save(path, task, vector, provenance, source.width)
  for name, accuracy in found.items():
    print(f'{name:32} {accuracy:.3f}')
  print(f'{path}.safetensors')


if __name__ == '__main__':
  flags.run(main, generation)
