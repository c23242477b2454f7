"""One name, colour and marker per method, the same in every plot, table and sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Method:
  """How a method is shown.

  Attributes:
    label: a few words, for legends and tables.
    phrase: completes 'against .52 for ...' where there is one architecture.
    plural: the same for several, after 'the mean of 12'.
    colour: of lines and markers; from palettes made for colour-blind readers.
    marker: Matplotlib marker, so that colour is never the only difference.
    line: Matplotlib line style; dashed for networks that are not cut.
  """

  label: str
  phrase: str
  plural: str
  colour: str
  marker: str
  line: Any = '-'


METHODS = {
  'learned': Method(
    'learned', 'the learned architecture', 'learned architectures', '#D55E00', 'o', '-'
  ),
  'random': Method(
    'random', 'one random architecture', 'random architectures', '#0072B2', 's', '-'
  ),
  'uniform': Method(
    'uniform', 'a uniform cut of all layers', 'uniform cuts of all layers', '#009E73', '^', '-'
  ),
  'same_counts': Method(
    'same counts per layer',
    'a random choice with the learned counts per layer',
    'random choices with the learned counts per layer',
    '#56B4E9',
    'v',
  ),
  'shuffled': Method(
    'shuffled inside layers',
    'the learned choice shuffled inside each layer',
    'shuffles of the learned choice inside each layer',
    '#CC79A7',
    'D',
  ),
  'magnitude_l2': Method(
    'magnitude', 'a cut by weight magnitude', 'cuts by weight magnitude', '#E69F00', 'P'
  ),
  'one_temperature': Method(
    'one temperature', 'a search with one temperature', 'searches with one temperature',
    '#7F7F7F', '<',
  ),
  'fixed_weights': Method(
    'search on fixed weights', 'a search on fixed weights', 'searches on fixed weights',
    '#8C6D31', '>',
  ),
  'inherited': Method(
    'learned, inherited weights',
    'the learned architecture with inherited weights',
    'learned architectures with inherited weights',
    '#882255',
    '*',
  ),
  'dense': Method(
    'whole network', 'the whole network from scratch', 'whole networks from scratch',
    '#000000', 'X', (0, (5, 2)),
  ),
  'pretrained_finetune': Method(
    'whole, pretrained, fine-tuned',
    'the whole pretrained network, fine-tuned',
    'whole pretrained networks, fine-tuned',
    '#332288', 'p', (0, (5, 2)),
  ),
  'pretrained_readout': Method(
    'whole, pretrained, readout only',
    'the whole pretrained network with a new readout',
    'whole pretrained networks with a new readout',
    '#999933', 'h', (0, (5, 2)),
  ),
}  # fmt: skip
_SPARE = (('#AA4499', 'd'), ('#44AA99', '8'), ('#6699CC', 'H'), ('#661100', '4'), ('#117733', '1'))


def look(name: str, among: Sequence[str] = ()) -> Method:
  """How the method `name` is shown; one not in `METHODS` takes a spare colour by its rank.

  Args:
    name: value of the column `method`.
    among: all methods of the report, so that two unknown ones differ.
  """
  if name in METHODS:
    return METHODS[name]
  unknown = sorted({other for other in (*among, name) if other not in METHODS})
  colour, marker = _SPARE[unknown.index(name) % len(_SPARE)]
  return Method(name, f'the method {name}', f'architectures of the method {name}', colour, marker)


def ordered(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """The methods of the rows: known ones in the order of `METHODS`, then others by name."""
  present = {row['method'] for row in rows}
  return [m for m in METHODS if m in present] + sorted(present - set(METHODS))


def split_by_weights(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """The rows, where a method with several kinds of first weights is one method per kind.

  'fresh' keeps the method's name; another kind becomes 'method (kind)'.
  """
  kinds: dict[str, set[str]] = {}
  for row in rows:
    kinds.setdefault(row['method'], set()).add(row['weights'])
  return [
    {**row, 'method': f'{row["method"]} ({row["weights"]})'}
    if len(kinds[row['method']]) > 1 and row['weights'] != 'fresh'
    else dict(row)
    for row in rows
  ]
