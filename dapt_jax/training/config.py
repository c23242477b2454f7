"""Checks a configuration against a schema before any work starts."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class ConfigError(ValueError):
  """A configuration breaks its schema; the message lists every problem at once."""


@dataclasses.dataclass(frozen=True)
class Rule:
  """What one field of a configuration may hold.

  Attributes:
    type: the Python type. `float` takes integers too; `int` and `float` refuse booleans; `dict`
      takes any mapping and leaves its content unchecked; `tuple` and `list` take each other.
    choices: the allowed values, or None for any.
    min: smallest allowed value (inclusive), for numbers; for text and sequences the shortest
      length.
    max: largest allowed value (inclusive), likewise.
    above: the value must be strictly greater than this.
    below: the value must be strictly less than this.
    optional: whether None is allowed.
    items: the rule for every element of a sequence, or None for any.
    help: one line for the reader.
  """

  type: type
  choices: Sequence[Any] | None = None
  min: float | None = None
  max: float | None = None
  above: float | None = None
  below: float | None = None
  optional: bool = False
  items: Rule | None = None
  help: str = ''


Schema = Mapping[str, Rule]


def flatten(config: Mapping[str, Any], stop: Sequence[str] = ()) -> dict[str, Any]:
  """Nested mappings as `{'outer.inner': value}`.

  Args:
    config: an `ml_collections.ConfigDict`, or any mapping with string keys.
    stop: dotted paths whose mappings are kept whole.

  Returns:
    The fields in order. An empty mapping counts as a field.
  """
  out: dict[str, Any] = {}

  def visit(node: Mapping[str, Any], prefix: str) -> None:
    for name in node:
      path, value = f'{prefix}{name}', node[name]
      nested = isinstance(value, Mapping) or hasattr(value, 'to_dict')
      if nested and len(value) and path not in stop:
        visit(value, path + '.')
      else:
        out[path] = value

  visit(config, '')
  return out


def check(config: Mapping[str, Any], schema: Schema) -> None:
  """Checks every field of `config`; call it first thing in an app.

  Args:
    config: an `ml_collections.ConfigDict` or nested mapping.
    schema: `{'optimizer.learning_rate': Rule(float, above=0), ...}`, one rule per leaf field.

  Raises:
    ConfigError: fields are unknown (the nearest allowed names are given), missing, of a wrong type,
      or outside the allowed values. All problems are in one message.
  """
  fields = flatten(config, stop=[path for path, rule in schema.items() if rule.type is dict])
  problems = []
  for path, value in fields.items():
    if path in schema:
      problem = _problem(value, schema[path])
      if problem:
        problems.append(f'{path} = {value!r}: {problem}{_help(schema[path])}')
    else:
      problems.append(f'{path}: no such field. {_nearest(path, schema)}')
  for path, rule in schema.items():
    if path not in fields:
      problems.append(f'{path}: missing; needs {_expected(rule)}{_help(rule)}')
  if problems:
    raise ConfigError('the configuration has problems:\n  ' + '\n  '.join(problems))


def describe(schema: Schema) -> str:
  """The schema as a text table, one field a line: path, what is allowed, help."""
  rows = [(path, _expected(rule), rule.help) for path, rule in schema.items()]
  wide = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
  return '\n'.join(f'{p:<{wide[0]}}  {e:<{wide[1]}}  {h}'.rstrip() for p, e, h in rows)


def _problem(value: Any, rule: Rule) -> str:
  """Why `value` breaks `rule`, or '' where it does not."""
  if value is None:
    return '' if rule.optional else f'must not be None; needs {_expected(rule)}'
  if not _has_type(value, rule.type):
    return f'is a {type(value).__name__}; needs {_expected(rule)}'
  if rule.choices is not None and value not in rule.choices:
    near = difflib.get_close_matches(str(value), [str(c) for c in rule.choices], n=1)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    return f'not allowed; needs {_expected(rule)}{hint}'
  size = value if rule.type in (int, float) else len(value) if hasattr(value, '__len__') else None
  if size is not None and not _in_range(size, rule):
    return f'out of range; needs {_expected(rule)}'
  if rule.items is not None:
    for i, item in enumerate(value):
      problem = _problem(item, rule.items)
      if problem:
        return f'element {i} ({item!r}) {problem}'
  return ''


def _has_type(value: Any, expected: type) -> bool:
  if isinstance(value, bool | np.bool_):
    return expected is bool
  if expected is float:
    return isinstance(value, int | float | np.integer | np.floating)
  if expected is int:
    return isinstance(value, int | np.integer)
  if expected in (tuple, list):
    return isinstance(value, tuple | list)
  if expected is dict:
    return isinstance(value, Mapping) or hasattr(value, 'to_dict')
  return isinstance(value, expected)


def _in_range(size: float, rule: Rule) -> bool:
  if math.isnan(size):
    return False
  return (
    (rule.min is None or size >= rule.min)
    and (rule.max is None or size <= rule.max)
    and (rule.above is None or size > rule.above)
    and (rule.below is None or size < rule.below)
  )


def _expected(rule: Rule) -> str:
  """What a rule allows, in words."""
  if rule.choices is not None:
    text = 'one of ' + ', '.join(repr(c) for c in rule.choices)
  else:
    text = rule.type.__name__
    if rule.items is not None:
      text += f' of ({_expected(rule.items)})'
    bounds = (('>=', rule.min), ('<=', rule.max), ('>', rule.above), ('<', rule.below))
    limits = ' and '.join(f'{sign} {bound}' for sign, bound in bounds if bound is not None)
    if limits:
      text += f' {limits}' if rule.type in (int, float) else f' with length {limits}'
  return text + (' or None' if rule.optional else '')


def _help(rule: Rule) -> str:
  return f' ({rule.help})' if rule.help else ''


def _nearest(path: str, schema: Schema) -> str:
  """The allowed names a mistyped path most likely meant."""
  near = difflib.get_close_matches(path, list(schema), n=3, cutoff=0.5)
  last = path.rsplit('.', 1)[-1]
  near += [p for p in schema if p.rsplit('.', 1)[-1] == last and p not in near][:3]
  if near:
    return 'Nearest allowed: ' + ', '.join(near)
  return 'Allowed: ' + ', '.join(schema)
