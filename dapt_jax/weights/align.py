"""Permutation alignment: brings networks of different seeds into the order of a reference.

Networks trained from different seeds compute alike functions with their hidden units in another
order, so that their weights cannot be compared entry by entry, averaged or encoded. Alignment
looks for the permutation of every channel group that makes a network most like the reference:
in its weights (Ainsworth, Hayase and Srinivasa, 2023, "Git Re-Basin", section 3.2) or in its
activations (Li et al., 2016, "Convergent Learning"; Git Re-Basin, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from dapt_jax.types import Params, PRNGKey
from dapt_jax.weights import blocks as blocks_lib
from dapt_jax.weights import descent
from dapt_jax.weights import symmetry as symmetry_lib

#: Networks aligned at once; bounds the memory that copies take.
_AT_ONCE = 256
#: Deviations below this share of the largest activation are rounding.
_CONSTANT = 1e-6


def match_weights(
  symmetry: symmetry_lib.Symmetry, reference: Params, params: Params, key: PRNGKey
) -> symmetry_lib.Permutations:
  """Permutations that make weights most alike: maximise sum <reference, permuted params>.

  Coordinate descent (Git Re-Basin, 2023, algorithm 1): with all other groups fixed, the best
  permutation of one is a linear assignment; groups follow each other in random order until none
  improves. It starts from a pass in the order of the program that compares only what the groups
  before have settled (a permuted copy is found by it alone), or from the order given, where that
  is better: an aligned network stays as it is. Statistics of normalisation are not compared.

  Args:
    symmetry: from `symmetry.find`.
    reference: parameters of the network to be like.
    params: parameters of the network to permute.
    key: of the order in which groups are visited.

  Returns:
    For `symmetry.permute(params, ...)`.

  Raises:
    ValueError: for parameters that do not fit the network, or are not finite.
  """
  wanted, leaves = (
    _finite(symmetry, p, n) for p, n in ((reference, 'reference'), (params, 'params'))
  )
  moves = descent.run(symmetry, wanted, {i: x[None] for i, x in leaves.items()}, key)
  return symmetry.permutations([m[0] for m in moves])


def match_activations(
  symmetry: symmetry_lib.Symmetry,
  reference: Mapping[str, Sequence[Any]],
  activations: Mapping[str, Sequence[Any]],
) -> symmetry_lib.Permutations:
  """Permutations that maximise the correlation of paired channels (Li et al., 2016).

  Args:
    symmetry: from `symmetry.find`.
    reference: what `activations.reader` returns for the reference.
    activations: the same of the other network, for the same inputs.

  Returns:
    For `symmetry.permute(params, ...)`. Groups without activations to compare keep their order, as
    do channels that are constant in both networks.

  Raises:
    ValueError: if the two were not computed for the same network and inputs.
  """
  total = {name: _correlation(name, reference, activations) for name in reference}
  moves = []
  for block in symmetry.blocks:
    if block.group not in total:
      moves.append(np.arange(len(block.gates)))
      continue
    moves.append(descent.assign(total[block.group][np.ix_(block.gates, block.gates)]))
  return symmetry.permutations(moves)


def align_zoo(
  symmetry: symmetry_lib.Symmetry, stack: Params, reference: Params, key: PRNGKey
) -> tuple[Params, symmetry_lib.Permutations]:
  """Brings many networks into the order of one, by their weights.

  Every network gets what `match_weights` finds for it alone.

  Args:
    symmetry: from `symmetry.find`.
    stack: parameters with a leading axis N.
    reference: parameters of the network to be like, one of the stack say.
    key: see `match_weights`.

  Returns:
    (the stack permuted, as NumPy arrays; `{group: i64[N, width]}`).

  Raises:
    ValueError: for parameters that do not fit the network, or are not finite.
  """
  wanted = _finite(symmetry, reference, 'reference')
  leaves = _stacked(symmetry, stack)
  parts, found = [], []
  for start in range(0, len(leaves[0]), _AT_ONCE):
    part = {i: x[start : start + _AT_ONCE] for i, x in leaves.items()}
    moves = descent.run(symmetry, wanted, part, key)
    parts.append(blocks_lib.moved(symmetry.blocks, part, moves))
    found.append(moves)
  whole = [np.concatenate([part[i] for part in parts]) for i in leaves]
  moves = [np.concatenate(pieces) for pieces in zip(*found)]
  return jax.tree.unflatten(symmetry.graph.tree.param_treedef, whole), symmetry.permutations(moves)


def _finite(symmetry: symmetry_lib.Symmetry, params: Params, what: str) -> dict[int, np.ndarray]:
  """The leaves by number; raises ValueError where one does not fit or is not finite."""
  tree = symmetry.graph.tree
  leaves = {i: np.asarray(x) for i, x in enumerate(tree.flatten_whole(params))}
  for number, leaf in leaves.items():
    if not np.isfinite(leaf).all():
      raise ValueError(
        f'{what} leaf {tree.names[number]!r} is not finite: the network has diverged; leave it out'
      )
  return leaves


def _stacked(symmetry: symmetry_lib.Symmetry, stack: Params) -> dict[int, np.ndarray]:
  """The leaves of a stack by number, checked like `_finite`."""
  tree = symmetry.graph.tree
  leaves = {i: np.asarray(x) for i, x in enumerate(tree.flatten(stack, 'stack'))}
  count = leaves[0].shape[:1]
  shapes = jax.tree.leaves(tree.param_shapes)
  for (number, leaf), shape in zip(leaves.items(), shapes):
    name = tree.names[number]
    if not count or leaf.shape != (*count, *shape.shape):
      raise ValueError(
        f'stack leaf {name!r} has shape {leaf.shape}; every leaf needs one leading axis N before '
        f'the shape that was traced, here {shape.shape}'
      )
    bad = np.flatnonzero(~np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1))
    if len(bad):
      raise ValueError(
        f'networks {bad[:8].tolist()} of the stack are not finite in leaf {name!r}: they have '
        'diverged; leave them out'
      )
  return leaves


def _correlation(
  name: str, reference: Mapping[str, Sequence[Any]], activations: Mapping[str, Sequence[Any]]
) -> np.ndarray:
  """f64[width, width]: correlations of a group's channels, summed over the places it is read."""
  pairs = list(zip(reference[name], activations.get(name, ())))
  if len(pairs) != len(reference[name]) or any(np.shape(a) != np.shape(b) for a, b in pairs):
    raise ValueError(
      f'the activations of group {name!r} have shapes '
      f'{[np.shape(x) for x in activations.get(name, ())]}, those of the reference '
      f'{[np.shape(x) for x in reference[name]]}; compute both with one reader and the same inputs'
    )
  products = [_standardised(a).T @ _standardised(b) for a, b in pairs]
  return sum(products) / sum(len(a) for a, _ in pairs)


def _standardised(values: Any) -> np.ndarray:
  """Columns with mean 0 and variance 1; constant columns become 0."""
  values = np.asarray(values, np.float64)
  centred = values - values.mean(axis=0)
  deviation = centred.std(axis=0)
  constant = deviation <= _CONSTANT * np.abs(values).max(initial=0)
  return centred / np.where(constant, np.inf, deviation)
