"""Chunks: gates that stay or go together when an architecture is decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dapt_jax.graph import choice, groups

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph


class Chunks(NamedTuple):
  """The chunks of a group, best first.

  Attributes:
    of_gate: i64[width], number of the chunk of every gate; -1 for gates that are not alive.
    priority: f64[n], mean logit.
    kind: i64[n], chunks of equal kind occur on the same axes.
  """

  of_gate: np.ndarray
  priority: np.ndarray
  kind: np.ndarray


def of_group(logits: np.ndarray, alive: np.ndarray, group: groups.Group, round_to: int) -> Chunks:
  """The chunks of those gates of a group that are alive (bool[width])."""
  whole = group.kind in ('branch', 'link')
  classes = np.zeros(group.width, int) if whole else group.classes
  size = 1 if whole else round_to
  of_gate, count = np.full(group.width, -1), 0
  means, kinds = [np.zeros(0)], [np.zeros(0, int)]
  for number in range(int(classes.max(initial=-1)) + 1):
    mine = np.flatnonzero((classes == number) & alive)
    if not len(mine):
      continue
    order = mine[np.argsort(-logits[mine], kind='stable')]
    starts = np.arange(0, len(order), size)
    of_gate[order] = count + np.arange(len(order)) // size
    means.append(np.add.reduceat(logits[order], starts) / np.diff(np.append(starts, len(order))))
    kinds.append(np.full(len(starts), number))
    count += len(starts)
  priority, kind = np.concatenate(means), np.concatenate(kinds)
  best = np.argsort(-priority, kind='stable')
  rank = np.argsort(best, kind='stable')
  of_gate[of_gate >= 0] = rank[of_gate[of_gate >= 0]]
  return Chunks(of_gate, priority[best], kind[best])


def threshold(
  graph: ChannelGraph,
  logits: Mapping[str, np.ndarray],
  alive: Mapping[str, np.ndarray],
  round_to: int | Mapping[str, int],
) -> dict[str, np.ndarray]:
  """Keeps the living chunks with positive mean logit, `{group: f32[width] of 0 and 1}`."""
  gates = {}
  for name, values in logits.items():
    size = choice.value_for(round_to, name, 1)
    found = of_group(values, alive[name], graph.groups[name], size)
    stays = np.append(found.priority > 0, False)  # the last entry is that of gates not alive
    gates[name] = stays[found.of_gate].astype(np.float32)
  return gates
