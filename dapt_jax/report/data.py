"""`ReportData`: everything a report shows, as plain JSON data."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dapt_jax.training import writers

KINDS = ('channel', 'branch', 'input', 'link')
_KEYS = {
  'stages': ('name', 'seconds'),
  'searches': ('name', 'seed', 'unit', 'budget', 'layers', 'final'),
  'latency': ('name', 'batch', 'macs_share', 'milliseconds', 'spread'),
}
_LAYER_KEYS = ('group', 'kind', 'layer', 'width', 'kept')
_FINAL_KEYS = ('macs_share', 'params_share', 'missed_by')
_HISTORY_KEYS = ('step', 'loss', 'cost', 'multiplier')


@dataclasses.dataclass(frozen=True)
class ReportData:
  """What a report is made of. Arrays become lists on the way in, so that all of it is JSON.

  Attributes:
    title: heading of the page.
    command: the exact command that made the numbers.
    created: date and time, as text.
    versions: {package: version}.
    machine: processor or accelerator, system, number of devices, as text.
    data_sources: one line per data set: name, origin, licence.
    stages: {'name', 'seconds'} of what was run.
    notes: plain sentences for the provenance section, e.g. what is reconstruction.
    searches: one mapping per architecture search: 'name', 'seed', 'unit' ('macs' or 'params'),
      'budget' (share); 'layers': [{'group', 'kind' ('channel', 'branch', 'input', 'link'), 'layer'
      (for display, e.g. the cell), 'width', 'kept'}]; 'final': {'macs_share', 'params_share',
      'missed_by'} (distance from the budget, share). Optional: 'history': {'step', 'loss', 'cost',
      'multiplier'}, lists of one length; 'gate_history': {'step': [T], 'probabilities': {group:
      [T][width]}}; 'input_gates': [h][w] in [0, 1]; 'picture': the cut network as SVG text;
      'operator' in a branch layer, where the group's name does not tell it.
    results: transfer rows, see `dapt_jax.transfer.results.COLUMNS`.
    latency: {'name', 'batch', 'macs_share', 'milliseconds' (median), 'spread' (of the same unit)};
      the row of largest `macs_share` of a batch size is the network before the cut.
    first_weights: where first weights come from, compared: 'text', 'steps' (of training), 'chance',
      'candidates' (draws, of which the best on the support is taken); 'parts': [{'part', 'tasks'
      (how many), 'shown': {'task', 'images': [rows][columns] in [0, 1]}, 'rows': [{'method';
      'one', 'best', 'ensemble': {'mean', 'low', 'high'} without a step; 'curve': one a step}]}].

  Raises:
    ValueError: an entry lacks a key, lists that belong together differ in length, or a layer is of
      an unknown kind.
  """

  title: str
  command: str
  created: str
  versions: Mapping[str, str]
  machine: str
  data_sources: Sequence[str] = ()
  stages: Sequence[Mapping[str, Any]] = ()
  notes: Sequence[str] = ()
  searches: Sequence[Mapping[str, Any]] = ()
  results: Sequence[Mapping[str, Any]] = ()
  latency: Sequence[Mapping[str, Any]] = ()
  first_weights: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      object.__setattr__(self, field.name, plain(getattr(self, field.name)))
    for name, keys in _KEYS.items():
      for number, entry in enumerate(getattr(self, name)):
        _need(entry, keys, f'{name}[{number}]')
    if self.first_weights:
      _check_first_weights(self.first_weights)
    for number, search in enumerate(self.searches):
      _check_search(search, f'searches[{number}]')

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes JSON, all or nothing."""
    writers.write_json(path, dataclasses.asdict(self))

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> ReportData:
    """Reads what `save` wrote.

    Raises:
      ValueError: the file is no report data; names it and what is wrong.
    """
    try:
      content = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
      known = {field.name for field in dataclasses.fields(cls)}
      if not isinstance(content, dict) or not set(content) <= known:
        raise ValueError(f'expected one object with the keys {", ".join(sorted(known))}')
      return cls(**content)
    except (TypeError, ValueError) as error:
      raise ValueError(f'{os.fspath(path)} holds no report data: {error}') from error


def plain(value: Any) -> Any:
  """`value` with every array as a list and every non-finite number as text, at full length."""
  if isinstance(value, Mapping):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [plain(v) for v in value]
  if hasattr(value, '__array__'):
    array = np.asarray(value)
    if array.dtype.kind not in 'biuSU':
      array = array.astype(np.float64)
    return plain(array.tolist())
  if isinstance(value, float):
    return value if math.isfinite(value) else str(value)
  return writers.jsonable(value)


def floats(values: Sequence[Any]) -> np.ndarray:
  """A list out of a `ReportData` as f64[n]; 'nan' and 'inf' become numbers again."""
  return np.array([float(v) for v in values], np.float64)


def _need(entry: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
  missing = [key for key in keys if key not in entry]
  if missing:
    raise ValueError(f'{where} lacks {", ".join(missing)}; it needs {", ".join(keys)}')


def _check_first_weights(found: Mapping[str, Any]) -> None:
  _need(found, ('text', 'steps', 'chance', 'candidates', 'parts'), 'first_weights')
  for number, part in enumerate(found['parts']):
    where = f'first_weights.parts[{number}]'
    _need(part, ('part', 'tasks', 'shown', 'rows'), where)
    for row in part['rows']:
      _need(row, ('method', 'one', 'best', 'ensemble', 'curve'), f'{where}.rows')
      if len(row['curve']) != len(found['steps']):
        raise ValueError(
          f'{where}: the curve of {row["method"]!r} has {len(row["curve"])} entries for '
          f'{len(found["steps"])} steps'
        )


def _check_search(search: Mapping[str, Any], where: str) -> None:
  _need(search['final'], _FINAL_KEYS, f'{where}.final')
  for number, layer in enumerate(search['layers']):
    _need(layer, _LAYER_KEYS, f'{where}.layers[{number}]')
    if layer['kind'] not in KINDS:
      raise ValueError(
        f'{where}.layers[{number}]: kind {layer["kind"]!r} is none of {", ".join(KINDS)}'
      )
    if not 0 <= layer['kept'] <= layer['width']:
      raise ValueError(
        f'{where}.layers[{number}]: kept {layer["kept"]} is not between 0 and its width '
        f'{layer["width"]}'
      )
  if history := search.get('history'):
    _need(history, _HISTORY_KEYS, f'{where}.history')
    lengths = {key: len(history[key]) for key in _HISTORY_KEYS}
    if len(set(lengths.values())) > 1:
      raise ValueError(f'{where}.history: the lists differ in length, {lengths}')
  if gates := search.get('gate_history'):
    _need(gates, ('step', 'probabilities'), f'{where}.gate_history')
    for group, values in gates['probabilities'].items():
      if len(values) != len(gates['step']):
        raise ValueError(
          f'{where}.gate_history: group {group!r} has {len(values)} records for '
          f'{len(gates["step"])} steps'
        )
