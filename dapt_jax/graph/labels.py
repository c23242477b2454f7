"""Labels: which positions of which axes live or die together.

Every axis of every value carries one integer label per position. Rules add equalities between
labels while the program is read once; connected components of those equalities are the channels.
A label may be refused: its whole component then stays in the network, for the reason given.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

#: Labels of one value: one integer array per axis, as long as the axis.
Axes = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Refusal:
  """Labels that must stay, and why.

  Attributes:
    labels: i64[n].
    reason: one clause in plain words.
  """

  labels: np.ndarray
  reason: str


class LabelSpace:
  """Hands out labels and collects equalities and refusals."""

  def __init__(self, start: int = 0) -> None:
    self.size = start
    self.refusals: list[Refusal] = []
    #: Labels that a reduction runs over, with gates as weights.
    self.weighed: list[np.ndarray] = []
    self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
    self._known: tuple[tuple[int, int], np.ndarray] | None = None
    self._refused: set[int] = set()

  def fresh(self, n: int) -> np.ndarray:
    """`n` new labels, i64[n]."""
    out = np.arange(self.size, self.size + n)
    self.size += n
    return out

  def fresh_axes(self, shape: tuple[int, ...]) -> Axes:
    """New labels for every axis of a value of this shape."""
    return tuple(self.fresh(n) for n in shape)

  def unify(self, a: np.ndarray, b: np.ndarray) -> None:
    """Position i of `a` and position i of `b` live or die together."""
    if a is not b and len(a):
      self._pairs.append((a, b))

  def refuse(self, labels: np.ndarray, reason: str) -> None:
    """These positions can never be cut."""
    if len(labels):
      self.refusals.append(Refusal(labels, reason))
      self._refused.update(labels.tolist())

  def is_refused(self, labels: np.ndarray) -> bool:
    """Whether any of these labels has been refused so far (equalities not followed)."""
    return not self._refused.isdisjoint(labels.tolist())

  def refuse_rest(self, labels: np.ndarray, reason: str) -> None:
    """Refuses those of the labels that have not been refused so far."""
    self.refuse(labels[[label not in self._refused for label in labels.tolist()]], reason)

  def components(self) -> np.ndarray:
    """Component number of every label, i64[size]; kept until something is added."""
    state = (self.size, len(self._pairs))
    if self._known is None or self._known[0] != state:
      none = np.zeros(0, np.int64)
      rows = np.concatenate([none, *(a for a, _ in self._pairs)])
      cols = np.concatenate([none, *(b for _, b in self._pairs)])
      self._known = state, connected(rows, cols, self.size)
    return self._known[1]


def connected(rows: np.ndarray, cols: np.ndarray, size: int) -> np.ndarray:
  """Component number of every node of a graph with an edge from each row to its column, i64."""
  ones = np.ones(len(rows), np.int8)
  edges = sparse.coo_matrix((ones, (rows, cols)), shape=(size, size))
  return csgraph.connected_components(edges, directed=False)[1].astype(np.int64)
