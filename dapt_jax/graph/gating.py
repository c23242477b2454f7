"""Gates: every reading slice is multiplied by the gate of what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.graph import checks, replay
from dapt_jax.types import Gates, Params

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph

#: How far outside of [0, 1] rounding may take a gate.
_SLACK = 1e-3


def check(graph: ChannelGraph, gates: Gates, what: str = 'gates') -> None:
  """Raises ValueError or TypeError for a tree of gates or logits that does not fit the graph."""
  remedy = 'start from graph.init_gates(key)'
  checks.instance(gates, Mapping, what, f'it must be a dict {{group: array}}; {remedy}')
  known = graph.gated_groups
  for name, gate in gates.items():
    if name not in known:
      group = graph.groups.get(name)
      why = f'is refused: {group.refused}' if group and group.refused else 'is not gated here'
      raise ValueError(
        f'{what} has group {name!r}, which {why}; the gated groups are {list(known)}'
      )
    checks.vector(gate, known[name].width, f'{what}[{name!r}]', remedy)


def apply(graph: ChannelGraph, params: Params, gates: Gates) -> Params:
  """Multiplies the reading slices of `params` by the gates.

  By linearity of the reader this equals multiplying the activation right before it is read, after
  normalisation and non-linearity, whatever they are. A branch gate multiplies the parameters
  through which the summand is linear, a link gate single entries of a kernel.

  Args:
    graph: from `trace`.
    params: the network's parameters.
    gates: `{group: f32[width]}`; groups left out stay open.

  Returns:
    Parameters of the same structure and shapes.

  Raises:
    ValueError: for an unknown or refused group, a gate of the wrong width, or a group that a
      normaliser averages over: its gates act inside the function, see `call`.
  """
  check(graph, gates)
  inside = [n for n in gates if n in graph.groups and graph.groups[n].kind == 'normalised']
  if inside:
    raise ValueError(
      f'gates has the groups {inside}, over which a normaliser averages: no parameter can carry '
      'their gates alone; call graph.apply(params, gates, *inputs) instead of the function'
    )
  return _scaled(graph, params, gates)


def check_range(gates: Gates) -> None:
  """Raises ValueError for gates that are known and outside [0, 1]: they have no cost."""
  for name, gate in gates.items():
    if checks.is_known(gate):
      low, high = float(np.min(gate, initial=0.0)), float(np.max(gate, initial=1.0))
      if low < -_SLACK or high > 1 + _SLACK:
        raise ValueError(
          f'gates[{name!r}] has values from {low:.3g} to {high:.3g}, but gates lie in [0, 1]; '
          'pass gates, not logits (a sigmoid of them, say)'
        )


def call(graph: ChannelGraph, params: Params, gates: Gates, *inputs: Any) -> Any:
  """The gated network: `apply_fn` with the gates where they act.

  For groups of level 'normalised' the gates are also weights in the statistics of the normalisers:
  a mean becomes sum(gate * x) / sum(gate), a maximum that of the positions with a positive gate.

  Args:
    graph: from `trace`.
    params: the network's parameters.
    gates: `{group: f32[width]}`; groups left out stay open.
    *inputs: of the function.

  Returns:
    What the function returns.

  Raises:
    ValueError: for an unknown or refused group, or a gate of the wrong width.
  """
  check(graph, gates)
  gated = _scaled(graph, params, gates)
  weights = {n: g for n, g in gates.items() if graph.groups[n].kind == 'normalised'}
  if not weights:
    return graph.apply_fn(gated, *inputs)
  here = graph.at(inputs)

  def vector(label: np.ndarray) -> Any:
    parts = [p for p in here.members.split(label) if p[0] in weights]
    return _vector(len(label), jnp.float32, weights, parts) if parts else None

  dead = np.zeros(here.analysis.space.size, bool)
  cut = replay.Cut(here.analysis, dead, weights=vector)
  args = [*jax.tree.leaves(gated), *jax.tree.leaves(inputs)]
  return jax.tree.unflatten(here.tree.out_treedef, cut.run(args, here.program.outputs))


def _scaled(graph: ChannelGraph, params: Params, gates: Gates) -> Params:
  leaves = graph.tree.flatten_whole(params)
  for (leaf, axis), parts in _readers(graph, gates).items():
    vector = _vector(leaves[leaf].shape[axis], leaves[leaf].dtype, gates, parts)
    shape = [1] * leaves[leaf].ndim
    shape[axis] = -1
    leaves[leaf] = leaves[leaf] * vector.reshape(shape)
  for name, gate in gates.items():
    for leaf in graph.groups[name].carriers:
      factor = gate.reshape(leaves[leaf].shape if graph.groups[name].kind == 'link' else ())
      leaves[leaf] = leaves[leaf] * factor.astype(leaves[leaf].dtype)
  return jax.tree.unflatten(graph.tree.param_treedef, leaves)


def _readers(graph: ChannelGraph, gates: Gates):
  out: dict[tuple[int, int], list] = {}
  for name in gates:
    for piece in graph.groups[name].touching('read'):
      part = (name, piece.positions, piece.index)
      out.setdefault((piece.leaf, piece.axis), []).append(part)
  return out


def _vector(size: int, dtype: Any, gates: Gates, parts: Sequence[Any]) -> jax.Array:
  """Gates of an axis, 1 where it has none; parts are (group, positions on the axis, gates)."""
  out = jnp.ones(size, dtype)
  for name, positions, index in parts:
    values = gates[name].astype(dtype)[index]
    out = values if len(positions) == size else out.at[positions].set(values)
  return out
