"""Groups of branches and links: gates that act on parameters as a whole, or entry by entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import branches, groups
from dapt_jax.graph import tree as tree_lib


@dataclasses.dataclass(frozen=True)
class Branch:
  """A gated summand.

  Attributes:
    group: name of its gate group (width 1).
    node: index of the addition.
    operand: which operand.
  """

  group: str
  node: int
  operand: int


@dataclasses.dataclass
class Sums:
  """The sums of a program.

  Attributes:
    groups: a group for every summand that parameters can carry a gate for, by name.
    branches: the gated summands.
    names: for every sum with a gated summand, the names of its gated summands.
    is_open: for every such sum, whether it has other summands too.
  """

  groups: dict[str, groups.Group] = dataclasses.field(default_factory=dict)
  branches: list[Branch] = dataclasses.field(default_factory=list)
  names: list[list[str]] = dataclasses.field(default_factory=list)
  is_open: list[bool] = dataclasses.field(default_factory=list)


def of_sums(
  analysis: analysis_lib.Analysis,
  tree: tree_lib.Tree,
  taken: Mapping[str, groups.Group],
  selected: Callable[[groups.Group], bool],
) -> Sums:
  """Groups of one gate for the summands of every sum.

  Args:
    analysis: of the whole program.
    tree: its arguments.
    taken: groups found before, whose names are not used again.
    selected: whether a group carries a gate.

  Returns:
    The sums, in the order of the program.
  """
  out = Sums()
  parameters = analysis.program.inputs[: tree.num_params]
  leaf = {v: i for i, v in enumerate(parameters) if tree.counted[i]}
  for members in branches.find(analysis, list(leaf)):
    names = []
    for summand in members:
      carriers = tuple(leaf[v] for v in summand.carriers)
      if not carriers:
        continue
      name = 'branch:' + _common_path([tree.names[i] for i in carriers])
      name = groups.unique(name, taken.keys() | out.groups.keys())
      out.groups[name] = groups.Group(name, 'branch', 1, carriers=carriers)
      if selected(out.groups[name]):
        out.branches.append(Branch(name, summand.node, summand.operand))
        names.append(name)
    if names:
      out.names.append(names)
      out.is_open.append(len(names) < len(members))
  return out


def of_links(analysis: analysis_lib.Analysis, tree: tree_lib.Tree) -> dict[str, groups.Group]:
  """Groups of one gate per entry for the parameters that read an axis, by name."""
  out = {}
  readers = {v for v, _ in analysis.record.reads}
  for leaf, value in enumerate(analysis.program.inputs[: tree.num_params]):
    if value in readers:
      name = f'link:{tree.names[leaf]}'
      size = int(np.prod(analysis.program.shape(value)))
      out[name] = groups.Group(name, 'link', size, carriers=(leaf,))
  return out


def _common_path(names: Sequence[str]) -> str:
  """The longest path that all names begin with; of one name its parent."""
  parts = [n.split('/') for n in names]
  if len(parts) == 1:
    return '/'.join(parts[0][:-1] or parts[0])
  depth = 0
  while all(len(p) > depth and p[depth] == parts[0][depth] for p in parts):
    depth += 1
  return '/'.join(parts[0][:depth]) or '+'.join(names)
