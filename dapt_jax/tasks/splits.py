"""The three-way split of everything that must generalise to data sets nobody trained on.

1. **Images**: of every source a share is for training (zoo, conditions, support), the rest is for
   reported accuracies; or the sources come divided (other designers, other fonts).
2. **Sets of classes**: some unordered sets of classes never occur in the zoo.
3. **Views**: some pairs of source and transform, or whole sources, never occur in the zoo. Sources
   that are alike (`data.families.KIN`) are then held out together or not at all.

This is the only place that says what is held out. Whoever reads data for a purpose asks
`Split.require`, so that a slip is an error and not a good result.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from dapt_jax.data import families
from dapt_jax.tasks import task as task_lib

#: What a task is to the zoo: a member of it, or held out by its classes, its view, or both.
#: 'new_view/icons' is that part as far as the sources are of the family 'icons'.
PARTS = ('zoo', 'new_classes', 'new_view', 'new_both')


def parse_part(part: str) -> tuple[str, str]:
  """The (name, family) that a part is written as, '' for all families.

  Raises:
    ValueError: for an unknown name.
  """
  name, _, family = part.partition('/')
  if name not in PARTS:
    raise ValueError(f'part {part!r}: choose one of {list(PARTS)}, or one with /FAMILY behind it')
  return name, family


@dataclasses.dataclass(frozen=True)
class Split:
  """What the zoo may see.

  Attributes:
    views: ((source, transform), ...) that the zoo is built from.
    held_views: those it never sees; disjoint from `views`.
    held_classes: unordered sets of classes, as increasing tuples, that it never sees.
    num_classes: classes of a task.
    source_classes: classes of every source.
    train_share: share of the images of every class that may be trained on; None where the sources
      come divided.
    seed: of the split of images.
  """

  views: tuple[tuple[str, str], ...]
  held_views: tuple[tuple[str, str], ...]
  held_classes: frozenset[tuple[int, ...]]
  num_classes: int
  source_classes: int = 10
  train_share: float | None = 0.7
  seed: int = 0

  def __post_init__(self) -> None:
    both = set(self.views) & set(self.held_views)
    if both:
      raise ValueError(f'views {sorted(both)} are held out and in the zoo; put each on one side')
    if not self.views:
      raise ValueError('the zoo has no views; name at least one (source, transform)')
    if not 2 <= self.num_classes <= self.source_classes:
      raise ValueError(
        f'num_classes is {self.num_classes}; a task has from 2 to {self.source_classes} classes'
      )
    if self.train_share is not None and not 0.0 < self.train_share < 1.0:
      raise ValueError(f'train_share is {self.train_share}; it must lie between 0 and 1')
    self._check_kin()

  def _check_kin(self) -> None:
    seen = {source for source, _ in self.views}
    new = {source for source, _ in self.held_views} - seen
    for kin in families.KIN:
      if seen & set(kin) and new & set(kin):
        raise ValueError(
          f'{sorted(new & set(kin))} are held out, but {sorted(seen & set(kin))}, which are too '
          'much like them, are in the zoo; put all of them on one side'
        )

  def part(self, task: task_lib.Task) -> str:
    """Which of `PARTS` a task belongs to.

    Raises:
      ValueError: for a view that the split does not know, or classes that make no task of it.
    """
    known = len(task.classes) == self.num_classes == len(set(task.classes))
    if not known or not all(0 <= c < self.source_classes for c in task.classes):
      raise ValueError(
        f'{task.name!r} has classes {task.classes}; this split has tasks of {self.num_classes} '
        f'different classes out of 0..{self.source_classes - 1}'
      )
    view = (task.source, task.transform)
    if view not in self.views and view not in self.held_views:
      raise ValueError(f'{task.name!r}: the split knows no view {task.view!r}')
    new = tuple(sorted(task.classes)) in self.held_classes, view in self.held_views
    return PARTS[new[0] + 2 * new[1]]

  def require(self, tasks: Iterable[task_lib.Task], part: str) -> None:
    """Raises ValueError unless all tasks belong to this part, and family if one is named."""
    name, family = parse_part(part)
    for task in tasks:
      found = self.part(task)
      if found != name or family not in ('', task.family):
        raise ValueError(
          f'{task.name!r} belongs to the part {found!r} of the split, not to {part!r}: it must not '
          'be read here'
        )

  def draw(self, part: str, count: int, seed: int) -> list[task_lib.Task]:
    """Random tasks of a part; views and sets of classes evenly, classes in random order.

    Raises:
      ValueError: for an unknown part, or one that the split leaves empty.
    """
    views = self.views_of(part)
    name, _ = parse_part(part)
    sets = self._class_sets(name in ('new_classes', 'new_both'))
    if not views or not sets:
      raise ValueError(f'the split holds nothing out for {part!r}')
    rng = np.random.default_rng([self.seed, seed, PARTS.index(name)])
    tasks = []
    for number in range(count):
      source, transform = views[number % len(views)]
      chosen = rng.permutation(sets[rng.integers(len(sets))])
      tasks.append(task_lib.Task(source, transform, tuple(chosen.tolist())))
    return tasks

  def views_of(self, part: str) -> tuple[tuple[str, str], ...]:
    """The (source, transform) pairs of a part; ValueError for an unknown one."""
    name, family = parse_part(part)
    views = self.held_views if name in ('new_view', 'new_both') else self.views
    return tuple(v for v in views if family in ('', task_lib.family(v[0])))

  def _class_sets(self, held: bool) -> list[tuple[int, ...]]:
    everything = itertools.combinations(range(self.source_classes), self.num_classes)
    return [s for s in everything if (s in self.held_classes) == held]


def make(
  sources: Sequence[str],
  *,
  held_views: Sequence[tuple[str, str]],
  num_classes: int,
  num_held_sets: int,
  transforms: Sequence[str] = task_lib.TRANSFORMS,
  source_classes: int = 10,
  train_share: float | None = 0.7,
  seed: int = 0,
) -> Split:
  """A split over all views of some sources, with a random choice of held-out sets of classes.

  Args:
    sources: names of data sets.
    held_views: (source, transform) pairs, or (source, '*') for a whole source.
    num_classes: classes of a task.
    num_held_sets: how many unordered sets of classes never occur in the zoo.
    transforms: of every source.
    source_classes: classes of every source.
    train_share: see `Split`.
    seed: of the choice, and of the split of images.

  Returns:
    The split.

  Raises:
    ValueError: for a held-out view that is none of the views, more sets than there are, or sources
      that are alike on both sides.
  """
  views = [(s, t) for s in sources for t in transforms]
  stars = {s for s, t in held_views if t == '*'}
  unknown = [v for v in held_views if v not in views and not (v[1] == '*' and v[0] in sources)]
  if unknown:
    raise ValueError(f'held_views has {unknown}, which are no views of {list(sources)}')
  held = [v for v in views if v in held_views or v[0] in stars]
  sets = list(itertools.combinations(range(source_classes), num_classes))
  if not sets:
    raise ValueError(f'num_classes is {num_classes}; the sources have {source_classes} classes')
  if not 0 <= num_held_sets < len(sets):
    raise ValueError(f'num_held_sets is {num_held_sets}; there are {len(sets)} sets of classes')
  chosen = np.random.default_rng(seed).choice(len(sets), num_held_sets, replace=False)
  return Split(
    views=tuple(v for v in views if v not in held),
    held_views=tuple(held),
    held_classes=frozenset(sets[i] for i in chosen),
    num_classes=num_classes,
    source_classes=source_classes,
    train_share=train_share,
    seed=seed,
  )
