"""Checks of what is handed in from outside; messages name the value, the rule and the remedy."""

from __future__ import annotations

import numbers
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def kind_of(value: Any) -> str:
  """What a message calls a value: its type, and the value itself where it is short."""
  text = repr(value)
  return f'{text} ({type(value).__name__})' if len(text) <= 40 else f'a {type(value).__name__}'


def instance(value: Any, kind: Any, what: str, remedy: str) -> None:
  """Raises TypeError if a value is not of a type."""
  if not isinstance(value, kind):
    raise TypeError(f'{what} is {kind_of(value)}; {remedy}')


def number(value: Any, what: str, rule: str) -> None:
  """Raises TypeError for what is no single real number (bools are none)."""
  if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
    single = getattr(value, 'shape', None) == () and np.asarray(value).dtype.kind in 'iuf'
    if not single:
      raise TypeError(f'{what} is {kind_of(value)}; {rule}')


def is_leaf(value: Any) -> bool:
  """Whether a leaf is something that JAX can compute with: a number, a numeric array, keys."""
  dtype = getattr(value, 'dtype', None)
  if dtype is None or not hasattr(value, 'shape'):
    return isinstance(value, (bool, numbers.Number))
  if isinstance(dtype, np.dtype) and dtype.kind in 'biufc':
    return True
  kinds = (jnp.number, jnp.bool_, jax.dtypes.extended)
  return any(jnp.issubdtype(dtype, kind) for kind in kinds)


def leaf(value: Any, what: str) -> None:
  """Raises TypeError for a leaf that JAX cannot compute with."""
  if not is_leaf(value):
    found = f'an array of {value.dtype}' if hasattr(value, 'dtype') else kind_of(value)
    raise TypeError(f'{what} is {found}; leaves must be numeric arrays or jax.ShapeDtypeStruct')


def shape(value: Any) -> tuple[int, ...] | None:
  """Shape of an array or a number, None for anything else."""
  return getattr(value, 'shape', () if isinstance(value, numbers.Number) else None)


def vector(value: Any, width: int, what: str, remedy: str) -> None:
  """Raises for what is no real array of one axis of this width, or has entries that are no numbers.

  Raises:
    TypeError: for another type.
    ValueError: for another shape, or NaN or infinity in an array that is known.
  """
  if not hasattr(value, 'shape') or not hasattr(value, 'dtype'):
    raise TypeError(f'{what} is {kind_of(value)}, but must be an array; {remedy}')
  if not any(jnp.issubdtype(value.dtype, k) for k in (jnp.floating, jnp.integer, jnp.bool_)):
    raise TypeError(f'{what} has dtype {value.dtype}, but must be real; {remedy}')
  if tuple(value.shape) != (width,):
    raise ValueError(
      f'{what} has shape {tuple(value.shape)}, but the group has width {width}; {remedy}'
    )
  if is_known(value) and not np.isfinite(np.asarray(value, np.float64)).all():
    raise ValueError(f'{what} is not finite; the search has diverged, lower its rate')


def is_known(value: Any) -> bool:
  """Whether the entries of an array can be looked at now."""
  return not isinstance(value, (jax.core.Tracer, jax.ShapeDtypeStruct))


def expression(value: Any, what: str) -> None:
  """Raises for what is no regular expression.

  Raises:
    TypeError: if it is no string.
    ValueError: if it does not compile.
  """
  instance(value, str, what, 'it must be a regular expression, e.g. "encoder/.*"')
  try:
    re.compile(value)
  except re.error as error:
    raise ValueError(f'{what}={value!r} is no regular expression: {error}') from error


def by_name(setting: Any, what: str, names: Collection[str]) -> list[Any]:
  """The values of a setting: one for all groups, or {regular expression: value}.

  Raises:
    TypeError: for an expression that is no string.
    ValueError: for one that does not compile, or if none of them is found in any name.
  """
  if not isinstance(setting, Mapping):
    return [setting]
  for pattern in setting:
    expression(pattern, what)
  if setting and not any(re.search(p, name) for p in setting for name in names):
    raise ValueError(
      f'{what} has {[*setting]}, none of which a gated group has in its name: {[*names]}'
    )
  return list(setting.values())
