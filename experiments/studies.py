"""What studies of generators share: changed configurations, what is judged, entries of tables."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from dapt_jax.training import writers
from dapt_jax.weights import bootstrap
from experiments import compare_starts, zoo_task

#: {part: {method: arrays of `compare_starts.judge`}}
Results = dict[str, dict[str, Any]]

#: {what is judged: its title}, in the order of tables.
KINDS = {'one': 'one', 'best': 'best on support', 'ensemble': 'ensemble'}


def changed(config: Any, changes: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """A copy of a configuration, other in the dotted fields of `changes`."""
  out = ml_collections.ConfigDict(config.to_dict())
  out.update_from_flattened_dict(dict(changes))
  return out


def directory(name: str) -> str:
  """The name of a row of a table as that of a directory."""
  return name.replace(', ', '-').replace(' ', '_')


def judged(source: compare_starts.Starts, methods: Sequence[str]) -> Results:
  """Accuracies of some methods on every part."""
  config, out = source.config, {}
  for part in config.compare.parts:
    held = zoo_task.held(config, source.task, part)
    made = source.methods(held)
    judge = compare_starts.judge
    out[part] = {name: judge(config, source.task, held, made[name]()) for name in methods}
  return out


def finished(path: pathlib.Path, config: Any) -> dict[str, Any] | None:
  """What an earlier call has written to a JSON file, if it had this configuration."""
  if not path.is_file():
    return None
  found = json.loads(path.read_text(encoding='utf-8'))
  same = found['config'] == json.loads(json.dumps(writers.jsonable(config.to_dict())))
  return found if same else None


def listed(seen: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
  """`accuracies` as JSON holds them."""
  return {kind: values.tolist() for kind, values in accuracies(seen).items()}


def accuracies(seen: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """{'one', 'best', 'ensemble': f[T]} of the arrays of `compare_starts.judge`."""
  return {'one': seen['all'].mean(1), 'best': seen['best'], 'ensemble': seen['ensemble']}


def entry(values: np.ndarray, reference: np.ndarray, *, interval: bool = False) -> str:
  """A mean over tasks, its sign against a reference on the same tasks, its 95% interval.

  The sign is (+) or (-) where the paired interval lies above or below the reference.
  """
  table = {'these': np.asarray(values), 'reference': np.asarray(reference)}
  row = bootstrap.compare(table, 'reference')[0]
  sign = {'win': ' (+)', 'loss': ' (-)'}.get(str(row['verdict']), '')
  ends = f' [{figure(row["low"])}, {figure(row["high"])}]' if interval else ''
  return f'{figure(row["mean"])}{ends}{sign}'


def figure(value: float) -> str:
  """An accuracy with three decimals, without the zero before the point."""
  return f'{value:.3f}'.lstrip('0')
