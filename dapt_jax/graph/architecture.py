"""`Architecture`: which positions of which groups stay. Saved as JSON + safetensors, no pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from dapt_jax import files
from dapt_jax.types import Gates

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph

_FILES = files.Pair(
  format='dapt_jax.architecture',
  version=1,
  what='an architecture',
  suffix='.safetensors',
  required=('groups', 'costs', 'provenance'),
)


@dataclasses.dataclass(frozen=True)
class Architecture:
  """A structure apart from any weights.

  Attributes:
    kept: {group: i32[k]} indices that stay, increasing; groups not named stay whole.
    widths: {group: width in the whole network}.
    costs: {unit: {'whole': float, 'kept': float, 'share': float}}.
    provenance: where it comes from: method, budget, settings of the search, data, versions.
  """

  kept: dict[str, np.ndarray]
  widths: dict[str, int]
  costs: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
  provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    if set(self.kept) != set(self.widths):
      raise ValueError(
        f'kept and widths name different groups: {sorted(set(self.kept) ^ set(self.widths))}'
      )
    for name, index in self.kept.items():
      index, width = np.asarray(index), self.widths[name]
      if len(index) and not 0 <= index.min() <= index.max() < width:
        raise ValueError(f'group {name!r} has no valid indices below its width {width}: {index}')
      if len(np.unique(index)) != len(index):
        raise ValueError(f'the indices of group {name!r} must be distinct: {index}')

  def gates(self, graph: ChannelGraph) -> Gates:
    """The architecture as binary gates, `{group: f32[width]}`, for `graph.apply_gates`."""
    self.check(graph)
    return {n: jnp.asarray(m) for n, m in self.masks().items()}

  def masks(self) -> dict[str, np.ndarray]:
    """The same as NumPy arrays, not checked against a graph."""
    out = {}
    for name, index in self.kept.items():
      out[name] = np.zeros(self.widths[name], np.float32)
      out[name][index] = 1.0
    return out

  def check(self, graph: ChannelGraph) -> None:
    """Raises ValueError if it was made for a graph with other groups."""
    known = graph.gated_groups
    for name, width in self.widths.items():
      if name not in known or known[name].width != width:
        found = f'has width {known[name].width}' if name in known else 'is not a gated group'
        raise ValueError(
          f'the architecture was made for another network: its group {name!r} of width {width} '
          f'{found} here; trace the network (and levels) it was searched in'
        )

  def with_provenance(self, **entries: Any) -> Architecture:
    """A copy with more provenance."""
    return dataclasses.replace(self, provenance={**self.provenance, **entries})

  def fingerprint(self) -> str:
    """Twelve hex digits that name the structure (not its provenance)."""
    digest = hashlib.sha256()
    for name in sorted(self.kept):
      digest.update(f'{name}:{self.widths[name]}:'.encode())
      digest.update(np.asarray(self.kept[name], np.int32).tobytes())
    return digest.hexdigest()[:12]

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes `path` (JSON) and, beside it, the indices as `.safetensors`.

    Both files are written under temporary names and then renamed: a failure leaves what was there.
    """
    data = safetensors.numpy.save(
      {n: np.ascontiguousarray(i, np.int32) for n, i in self.kept.items()}
    )
    head = {
      'fingerprint': self.fingerprint(),
      'groups': {n: {'kept': len(self.kept[n]), 'width': w} for n, w in self.widths.items()},
      'costs': self.costs,
      'provenance': self.provenance,
    }
    _FILES.save(path, head, data)

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Architecture:
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError: if one of the two files is missing.
      ValueError: for a foreign or damaged file; the message says which and what to do.
    """
    head, data = _FILES.load(path)
    path, arrays = _FILES.paths(path)
    kept = safetensors.numpy.load(data)
    try:
      widths = {n: int(g['width']) for n, g in head['groups'].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise ValueError(f'{path} is damaged: its groups have no widths ({error!r})') from error
    lost = [n for n in widths if n not in kept]
    if lost:
      raise ValueError(f'{path}: groups {lost} have no valid indices in {arrays.name}')
    try:
      return cls({n: kept[n] for n in widths}, widths, head['costs'], head['provenance'])
    except ValueError as error:
      raise ValueError(f'{path} does not fit {arrays.name}: {error}') from error
