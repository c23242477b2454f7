"""A task: some classes, in an order, of one view of one data set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_ROTATIONS = ('rot0', 'rot90', 'rot180', 'rot270')
_INVERTED = '+inverted'
#: Names of the transforms of images; rotations are counter-clockwise, in degrees.
TRANSFORMS = (*_ROTATIONS, *(r + _INVERTED for r in _ROTATIONS))


def family(source: str) -> str:
  """What comes before the slash in the name of a data set: 'icons' of 'icons/03'."""
  return source.partition('/')[0]


class Task(NamedTuple):
  """A data set as a model meets it: class k of the task is class `classes[k]` of the source.

  Attributes:
    source: name of the data set that the images come from.
    transform: one of `TRANSFORMS`, applied to every image.
    classes: classes of the source, in the order of the task's labels.
  """

  source: str
  transform: str
  classes: tuple[int, ...]

  @property
  def family(self) -> str:
    """Of the source."""
    return family(self.source)

  @property
  def view(self) -> str:
    """Source and transform, e.g. 'mnist/rot90'."""
    return f'{self.source}/{self.transform}'

  @property
  def name(self) -> str:
    """All there is to say, e.g. 'mnist/rot90/3-1-4-0-5'."""
    return f'{self.view}/{"-".join(map(str, self.classes))}'

  @classmethod
  def parse(cls, name: str) -> Task:
    """The task that has this `name`.

    Raises:
      ValueError: if the text is no name of a task.
    """
    source, _, rest = name.rpartition('/')[0].rpartition('/')
    numbers = name.rpartition('/')[2].split('-')
    if rest not in TRANSFORMS or not source or not all(n.isdigit() for n in numbers):
      raise ValueError(
        f"{name!r} is no task; it is written SOURCE/TRANSFORM/CLASSES, as 'mnist/rot90/3-1-4', "
        f'with a transform out of {list(TRANSFORMS)}'
      )
    return cls(source, rest, tuple(map(int, numbers)))


def transform(images: np.ndarray, name: str) -> np.ndarray:
  """Applies a transform.

  Args:
    images: f32[n, H, W, C] in [0, 1], H = W for odd quarter turns.
    name: one of `TRANSFORMS`.

  Returns:
    f32[n, H, W, C] in [0, 1].

  Raises:
    ValueError: for an unknown name, or a quarter turn of images that are not square.
  """
  if name not in TRANSFORMS:
    raise ValueError(f'transform {name!r}: choose one of {list(TRANSFORMS)}')
  turns = _ROTATIONS.index(name.removesuffix(_INVERTED))
  if turns % 2 and images.shape[1] != images.shape[2]:
    raise ValueError(
      f'{name!r} turns images of {images.shape[1]}x{images.shape[2]} pixels on their side; resize '
      'them to squares first'
    )
  out = np.rot90(images, turns, axes=(1, 2))
  return 1.0 - out if is_inverted(name) else out


def is_inverted(name: str) -> bool:
  """Whether a transform turns black into white."""
  return name.endswith(_INVERTED)
