"""All images that tasks are made of, in one array, and where the classes of every view lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dapt_jax.data import Dataset
from dapt_jax.data import splits as data_splits
from dapt_jax.tasks import splits as splits_lib
from dapt_jax.tasks import task as task_lib

#: Images that may be trained on, and those that accuracies are reported on.
SIDES = ('train', 'test')


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

  def __init__(self, split: splits_lib.Split, sources: Mapping[str, Dataset]) -> None:
    """Transforms and stacks the images.

    Args:
      split: what belongs to the zoo.
      sources: {name: all images of the data set}; equal shapes.

    Raises:
      ValueError: if a source is missing, has other classes than the split says or another shape.
    """
    self.split = split
    self._check(sources)
    pixels: list[np.ndarray] = []
    self._rows: dict[tuple[str, str], list[np.ndarray]] = {}
    start = 0
    for source, transform in (*split.views, *split.held_views):
      data = sources[source]
      pixels.append(task_lib.transform(data.images, transform))
      for side, part in zip(SIDES, self._sides(data)):
        labels = data.labels[part]
        rows = [start + part[labels == c] for c in range(split.source_classes)]
        self._rows[f'{source}/{transform}', side] = rows
      start += len(data)
    self.images = standardise(np.concatenate(pixels))

  @property
  def pictures(self) -> np.ndarray:
    """The images in [0, 1], f32[n, H, W, C], as `features.extract` takes them."""
    return self.images * np.float32(0.5) + np.float32(0.5)

  def _check(self, sources: Mapping[str, Dataset]) -> None:
    for source in {s for s, _ in (*self.split.views, *self.split.held_views)}:
      if source not in sources:
        raise ValueError(f'the split has views of {source!r}, but only {[*sources]} are given')
      if sources[source].num_classes != self.split.source_classes:
        raise ValueError(
          f'{source!r} has {sources[source].num_classes} classes, the split is made for '
          f'{self.split.source_classes}; choose that many with Dataset.classes'
        )
    shapes = {name: data.image_shape for name, data in sources.items()}
    if len(set(shapes.values())) > 1:
      raise ValueError(f'images have shapes {shapes}; bring them to one size with Dataset.resize')

  def _sides(self, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a source (train, test), the same for all of its transforms."""
    size = round(self.split.train_share * len(data))
    parts = data_splits.stratified(data.labels, [size, len(data) - size], self.split.seed)
    return parts[0], parts[1]

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
