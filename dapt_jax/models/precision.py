"""A model that computes in another precision than its variables are stored in."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dapt_jax.models import model as model_lib

#: What a network may compute in.
NAMES = ('float32', 'bfloat16')


def compute_in(model: model_lib.Model, name: str) -> model_lib.Model:
  """The same network, its layers computed in the named precision (mixed precision).

  Variables keep their type, and so do gradients: optimisers, gates that multiply variables, and
  moving statistics never see the shorter one. Logits, features and statistics come back in single
  precision; BatchNorm takes its statistics there, too. Faster on devices with units for bfloat16;
  slower on CPUs.

  Args:
    model: from `model.create`.
    name: out of `NAMES`; 'float32' gives the model itself.

  Returns:
    The model with other `apply`, `apply_train` and `features`.

  Raises:
    ValueError: for another name.
  """
  if name not in NAMES:
    raise ValueError(f'precision is {name!r}; choose one of {NAMES}')
  if name == 'float32':
    return model
  dtype = jnp.dtype(name)
  short = lambda tree: jax.tree.map(lambda x: _cast(x, dtype), tree)
  single = lambda tree: jax.tree.map(lambda x: _cast(x, jnp.float32), tree)

  def given(variables: model_lib.Variables) -> model_lib.Variables:
    return {**variables, 'params': short(variables['params'])}

  def apply(variables: model_lib.Variables, x: jax.Array) -> jax.Array:
    return single(model.apply(given(variables), short(x)))

  def apply_train(variables: model_lib.Variables, x: jax.Array) -> Any:
    return single(model.apply_train(given(variables), short(x)))

  def features(variables: model_lib.Variables, x: jax.Array, train: bool = False) -> jax.Array:
    return single(model.features(given(variables), short(x), train))

  return model._replace(apply=apply, apply_train=apply_train, features=features)


def _cast(x: jax.Array, dtype: Any) -> jax.Array:
  """Numbers with a fraction in another type; token ids stay."""
  return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
