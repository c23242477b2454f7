"""Finds the groups: components of labels, named after the parameters that make them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import groups, labels

_QUIET = ('spatial axis', 'kernel tap', 'a window slides', 'a loop runs')


def find(
  analysis: analysis_lib.Analysis, leaf_names: Sequence[str], num_params: int
) -> tuple[list[groups.Group], groups.Members]:
  """Collects connected labels into groups.

  Args:
    analysis: of the whole program; it must be complete.
    leaf_names: name of every flat argument.
    num_params: how many of the arguments are parameters.

  Returns:
    (groups, which label belongs to which).
  """
  components = analysis.space.components()
  size = int(components.max(initial=-1)) + 1
  reasons = _reasons(analysis, components)
  seeds = [
    s
    for s in _seed_axes(analysis, num_params)
    if not reasons.get(int(components[s[2][0]]), '').startswith('kernel tap')
  ]
  owner_axis = _merge_axes([components[s[2]] for s in seeds], size)
  weighed = np.zeros(size, bool)
  for label in analysis.space.weighed:
    weighed[components[label]] = True
  owner, gate = np.full(size, -1), np.zeros(size, np.int64)
  found: list[groups.Group] = []
  taken: set[str] = set()
  axes_of: list[list[Any]] = [[] for _ in range(max(owner_axis, default=-1) + 1)]
  for seed, number in zip(seeds, owner_axis):
    axes_of[number].append(seed)
  for number, members in enumerate(axes_of):
    ids = _first_seen(np.concatenate([components[m[2]] for m in members]))
    owner[ids], gate[ids] = number, np.arange(len(ids))
    why = next((reasons[i] for i in ids.tolist() if i in reasons), '')
    name, kind = _name(members[0], leaf_names, num_params, analysis)
    if kind == 'channel' and weighed[ids].any():
      kind = 'normalised'
    elif kind == 'input' and weighed[ids].any():
      why = why or 'a normaliser averages over positions of an input'
    found.append(groups.Group(groups.unique(name, taken), kind, len(ids), refused=why))
    taken.add(found[-1].name)
  members_of = groups.Members([g.name for g in found], owner[components], gate[components])
  slices = _slices(analysis, members_of, components)
  return [_complete(g, tuple(slices[g.name])) for g in found], members_of


def _complete(group, slices):
  refused = group.refused
  if not refused and not any(s.role == 'read' for s in slices):
    refused = 'no parameter reads it'
  if group.width == 1:
    refused = 'a single channel'
  return dataclasses.replace(group, slices=slices, refused=refused)


def _slices(analysis, members, components):
  """{group: its slices}."""
  record = analysis.record
  out: dict[str, list[groups.Slices]] = {n: [] for n in members.names}
  for leaf, value in enumerate(analysis.program.inputs):
    for axis, label in enumerate(analysis.axes[value]):
      end = (value, axis)
      read = [*record.reads.get(end, ()), *record.carriers.get(end, ())]
      named = set(components[np.concatenate(read)].tolist()) if read else set()
      for name, positions, index in members.split(label):
        if not name:
          continue
        # A parameter can show several groups along one axis, and read only some of them.
        mine = not named.isdisjoint(components[label[positions]].tolist()) if named else False
        role = 'read' if mine else 'write' if end in record.writes else 'along'
        out[name].append(groups.Slices(leaf, axis, positions, index, role))
  return out


def _reasons(analysis, components):
  """First reason of refusal of every component, the telling ones before the spatial ones."""
  both = analysis.record.reads.keys() & analysis.record.writes
  extra = [
    labels.Refusal(analysis.axes[v][a], 'one parameter both reads and writes it')
    for v, a in sorted(both)
  ]
  out: dict[int, str] = {}
  ranked = sorted([*extra, *analysis.space.refusals], key=lambda r: r.reason.startswith(_QUIET))
  for refusal in ranked:
    for c in set(components[refusal.labels].tolist()):
      out.setdefault(c, refusal.reason)
  return out


def _seed_axes(analysis, num_params):
  """(leaf, axis, labels) of the axes that make channels: written ones first, then the rest."""
  program = analysis.program
  seeds, late = [], []
  for leaf, value in enumerate(program.inputs):
    for axis, label in enumerate(analysis.axes[value]):
      if (value, axis) in analysis.record.writes:
        seeds.append((leaf, axis, label))
      elif len(label) > 1 and (leaf >= num_params or (value, axis) not in analysis.record.reads):
        late.append((leaf, axis, label))
  order = [v for node in program.nodes for v in node.ins]
  first = {v: i for i, v in reversed(list(enumerate(order)))}
  seeds.sort(key=lambda s: first.get(program.inputs[s[0]], 0))
  # Axes that start inside the program (a merged reshape): read by parameters, written by none.
  # They carry minus the number of their value: values made by a node are never number 0.
  inner = [(-v, axis, analysis.axes[v][axis]) for v, axis in sorted(analysis.sources)]
  return [s for s in [*seeds, *late, *inner] if len(s[2])]


def _merge_axes(component_sets, size):
  """Union of axes that share a component: group number of every axis, in order of appearance."""
  if not component_sets:
    return []
  count = len(component_sets)
  rows = np.repeat(np.arange(count), [len(c) for c in component_sets])
  cols = count + np.concatenate(component_sets)
  union = labels.connected(rows, cols, count + size)[:count]
  numbers: dict[int, int] = {}
  return [numbers.setdefault(u, len(numbers)) for u in union.tolist()]


def _first_seen(ids):
  """Distinct values in the order of their first appearance."""
  values, first = np.unique(ids, return_index=True)
  return values[np.argsort(first)]


def _name(seed, leaf_names, num_params, analysis):
  leaf, axis, _ = seed
  if leaf < 0:
    maker = next(n.name for n in analysis.program.nodes if -leaf in n.outs)
    return ('input:merged' if maker == 'reshape' else f'inner:{maker}'), 'input'
  name = leaf_names[leaf]
  if leaf >= num_params:
    return f'{name}:axis{axis}', 'input'
  head, _, tail = name.rpartition('/')
  name = head if head and tail in ('kernel', 'w', 'weight', 'embedding') else name
  value = analysis.program.inputs[leaf]
  if (value, axis) in analysis.record.writes and axis == len(analysis.axes[value]) - 1:
    return name, 'channel'
  return f'{name}:axis{axis}', 'channel'
