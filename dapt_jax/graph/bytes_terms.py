"""Bytes that a network moves: what its contractions, windows and reductions read and write.

Element-wise work, casts and moves count nothing, since compilers fuse them into their neighbours.
A value counts once for every such primitive that reads it and once where it is written. (Why moving
data rather than arithmetic bounds so much of a network's time: Ivanov et al., 2021.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import cost
from dapt_jax.graph import program as program_lib

_CONTRACTIONS = ('dot_general', 'conv_general_dilated')
_REDUCTIONS = ('reduce_', 'arg', 'cum')


def of_node(
  analysis: analysis_lib.Analysis,
  node: program_lib.Node,
  count: Callable[[np.ndarray], cost.Count],
  alive: int,
) -> list[cost.Term]:
  """The terms of one primitive: one for every array that it reads or writes.

  Args:
    analysis: of the program that the node belongs to.
    node: of that program; one that counts nothing has no terms.
    count: live positions of an axis with these labels.
    alive: number of the node's liveness expression.

  Returns:
    Terms in bytes.
  """
  terms = []
  for value in (*node.ins, *node.outs) if _moves(node) else ():
    axes = [count(label) for label in analysis.labels_of(value)]
    item = cost.Count(_item_size(analysis.program, value), {})
    terms.append(cost.Term(node.name, (item, *axes), (), alive))
  return terms


def fixed(program: program_lib.Program, node: program_lib.Node) -> float:
  """Bytes that one primitive moves in the whole network."""
  values = (*node.ins, *node.outs) if _moves(node) else ()
  return sum(math.prod(program.shape(v)) * _item_size(program, v) for v in values)


def _moves(node: program_lib.Node) -> bool:
  """Whether a primitive's operands and results count."""
  reduces = node.name.startswith(_REDUCTIONS) and node.name != 'reduce_precision'
  return reduces or node.name in _CONTRACTIONS


def _item_size(program: program_lib.Program, value: int) -> float:
  return float(np.dtype(program.avals[value].dtype).itemsize)
