"""Coordinate descent over permutations, for many networks at once (Git Re-Basin, algorithm 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from scipy import optimize

from dapt_jax.types import PRNGKey
from dapt_jax.weights import blocks as blocks_lib
from dapt_jax.weights import symmetry as symmetry_lib

#: A step must bring more than this, of the squared norm of the reference; less is rounding.
_LEAST_GAIN = 1e-6
_MOST_SWEEPS = 100

Leaves = Mapping[int, np.ndarray]


def run(
  symmetry: symmetry_lib.Symmetry, reference: Leaves, stack: Leaves, key: PRNGKey
) -> list[np.ndarray]:
  """Orders that maximise the products with the reference, see `align.match_weights`.

  Args:
    symmetry: what may move.
    reference: {number of the leaf: array}.
    stack: the same with a leading axis N. What is found for one does not depend on the others.
    key: of the order in which blocks are visited.

  Returns:
    For every block i64[N, k], which of its gates comes to each place.
  """
  counted = symmetry.graph.tree.counted
  blocks = [
    dataclasses.replace(b, places=tuple(p for p in b.places if counted[p.leaf]))
    for b in symmetry.blocks
  ]
  if not blocks:
    return []
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  given = _State(blocks, reference, stack)
  state = given.after_first_pass()
  active = np.arange(state.size)
  for _ in range(_MOST_SWEEPS):
    improved = np.zeros(state.size, bool)
    for number in rng.permutation(len(blocks)):
      improved[state.step(int(number), active)] = True
    active = np.flatnonzero(improved)
    if not len(active):
      break
  return state.moves


def assign(products: np.ndarray) -> np.ndarray:
  """i64[k]: the assignment with the largest sum, the identity where that is as good.

  Args:
    products: f64[k, k], gain of putting column j into place i.
  """
  found = optimize.linear_sum_assignment(products, maximize=True)[1]
  gain = products[np.arange(len(found)), found].sum() - np.trace(products)
  least = _LEAST_GAIN * np.abs(products).max(initial=0.0)
  return found if gain > least else np.arange(len(found))


class _State:
  """N networks in the order that the descent has given them so far."""

  def __init__(self, blocks: Sequence[blocks_lib.Block], reference: Leaves, stack: Leaves) -> None:
    touched = sorted({p.leaf for b in blocks for p in b.places})
    self.blocks = blocks
    self.size = len(next(iter(stack.values())))
    self.reference = {i: np.asarray(reference[i], np.float32) for i in touched}
    self.stack = {i: np.array(stack[i], np.float32) for i in touched}
    self.moves = [np.tile(np.arange(len(b.gates)), (self.size, 1)) for b in blocks]
    self.least = _LEAST_GAIN * sum(float(np.vdot(x, x)) for x in self.reference.values())

  def after_first_pass(self) -> _State:
    """Block after block put in place by what is settled already, where this is an improvement.

    Axes that other blocks have still to settle are summed over: a sum does not depend on order.
    """
    out = _State(self.blocks, self.reference, self.stack)
    where: dict[int, dict[int, set[int]]] = {i: {} for i in self.stack}
    for number, block in enumerate(self.blocks):
      for place in block.places:
        where[place.leaf].setdefault(place.axis, set()).add(number)
    settled: set[int] = set()
    everyone = np.arange(self.size)
    for number, block in enumerate(self.blocks):
      open_axes = [
        tuple(a for a, n in where[p.leaf].items() if a != p.axis and not n <= settled)
        for p in block.places
      ]
      out.apply(number, everyone, out.best(number, everyone, open_axes))
      settled.add(number)
    worse = np.flatnonzero(self.gain(self.stack, out.stack) <= self.least)
    for leaf, array in self.stack.items():
      out.stack[leaf][worse] = array[worse]
    for mine, theirs in zip(self.moves, out.moves):
      theirs[worse] = mine[worse]
    return out

  def step(self, number: int, networks: np.ndarray) -> np.ndarray:
    """Improves one block where that is possible; returns the networks improved."""
    block = self.blocks[number]
    best = self.best(number, networks)
    changed = (best != np.arange(len(block.gates))).any(axis=1)
    networks, best = networks[changed], best[changed]
    if not len(networks):
      return networks
    before = self._part(number, networks)
    # A leaf with the block on two axes makes the problem quadratic: the assignment may be no gain.
    better = self.gain(before, blocks_lib.moved([block], before, [best])) > self.least
    self.apply(number, networks[better], best[better])
    return networks[better]

  def best(
    self, number: int, networks: np.ndarray, open_axes: Sequence[tuple[int, ...]] | None = None
  ) -> np.ndarray:
    """i64[n, k]: the best order of a block, with all else as it stands.

    Args:
      number: of the block.
      networks: i64[n], which of them.
      open_axes: for every place of the block, other axes of the leaf to sum over.
    """
    block = self.blocks[number]
    width = len(block.gates)
    total = np.zeros((len(networks), width, width))
    for place, axes in zip(block.places, open_axes or [()] * len(block.places)):
      wanted = _rows(self.reference[place.leaf][None], place, axes)
      found = _rows(self.stack[place.leaf][networks], place, axes)
      total += wanted @ found.transpose(0, 2, 1)
    return np.array([assign(t) for t in total], np.int64).reshape(-1, width)

  def apply(self, number: int, networks: np.ndarray, best: np.ndarray) -> None:
    """Permutes one block of these networks."""
    part = blocks_lib.moved([self.blocks[number]], self._part(number, networks), [best])
    for leaf, array in part.items():
      self.stack[leaf][networks] = array
    self.moves[number][networks] = np.take_along_axis(self.moves[number][networks], best, 1)

  def gain(self, before: Leaves, after: Leaves) -> np.ndarray:
    """f64[n]: by how much the products with the reference grow."""
    total = np.zeros(len(next(iter(before.values()))))
    for leaf, array in before.items():
      change = (after[leaf] - array).reshape(len(array), -1)
      total += change @ self.reference[leaf].reshape(-1)
    return total

  def _part(self, number: int, networks: np.ndarray) -> dict[int, np.ndarray]:
    return {p.leaf: self.stack[p.leaf][networks] for p in self.blocks[number].places}


def _rows(stack: np.ndarray, place: blocks_lib.Place, axes: tuple[int, ...]) -> np.ndarray:
  """[n, gates, values of a gate], summed over some axes of the leaf."""
  whole = stack.sum(axis=tuple(a + 1 for a in axes), keepdims=True) if axes else stack
  taken = whole.take(place.positions.reshape(-1), axis=place.axis + 1)
  return np.moveaxis(taken, place.axis + 1, 1).reshape(len(stack), len(place.positions), -1)
