"""What a group is: positions of arguments that live or die together, one gate each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Slices:
  """Positions of one axis of one argument that belong to a group.

  Attributes:
    leaf: number of the flat argument (parameters first, then inputs).
    axis: its axis.
    positions: i64[n], positions on the axis.
    index: i64[n], the gate of each position.
    role: 'read' (carries the gate), 'write' (makes the channel) or 'along' (bias, scale, ...).
  """

  leaf: int
  axis: int
  positions: np.ndarray
  index: np.ndarray
  role: str


@dataclasses.dataclass(frozen=True)
class Group:
  """Positions that live or die together, one gate each.

  Attributes:
    name: unique; what the gate dict is keyed by.
    kind: 'channel', 'input', 'branch' or 'link'.
    width: number of gates.
    slices: where the group touches the arguments.
    refused: '' if the group can be gated exactly, else the reason why not.
    carriers: branch and link groups: flat arguments multiplied as a whole or entry by entry.
  """

  name: str
  kind: str
  width: int
  slices: tuple[Slices, ...] = ()
  refused: str = ''
  carriers: tuple[int, ...] = ()

  def touching(self, role: str) -> list[Slices]:
    """The slices with this role."""
    return [s for s in self.slices if s.role == role]

  @functools.cached_property
  def layers(self) -> list[np.ndarray]:
    """The distinct sets of gates that form an axis of an argument, smallest first.

    A stage of a residual network may use a part of a group only, so a layer can be narrower than
    the group.
    """
    distinct = {s.index.tobytes(): s.index for s in self.slices}
    sets = {u.tobytes(): u for u in (np.unique(i) for i in distinct.values())}
    return sorted(sets.values() or [np.arange(self.width)], key=lambda u: (len(u), u.tolist()))

  @functools.cached_property
  def classes(self) -> np.ndarray:
    """i64[width]: gates with equal numbers occur in exactly the same layers."""
    if len(self.layers) == 1:
      return (np.bincount(self.layers[0], minlength=self.width) > 0).astype(np.int64)
    occurs = np.zeros((self.width, len(self.layers)), bool)
    for number, layer in enumerate(self.layers):
      occurs[layer, number] = True
    packed = np.ascontiguousarray(np.packbits(occurs, axis=1))
    rows = packed.view(np.dtype((np.void, packed.shape[1]))).reshape(-1)
    return np.unique(rows, return_inverse=True)[1].reshape(-1)


@dataclasses.dataclass(frozen=True)
class Members:
  """Group and gate of every label.

  Attributes:
    names: names of the groups, by number.
    owner: i64[labels], number of the group, -1 for none.
    gate: i64[labels], the gate inside the group.
  """

  names: list[str]
  owner: np.ndarray
  gate: np.ndarray

  def split(self, label: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """[(group or '', positions in `label`, their gates)] for an axis with these labels."""
    owner = self.owner[label]
    first = int(owner[0]) if len(owner) else -1
    single = bool((owner == first).all())
    out = []
    for number in [first] if single else np.unique(owner).tolist():
      positions = np.arange(len(label)) if single else np.flatnonzero(owner == number)
      name = self.names[number] if number >= 0 else ''
      out.append((name, positions, self.gate[label[positions]]))
    return out

  def dead(self, gates: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool[labels]: positions whose gate is zero."""
    widths = [len(gates[n]) if n in gates else 0 for n in self.names]
    starts = np.append(np.cumsum(widths) - widths, -1)  # the last entry is that of no group
    given = np.append([w > 0 for w in widths], False)
    closed = np.concatenate([np.asarray(gates[n]) == 0 for n in self.names if n in gates] or [[]])
    dead = given[self.owner]
    dead[dead] = closed[(starts[self.owner] + self.gate)[dead]]
    return dead


def unique(name: str, taken: Collection[str]) -> str:
  """The name, numbered from 2 on where it is taken."""
  if name not in taken:
    return name
  return next(f'{name}#{i}' for i in range(2, len(taken) + 3) if f'{name}#{i}' not in taken)
