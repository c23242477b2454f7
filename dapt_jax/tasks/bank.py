"""All images that tasks are made of, in one array, and where the classes of every view lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dapt_jax import data as data_lib
from dapt_jax.data import splits as data_splits
from dapt_jax.tasks import splits as splits_lib
from dapt_jax.tasks import task as task_lib

#: Images that may be trained on, and those that accuracies are reported on.
SIDES = ('train', 'test')
#: All images of a data set, or its (training split, test split).
Source = data_lib.Dataset | tuple[data_lib.Dataset, data_lib.Dataset]


def standardise(images: np.ndarray) -> np.ndarray:
  """Images in [0, 1] as the networks of a zoo read them, f32 in [-1, 1]."""
  return ((images - 0.5) / 0.5).astype(np.float32)


class Bank:
  """Images of every view of every source, divided as the split says.

  A task's images are rows of `images`, so that thousands of tasks share one array on the device.

  Attributes:
    split: the three-way split.
    images: f32[n, H, W, C], standardised.
  """

  def __init__(
    self,
    split: splits_lib.Split,
    sources: Mapping[str, Source],
    most: tuple[int, int] = (0, 0),
  ) -> None:
    """Transforms and stacks the images.

    Args:
      split: what belongs to the zoo.
      sources: {name: all images of the data set}, or {name: (training split, test split)} where
        `split.train_share` is None; equal shapes.
      most: images of a class that are kept for (training, test), a random choice; 0 keeps all.

    Raises:
      ValueError: if a source is missing, has other classes than the split says or another shape, or
        is divided although the split divides it, or the reverse.
    """
    self.split = split
    self._check(sources)
    pixels: list[np.ndarray] = []
    self._rows: dict[tuple[str, str], list[np.ndarray]] = {}
    start = 0
    for source, transform in (*split.views, *split.held_views):
      data, sides = self._divide(sources[source], most)
      pixels.append(standardise(task_lib.transform(data.images, transform)))
      for side, part in zip(SIDES, sides):
        labels = data.labels[part]
        rows = [start + part[labels == c] for c in range(split.source_classes)]
        self._rows[f'{source}/{transform}', side] = rows
      start += len(data)
    self.images = np.concatenate(pixels)

  @property
  def pictures(self) -> np.ndarray:
    """The images in [0, 1], f32[n, H, W, C], as `features.extract` takes them."""
    return self.images * np.float32(0.5) + np.float32(0.5)

  def _check(self, sources: Mapping[str, Source]) -> None:
    divided = self.split.train_share is None
    for source in {s for s, _ in (*self.split.views, *self.split.held_views)}:
      if source not in sources:
        raise ValueError(f'the split has views of {source!r}, but only {[*sources]} are given')
      if isinstance(sources[source], tuple) != divided:
        wanted = '(training, test)' if divided else 'all images as one Dataset'
        raise ValueError(
          f'{source!r}: train_share of the split is {self.split.train_share}; give {wanted}'
        )
      for data in datasets(sources[source]):
        if data.num_classes != self.split.source_classes:
          raise ValueError(
            f'{source!r} has {data.num_classes} classes, the split is made for '
            f'{self.split.source_classes}; choose that many with Dataset.classes'
          )
    shapes = {name: data.image_shape for name in sources for data in datasets(sources[name])}
    if len(set(shapes.values())) > 1:
      raise ValueError(f'images have shapes {shapes}; bring them to one size with Dataset.resize')

  def _divide(
    self, source: Source, most: tuple[int, int]
  ) -> tuple[data_lib.Dataset, list[np.ndarray]]:
    """The images that are kept, and which of them are for (training, test).

    A pure function of the arguments: the same for all transforms of a source.
    """
    if isinstance(source, tuple):
      data, parts = data_lib.concatenate(source), _in_a_row(*map(len, source))
    else:
      data, size = source, round((self.split.train_share or 0.0) * len(source))
      parts = data_splits.stratified(data.labels, [size, len(data) - size], self.split.seed)
    if not any(most):
      return data, parts
    kept = [self._some(data.labels, part, n) for part, n in zip(parts, most)]
    return data.subset(np.concatenate(kept)), _in_a_row(*map(len, kept))

  def _some(self, labels: np.ndarray, part: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows of every class of a part, 0 for all."""
    order = np.random.default_rng(self.split.seed).permutation(part)
    rows = [order[labels[order] == c][: most or None] for c in range(self.split.source_classes)]
    return np.concatenate(rows)

  def draw(
    self, tasks: Sequence[task_lib.Task], part: str, side: str, per_class: int, seed: int
  ) -> np.ndarray:
    """Random images of every class of every task.

    Args:
      tasks: of one part of the split.
      part: that part; anything else is refused.
      side: 'train', or 'test' for accuracies that are reported.
      per_class: images a class, without repeats.
      seed: of the draw.

    Returns:
      i32[tasks, classes, per_class], rows of `images`; class k of the task is row k.

    Raises:
      ValueError: for a task of another part, an unknown side, or more images than there are.
    """
    self.split.require(tasks, part)
    if side not in SIDES:
      raise ValueError(f'side {side!r}: choose one of {list(SIDES)}')
    rng = np.random.default_rng([self.split.seed, seed, SIDES.index(side)])
    wanted = [(task.view, c) for task in tasks for c in task.classes]
    return self._images(wanted, side, per_class, rng).reshape(len(tasks), -1, per_class)

  def _images(
    self, wanted: Sequence[tuple[str, int]], side: str, per_class: int, rng: np.random.Generator
  ) -> np.ndarray:
    """i32[n, per_class], rows of images of n (view, class of the source)."""
    out = np.zeros((len(wanted), per_class), np.int32)
    for number, (view, source_class) in enumerate(wanted):
      rows = self._rows[view, side][source_class]
      if len(rows) < per_class:
        raise ValueError(
          f'class {source_class} of {view!r} has {len(rows)} {side} images; per_class is '
          f'{per_class}'
        )
      out[number] = rng.choice(rows, per_class, replace=False)
    return out

  def mix(
    self, tasks: Sequence[task_lib.Task], part: str, side: str, per_class: int, seed: int
  ) -> np.ndarray:
    """Tasks whose classes come from different views, for more variety than the views have.

    Every class of a task is looked up in a random view out of those that the part has and that are
    inverted if the task is: a network could tell inverted images from others at a glance.

    Args:
      tasks: of one part of the split.
      part: that part.
      side: 'train' or 'test'.
      per_class: images a class, without repeats.
      seed: of views and images.

    Returns:
      i32[tasks, classes, per_class], as `draw` has them.

    Raises:
      ValueError: as `draw` does.
    """
    self.split.require(tasks, part)
    rng = np.random.default_rng([self.split.seed, seed, len(SIDES)])
    views = self.split.views_of(part)
    slots = []
    for label in range(self.split.num_classes):
      moved = []
      for task in tasks:
        alike = [
          v for v in views if task_lib.is_inverted(v[1]) == task_lib.is_inverted(task.transform)
        ]
        source, transform = alike[rng.integers(len(alike))]
        moved.append(task_lib.Task(source, transform, task.classes))
      slots.append(self._images([(m.view, m.classes[label]) for m in moved], side, per_class, rng))
    return np.stack(slots, axis=1)


def datasets(source: Source) -> tuple[data_lib.Dataset, ...]:
  """The one data set of a source, or its two splits."""
  return source if isinstance(source, tuple) else (source,)


def _in_a_row(first: int, second: int) -> list[np.ndarray]:
  return [np.arange(first), np.arange(first, first + second)]
