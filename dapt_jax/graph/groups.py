"""Channel groups: the components of labels, named after the parameters that make them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import labels

_QUIET = ('spatial axis', 'kernel tap', 'a window slides')


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


def find(
  analysis: analysis_lib.Analysis,
  components: np.ndarray,
  leaf_names: Sequence[str],
  num_params: int,
) -> tuple[list[Group], np.ndarray, np.ndarray]:
  """Collects components of labels into groups.

  Args:
    analysis: of the whole program.
    components: component of every label.
    leaf_names: name of every flat argument.
    num_params: how many of the arguments are parameters.

  Returns:
    (groups, owner, gate): for every component the number of its group (-1: none) and of its gate.
  """
  program = analysis.program
  reasons = _reasons(analysis, components)
  seeds = [
    s
    for s in _seed_axes(analysis, num_params)
    if not reasons.get(int(components[s[2][0]]), '').startswith('kernel tap')
  ]
  owner_axis = _merge_axes([components[s[2]] for s in seeds], int(components.max()) + 1)
  owner = np.full(int(components.max()) + 1, -1)
  gate = np.zeros(len(owner), np.int64)
  groups: list[Group] = []
  for number in range(max(owner_axis, default=-1) + 1):
    members = [s for s, o in zip(seeds, owner_axis) if o == number]
    ids = np.unique(np.concatenate([components[m[2]] for m in members]))
    order = _first_seen(np.concatenate([components[m[2]] for m in members]))
    ids = ids[np.argsort([order[i] for i in ids])]
    owner[ids], gate[ids] = number, np.arange(len(ids))
    why = next((reasons[i] for i in ids.tolist() if i in reasons), '')
    name, kind = _name(members, leaf_names, num_params, analysis)
    groups.append(Group(_unique(name, groups), kind, len(ids), refused=why))
  found = _slices(analysis, owner[components], gate[components], len(groups))
  for number, group in enumerate(groups):
    slices, refused = found[number], group.refused
    if not refused and not any(s.role == 'read' for s in slices):
      refused = 'no parameter reads it'
    if not refused and group.width == 1:
      refused = 'a single channel'
    groups[number] = dataclasses.replace(group, slices=tuple(slices), refused=refused)
  return groups, owner, gate


def _slices(analysis, owner, gate, num_groups):
  """Slices of every group; `owner` and `gate` are given by label."""
  out: list[list[Slices]] = [[] for _ in range(num_groups)]
  for leaf, value in enumerate(analysis.program.inputs):
    for axis, label in enumerate(analysis.axes[value]):
      mine = owner[label]
      for number in np.unique(mine[mine >= 0]).tolist():
        positions = np.flatnonzero(mine == number)
        role = _role(analysis, value, axis)
        out[number].append(Slices(leaf, axis, positions, gate[label[positions]], role))
  return out


def _role(analysis, value, axis):
  if (value, axis) in analysis.reads:
    return 'read'
  return 'write' if (value, axis) in analysis.writes else 'along'


def _reasons(analysis, components):
  """First reason of refusal of every component, the telling ones before the spatial ones."""
  both = analysis.reads & analysis.writes
  extra = [
    labels.Refusal(analysis.axes[v][a], 'one parameter both reads and writes it')
    for v, a in sorted(both)
  ]
  out: dict[int, str] = {}
  ranked = sorted(
    [*extra, *analysis.space.refusals], key=lambda r: r.reason.startswith(_QUIET)
  )
  for refusal in ranked:
    for c in np.unique(components[refusal.labels]).tolist():
      out.setdefault(c, refusal.reason)
  return out


def _seed_axes(analysis, num_params):
  """(leaf, axis, labels) of the axes that make channels: written ones first, then the rest."""
  program = analysis.program
  seeds, late = [], []
  for leaf, value in enumerate(program.inputs):
    for axis, label in enumerate(analysis.axes[value]):
      if (value, axis) in analysis.writes:
        seeds.append((leaf, axis, label))
      elif len(label) > 1 and (leaf >= num_params or (value, axis) not in analysis.reads):
        late.append((leaf, axis, label))
  first = {v: i for i, v in reversed(list(enumerate(_order(analysis))))}
  seeds.sort(key=lambda s: first.get(program.inputs[s[0]], 0))
  # Axes that start inside the program (a merged reshape): read by parameters, written by none.
  inner = [(-1, axis, analysis.axes[value][axis]) for value, axis in sorted(analysis.sources)]
  return [s for s in [*seeds, *late, *inner] if len(s[2])]


def _order(analysis):
  return [v for node in analysis.program.nodes for v in node.ins]


def _merge_axes(component_sets, size):
  """Union of axes that share a component: group number of every axis, in order of appearance."""
  parent = list(range(len(component_sets)))

  def root(i):
    while parent[i] != i:
      parent[i] = parent[parent[i]]
      i = parent[i]
    return i

  holder = np.full(size, -1)
  for i, ids in enumerate(component_sets):
    for j in np.unique(holder[ids]).tolist():
      if j >= 0:
        a, b = root(j), root(i)
        parent[max(a, b)] = min(a, b)
    holder[ids] = i
  numbers: dict[int, int] = {}
  return [numbers.setdefault(root(i), len(numbers)) for i in range(len(component_sets))]


def _first_seen(ids):
  out: dict[int, int] = {}
  for i in ids.tolist():
    out.setdefault(i, len(out))
  return out


def _name(members, leaf_names, num_params, analysis):
  leaf, axis, _ = members[0]
  if leaf < 0:
    return 'input:merged', 'input'
  if leaf >= num_params:
    name = leaf_names[leaf]
    return (f'{name}:axis{axis}', 'input')
  name = leaf_names[leaf]
  head, _, tail = name.rpartition('/')
  name = head if head and tail in ('kernel', 'w', 'weight', 'embedding') else name
  value = analysis.program.inputs[leaf]
  if (value, axis) in analysis.writes and axis == len(analysis.axes[value]) - 1:
    return name, 'channel'
  return f'{name}:axis{axis}', 'channel'


def _unique(name, groups):
  taken = {g.name for g in groups}
  if name not in taken:
    return name
  return next(f'{name}#{i}' for i in range(2, len(taken) + 3) if f'{name}#{i}' not in taken)
