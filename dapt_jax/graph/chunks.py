"""Chunks: gates that stay or go together when an architecture is decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from dapt_jax.graph import choice, groups

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Gates that stay or go together.

  Attributes:
    group: their group.
    kind: chunks of equal kind are of the same group and occur on the same axes.
    index: i64[n], the gates.
    priority: mean logit.
  """

  group: str
  kind: tuple[str, int]
  index: np.ndarray
  priority: float


def of_group(
  logits: np.ndarray, alive: np.ndarray, group: groups.Group, round_to: int
) -> list[Chunk]:
  """The chunks of those gates of a group that are alive (bool[width]), best first."""
  whole = group.kind in ('branch', 'link')
  classes = np.zeros(group.width, int) if whole else group.classes
  size = 1 if whole else round_to
  out = []
  for number in range(int(classes.max(initial=-1)) + 1):
    mine = np.flatnonzero((classes == number) & alive)
    order = mine[np.argsort(-logits[mine], kind='stable')]
    starts = np.arange(0, len(order), size)
    if not len(mine):
      continue
    means = np.add.reduceat(logits[order], starts) / np.diff(np.append(starts, len(order)))
    for start, mean in zip(starts.tolist(), means.tolist()):
      out.append(Chunk(group.name, (group.name, number), order[start : start + size], mean))
  return sorted(out, key=lambda c: -c.priority)


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
    if size == 1:
      gates[name] = ((values > 0) & alive[name]).astype(np.float32)
      continue
    gates[name] = np.zeros(len(values), np.float32)
    for chunk in of_group(values, alive[name], graph.groups[name], size):
      gates[name][chunk.index] = chunk.priority > 0
  return gates
