"""Gate trees as one vector: one random draw and one optimiser step for all groups."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dapt_jax.graph import ChannelGraph
from dapt_jax.types import Gates


def join(gates: Gates) -> jax.Array:
  """All gates in the order of their groups' names, f32[G]."""
  return jnp.concatenate([gates[name] for name in sorted(gates)])


def split(vector: jax.Array, like: Gates) -> Gates:
  """The inverse of `join`, in the groups of `like`."""
  out, start = {}, 0
  for name in sorted(like):
    out[name] = vector[start : start + len(like[name])]
    start += len(like[name])
  return out


def layers(graph: ChannelGraph) -> np.ndarray:
  """Which gates must not all be closed: bool[L, G], one row per layer or sum.

  A row is a sum whose summands are all gated, or the gates of one layer's channels (link gates may
  all close). Columns are in the order of `join`.
  """
  groups = graph.gated_groups
  starts = dict(zip(sorted(groups), np.cumsum([0, *[groups[n].width for n in sorted(groups)]])))
  rows = [
    [starts[n] for n in names] for names, is_open in zip(graph.sums, graph.open_sums) if not is_open
  ]
  for name, group in groups.items():
    if group.kind not in ('branch', 'link'):
      rows += [[starts[name] + i for i in layer] for layer in group.layers]
  out = np.zeros((len(rows), sum(g.width for g in groups.values())), bool)
  for row, columns in zip(out, rows):
    row[columns] = True
  return out


def keep_paths(graph: ChannelGraph, gates: jax.Array, logits: jax.Array) -> jax.Array:
  """Opens the likeliest gate of every layer and sum that a draw has closed altogether.

  A network that is cut through says nothing about any of its gates. Only values change: to be
  called outside of what is differentiated.

  Args:
    graph: from `dapt.trace`.
    gates: f32[G], drawn gates of all gated groups, as `join` orders them.
    logits: f32[G].

  Returns:
    f32[G], gates of which every layer, and every sum without other summands, has an open one.
  """
  member = jnp.asarray(layers(graph))
  if not len(member):
    return gates
  closed = jnp.max(jnp.where(member, gates, 0.0), axis=1) <= 0
  best = jnp.argmax(jnp.where(member, logits, -jnp.inf), axis=1)
  opened = jax.nn.one_hot(best, len(gates), dtype=gates.dtype) * closed[:, None]
  return lax.stop_gradient(jnp.maximum(gates, opened.max(axis=0)))
