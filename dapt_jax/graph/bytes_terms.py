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
  index: int,
  count: Callable[[np.ndarray], cost.Count],
  alive: int,
) -> list[cost.Term]:
  """The terms of one primitive: one for every array that it reads or writes.

  Args:
    analysis: of the program that the node belongs to.
    index: of the node; one that counts nothing has no terms.
    count: live positions of an axis with these labels.
    alive: number of the node's liveness expression.

  Returns:
    Terms in bytes.
  """
  program = analysis.program
  node = program.nodes[index]
  if index in analysis.bodies:
    body = analysis.bodies[index]
    inner = [of_node(body, i, count, alive) for i in range(len(body.program.nodes))]
    return [term for terms in inner for term in terms]
  if not _moves(node):
    size = _inner(node)
    return [cost.Term(node.name, (cost.Count(size, {}),), (), alive)] if size else []
  terms = []
  for value in (*node.ins, *node.outs):
    axes = [count(label) for label in analysis.labels_of(value)]
    item = cost.Count(_item_size(program, value), {})
    terms.append(cost.Term(node.name, (item, *axes), (), alive))
  return terms


def _moves(node: program_lib.Node) -> bool:
  """Whether a primitive's operands and results count."""
  reduces = node.name.startswith(_REDUCTIONS) and node.name != 'reduce_precision'
  return reduces or node.name in _CONTRACTIONS


def _item_size(program: program_lib.Program, value: int) -> float:
  return float(np.dtype(program.avals[value].dtype).itemsize)


def _inner(node: program_lib.Node) -> float:
  """Bytes of the programs inside a node that the analysis does not look into (a scan, say)."""
  sizes = [sum(_fixed(body, n) for n in body.nodes) for body in program_lib.bodies(node)]
  if node.name == 'cond':
    return max(sizes)
  return float(node.params.get('length', 1)) * sum(sizes)


def _fixed(program: program_lib.Program, node: program_lib.Node) -> float:
  if not _moves(node):
    return _inner(node)
  values = (*node.ins, *node.outs)
  return sum(math.prod(program.shape(v)) * _item_size(program, v) for v in values)
