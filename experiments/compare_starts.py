"""Compares first weights for unseen tasks: the generator's, and everything it has to beat.

  python -m experiments.compare_starts --config=configs/generate.py --workdir=runs/generate

Needs WORKDIR/generator (`experiments.train_generator`). For every held-out task: accuracy of one
start, of the best of `sample.candidates` chosen on the support images, of their ensemble, and along
fine-tuning on the support images from both. Writes WORKDIR/starts.json and .npz and prints a table.
"""

from __future__ import annotations

import functools
import io
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax import files
from dapt_jax.training import seeds, writers
from dapt_jax.types import PRNGKey
from dapt_jax.weights import (
  codec,
  first_weights,
  generator,
  members,
  novelty,
  starts,
  trained,
)
from dapt_jax.weights import zoo as zoo_lib
from experiments import (
  build_zoo,
  conditioning,
  flags,
  generation,
  train_baselines,
  train_generator,
  zoo_task,
)

#: Noise on the nearest network, in standard deviations of every weight over the zoo.
_NOISE = 0.3

#: How tables call what is trained for all tasks.
NAMES = {
  'reptile': 'Reptile',
  'anil': 'ANIL, first order',
  'joint': 'joint body, new head',
}


class Starts:
  """Candidates of every method for the tasks of one part, networks of width `sample.width`."""

  def __init__(self, config: Any, task: zoo_task.ZooTask, found: zoo_lib.Zoo, workdir: str) -> None:
    root = pathlib.Path(workdir)
    self.config, self.task, self.width = config, task, config.sample.width
    self.zoo, self.workdir = found, workdir
    alike = found.widths == self.width
    self.vectors = found.vectors[alike]
    self.images = task.images
    for name in ('codec.json', 'generator.json'):
      if not (root / name).is_file():
        raise FileNotFoundError(
          f'{root / name} is missing; run experiments.train_generator --workdir={root} first'
        )
    self.codec = codec.Codec.load(root / 'codec')
    self.arrays = trained.Arrays.load(root / 'generator')
    zoo_task.require_architecture(task, self.arrays.settings.get('architecture'), root)
    self.arrays.require(config, generation.free(config), generation.ADDED)
    self.reader = conditioning.Reader(config, task, self.arrays.features, workdir)
    self.rows = zoo_task.training_rows(config, task, found)[alike]
    outputs = train_generator.outputs_of(task, self.codec)
    parts = train_generator.parts_of(task, self.codec)
    self.coder = coder = train_generator.coder_of(config, self.codec, parts, outputs)
    none = jnp.zeros((0, coder.size))
    middle, spread = jnp.asarray(self.arrays.latent_mean), jnp.asarray(self.arrays.latent_std)
    latents = generator.Latents(none, middle, spread)
    shape, encoder = self.conditions(self.rows[:1]).shape[1:], self.reader.how.encoder
    self.generator = train_generator.generator_of(
      config, coder, self.arrays.coder, latents, shape, outputs, encoder
    )
    self.hypernetworks = {
      v: train_generator.hypernetwork_of(config, v, self.codec, parts, outputs, encoder)
      for v in config.hypernetwork.variants
    }

  @functools.cached_property
  def stored(self) -> np.ndarray:
    """f32[N, classes, C], moments of the tasks of the zoo, see `moments`."""
    return np.asarray(self.moments(self.rows))

  def moments(self, rows: np.ndarray) -> jax.Array:
    """f32[T, classes, C], what tasks are compared by, whatever the generator is told."""
    return self.reader.moments(rows[:, :, : self.config.sample.support], self.width)

  def conditions(self, rows: np.ndarray) -> jax.Array:
    """f32[T, classes, ...], of the first `sample.support` images of every class."""
    return self.condition(self.images, rows[:, :, : self.config.sample.support])

  def condition(self, images: jax.Array, rows: np.ndarray) -> jax.Array:
    """f32[T, classes, ...], of other images, i32[T, classes, k] being their rows; any k."""
    return self.reader.told(images, rows, self.width)

  def sampled(
    self, conditions: jax.Array, count: int, guidance: float | None, name: str
  ) -> jax.Array:
    """f32[T, count, size], draws of the generator."""
    given = jnp.repeat(conditions, count, axis=0)
    found = self.draw(given, seeds.key(self.config.seed, name), guidance)
    return found.reshape(len(conditions), count, -1)

  def draw(self, conditions: jax.Array, key: PRNGKey, guidance: float | None) -> jax.Array:
    """f32[T, size], a draw of the generator for every condition; guidance 0 leaves it out."""
    codes = self._codes(self.arrays.generator, conditions, key, guidance)
    return zoo_task.vectors(self.task, self.codec, codes, self.width)

  @functools.cached_property
  def _codes(self) -> Callable[..., jax.Array]:
    """The compiled sampler; kept, since compiling it takes longer than drawing."""
    options = {'method': self.config.sample.method, 'num_steps': self.config.sample.steps}
    return jax.jit(functools.partial(self.generator.sample, **options))

  def written(self, variant: str, conditions: jax.Array) -> jax.Array:
    """f32[T, 1, size], what a hypernetwork writes."""
    predict = jax.jit(self.hypernetworks[variant].predict)
    codes = predict(self.arrays.hypernetwork[variant], conditions)
    return zoo_task.vectors(self.task, self.codec, codes, self.width)[:, None]

  def random(self, count: int, k: int, key: PRNGKey) -> jax.Array:
    """f32[count, k, size], fresh weights of the width."""
    widths = self.task.widths
    model = widths.models[self.width]
    whole = model._replace(init=lambda own: widths.embed(model.init(own)))
    return starts.random(self.task.flat, whole, count, k, key)

  @functools.cached_property
  def baselines(self) -> dict[str, jax.Array]:
    """{method: first weights f32[size]} for all tasks."""
    return train_baselines.run(self.config, self.task, self.zoo, self.workdir)

  def of_baselines(self, held: zoo_task.Held) -> dict[str, Callable[[], jax.Array]]:
    """What was learned for all tasks, and networks trained on each with more images."""
    shape = (len(held.tasks), 1, self.task.flat.size)
    spread = lambda name: jnp.broadcast_to(self.baselines[name], shape)
    chosen = self.config.compare.baselines
    made: dict[str, Callable[[], jax.Array]]
    made = {NAMES[m]: functools.partial(spread, m) for m in chosen}
    if 'joint' in chosen:
      made['joint body, class means'] = lambda: train_baselines.class_means(
        self.config, self.task, self.baselines['joint'], held.support
      )
    many = f'trained on {self.config.zoo.per_class} images a class'
    return {**made, many: lambda: zoo_task.trained(self.config, self.task, held)}

  def methods(self, held: zoo_task.Held) -> dict[str, Callable[[], jax.Array]]:
    """{method: its candidates f32[T, k, size]}, made when called."""
    config, task, vectors = self.config, self.task, self.vectors
    count, k = len(held.tasks), config.sample.candidates
    given, place = self.conditions(held.support), np.asarray(self.moments(held.support))
    key = lambda name: seeds.key(config.seed, f'{held.part} {name}')
    first = first_weights.shared(task.flat, task.widths, config.seed, config.zoo.starts, self.width)
    return {
      'random': lambda: self.random(count, k, key('random')),
      'shared first weights': lambda: jnp.broadcast_to(first, (count, *first.shape)),
      'zoo mean': lambda: starts.mean(vectors, count),
      'nearest': lambda: starts.nearest(vectors, self.stored, place, k),
      'nearest + noise': lambda: starts.noisy(vectors, self.stored, place, k, _NOISE, key('noise')),
      'best of the zoo': lambda: starts.best_of_zoo(task.flat, vectors, self.images, held.support),
      **{
        f'hypernetwork, {v}': functools.partial(self.written, v, given) for v in self.hypernetworks
      },
      **self.of_baselines(held),
      'generator, no guidance': lambda: self.sampled(given, k, None, f'{held.part} plain'),
      'generator': lambda: self.sampled(given, k, config.sample.guidance, f'{held.part} guided'),
    }


def refreshed(
  task: zoo_task.ZooTask, candidates: jax.Array, images: jax.Array, support: jax.Array
) -> jax.Array:
  """Candidates f32[T, k, size], each with statistics of the support i32[T, classes, s]."""
  count, k, size = candidates.shape
  rows = jnp.repeat(support, k, axis=0)
  found = members.refresh(task.flat, candidates.reshape(-1, size), images, rows)
  return found.reshape(count, k, size)


def judge(
  config: Any, task: zoo_task.ZooTask, held: zoo_task.Held, candidates: jax.Array
) -> dict[str, np.ndarray]:
  """Accuracies of candidates f32[T, k, size], with statistics of normalisation of the support.

  Returns:
    {'all': [T, k], 'best': [T], 'ensemble': [T], 'single curve', 'best curve': [steps, T]}.
  """
  images, count = task.images, len(candidates)
  test, support = jnp.asarray(held.test), jnp.asarray(held.support)
  candidates = refreshed(task, candidates, images, support)
  every = novelty.accuracies(task.flat, candidates, images, test)
  chosen = starts.choose(task.flat, candidates, images, held.support)
  recipe, keys = zoo_task.recipe(config), jax.random.split(seeds.key(config.seed, 'tune'), count)
  tune = lambda v: members.curve(
    *(task.flat, recipe, v, images, support, test, keys), config.compare.steps
  )
  best = candidates[jnp.arange(count), chosen]
  single = tune(candidates[:, 0])
  return {
    'all': every,
    'best': every[np.arange(count), np.asarray(chosen)],
    'ensemble': np.asarray(novelty.ensemble(task.flat, candidates, images, test)),
    'single curve': single,
    'best curve': single if candidates.shape[1] == 1 else tune(best),
  }


def run(config: Any, task: zoo_task.ZooTask, found: zoo_lib.Zoo, workdir: str) -> dict[str, Any]:
  """Judges every method on every part; {part: {method: arrays of `judge`}}."""
  source = Starts(config, task, found, workdir)
  results: dict[str, Any] = {}
  for part in config.compare.parts:
    held = zoo_task.held(config, task, part)
    results[part] = {}
    for method, make in source.methods(held).items():
      seen = results[part][method] = judge(config, task, held, make())
      print(
        f'{part:12} {method:24} one {seen["all"].mean():.3f}  best of {seen["all"].shape[1]:2} '
        f'{seen["best"].mean():.3f}  ensemble {seen["ensemble"].mean():.3f}  tuned '
        + ' '.join(f'{a:.3f}' for a in seen['best curve'].mean(1)),
        flush=True,
      )
  return results


def save(results: dict[str, Any], config: Any, workdir: str) -> None:
  """Writes means as JSON and all accuracies as .npz."""
  root = pathlib.Path(workdir)
  flat = {
    f'{p}|{m}|{n}': a for p, ms in results.items() for m, ns in ms.items() for n, a in ns.items()
  }
  buffer = io.BytesIO()
  np.savez(buffer, steps=np.array(config.compare.steps), **flat)
  files.replace([(root / 'starts.npz', buffer.getvalue())], 'the comparison')
  means = {name: np.asarray(a.mean(-1)).round(5).tolist() for name, a in flat.items()}
  writers.write_json(root / 'starts.json', {'config': config.to_dict(), 'means': means})


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Compares the starts."""
  del overwrite  # nothing is resumed: the comparison is made anew every time
  task = zoo_task.load(config)
  found = build_zoo.run(config, task, workdir)
  save(run(config, task, found, workdir), config, workdir)


if __name__ == '__main__':
  flags.run(main, generation)
