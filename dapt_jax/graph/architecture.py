"""`Architecture`: which positions of which groups stay. Saved as JSON + safetensors, no pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from dapt_jax import files
from dapt_jax.graph import checks
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
    for what in ('kept', 'widths', 'costs', 'provenance'):
      checks.instance(getattr(self, what), Mapping, what, 'it must be a dict')
    for unit, cost in self.costs.items():
      if not isinstance(cost, Mapping) or not {'whole', 'kept', 'share'} <= set(cost):
        raise ValueError(f'costs[{unit!r}] is {cost!r}; it must have whole, kept and share')
    if set(self.kept) != set(self.widths):
      odd = sorted(map(str, set(self.kept) ^ set(self.widths)))
      raise ValueError(f'kept and widths name different groups: {odd}')
    for name, index in self.kept.items():
      checks.instance(name, str, 'the name of a group', 'it must be a string')
      _check_indices(name, np.asarray(index), self.widths[name])

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
    """Raises ValueError if it was made for a graph with other groups, TypeError for no graph."""
    if not hasattr(graph, 'gated_groups'):
      raise TypeError(f'graph is {checks.kind_of(graph)}; pass the ChannelGraph that trace returns')
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
    try:
      kept = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
      raise ValueError(f'{arrays} is damaged: {error}; save the architecture again') from error
    try:
      widths = {n: int(g['width']) for n, g in head['groups'].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise ValueError(f'{path} is damaged: its groups have no widths ({error!r})') from error
    lost = [n for n in widths if n not in kept]
    if lost:
      raise ValueError(f'{path}: groups {lost} have no valid indices in {arrays.name}')
    try:
      return cls({n: kept[n] for n in widths}, widths, head['costs'], head['provenance'])
    except (TypeError, ValueError) as error:
      raise ValueError(f'{path} does not fit {arrays.name}: {error}') from error


def _check_indices(name: str, index: np.ndarray, width: int) -> None:
  """Raises for indices that are not integers, in increasing order, below the width."""
  checks.number(width, f'the width of group {name!r}', 'it must be a positive integer')
  if width < 1 or width % 1:
    raise ValueError(f'the width of group {name!r} is {width}; it must be a positive integer')
  if index.ndim != 1 or (len(index) and index.dtype.kind not in 'iu'):
    raise TypeError(
      f'the indices of group {name!r} must be integers on one axis, not {index.dtype} of shape '
      f'{index.shape}; np.flatnonzero makes them of a mask'
    )
  if len(index) and not 0 <= index.min() <= index.max() < width:
    raise ValueError(f'group {name!r} has no valid indices below its width {width}: {index}')
  if (np.diff(index.astype(np.int64)) <= 0).any():
    raise ValueError(f'the indices of group {name!r} must be distinct and increasing: {index}')
