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
from dapt_jax.weights import activations, descent
from dapt_jax.weights import blocks as blocks_lib
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
  improves. It starts from a pass in the order of the program, in which groups that follow are not
  yet told apart (a permuted copy is found by it alone), or from the order given, where that is
  better: an aligned network stays as it is. Statistics of normalisation are not compared.

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
  wanted = _finite(symmetry, reference, 'reference')
  leaves = _finite(symmetry, params, 'params')
  moves = descent.run(symmetry, wanted, {i: x[None] for i, x in leaves.items()}, key)
  return symmetry.permutations([m[0] for m in moves])


def match_activations(
  symmetry: symmetry_lib.Symmetry,
  reference: Mapping[str, Sequence[Any]],
  found: Mapping[str, Sequence[Any]],
) -> symmetry_lib.Permutations:
  """Permutations that maximise the correlation of paired channels (Li et al., 2016).

  Args:
    symmetry: from `symmetry.find`.
    reference: what `activations.reader` returns for the reference.
    found: the same of the network to permute, for the same inputs.

  Returns:
    For `symmetry.permute(params, ...)`. Groups without activations to compare keep their order, as
    do channels that are constant in both networks.

  Raises:
    ValueError: if the two were not computed for the same network and inputs.
  """
  return symmetry.permutations(_matched(symmetry, reference, found))


def align_zoo(
  symmetry: symmetry_lib.Symmetry,
  stack: Params,
  reference: Params,
  key: PRNGKey,
  inputs: Sequence[Any] | None = None,
) -> tuple[Params, symmetry_lib.Permutations]:
  """Brings many networks into the order of one.

  Every network gets what `match_weights` or `match_activations` finds for it alone.

  Args:
    symmetry: from `symmetry.find`.
    stack: parameters with a leading axis N.
    reference: parameters of the network to be like, one of the stack say.
    key: see `match_weights`.
    inputs: of the function, `(images,)` say: match by activations on them. None: by weights.

  Returns:
    (the stack permuted, as NumPy arrays; `{group: i64[N, width]}`).

  Raises:
    ValueError: for parameters that do not fit the network, or are not finite.
  """
  wanted = _finite(symmetry, reference, 'reference')
  leaves = _stacked(symmetry, stack)
  treedef = symmetry.graph.tree.param_treedef
  read = activations.reader(symmetry, *inputs) if inputs is not None else None
  seen = read(reference) if read else {}
  parts, found = [], []
  for start in range(0, len(leaves[0]), _AT_ONCE):
    part = {i: x[start : start + _AT_ONCE] for i, x in leaves.items()}
    if read:
      members = [jax.tree.unflatten(treedef, member) for member in zip(*part.values())]
      each = [_matched(symmetry, seen, read(member)) for member in members]
      moves = [np.stack(m) for m in zip(*each)]
    else:
      moves = descent.run(symmetry, wanted, part, key)
    parts.append(blocks_lib.moved(symmetry.blocks, part, moves))
    found.append(moves)
  whole = [np.concatenate([part[i] for part in parts]) for i in leaves]
  order = symmetry.permutations([np.concatenate(moves) for moves in zip(*found)])
  return jax.tree.unflatten(treedef, whole), order


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
    if not count or not count[0] or leaf.shape != (*count, *shape.shape):
      raise ValueError(
        f'stack leaf {name!r} has shape {leaf.shape}; every leaf needs one leading axis of N > 0 '
        f'networks before the shape that was traced, here {shape.shape}'
      )
    bad = np.flatnonzero(~np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1))
    if len(bad):
      raise ValueError(
        f'networks {bad[:8].tolist()} of the stack are not finite in leaf {name!r}: they have '
        'diverged; leave them out'
      )
  return leaves


def _matched(
  symmetry: symmetry_lib.Symmetry,
  reference: Mapping[str, Sequence[Any]],
  found: Mapping[str, Sequence[Any]],
) -> list[np.ndarray]:
  """The order inside every block, i64[k]."""
  total = {
    name: _correlation(name, wanted, found.get(name, ())) for name, wanted in reference.items()
  }
  orders = []
  for block in symmetry.blocks:
    products = total.get(block.group)
    if products is None:
      orders.append(np.arange(len(block.gates)))
    else:
      orders.append(descent.assign(products[np.ix_(block.gates, block.gates)]))
  return orders


def _correlation(name: str, reference: Sequence[Any], found: Sequence[Any]) -> np.ndarray:
  """f64[width, width]: correlations of a group's channels, over all places where it is read."""
  shapes = [[np.shape(x) for x in values] for values in (found, reference)]
  if shapes[0] != shapes[1]:
    raise ValueError(
      f'the activations of group {name!r} have shapes {shapes[0]}, those of the reference '
      f'{shapes[1]}; compute both with one reader, which fixes the inputs'
    )
  products = [_standardised(a).T @ _standardised(b) for a, b in zip(reference, found)]
  return np.sum(products, axis=0) / sum(len(a) for a in reference)


def _standardised(values: Any) -> np.ndarray:
  """Columns with mean 0 and variance 1; constant columns become 0."""
  values = np.asarray(values, np.float64)
  centred = values - values.mean(axis=0)
  deviation = centred.std(axis=0)
  constant = deviation <= _CONSTANT * np.abs(values).max(initial=0)
  return centred / np.where(constant, np.inf, deviation)
