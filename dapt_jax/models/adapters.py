"""Models of other libraries as functions `apply_fn(variables, *inputs)`, ready for `dapt.trace`.

Flax Linen has that form already (`module.apply`), plain functions too. An Equinox module is a
pytree, so two lines of its own library do:

  params, static = equinox.partition(module, equinox.is_inexact_array)
  apply_fn = lambda params, x: jax.vmap(equinox.combine(params, static))(x)
"""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from dapt_jax import types


def from_nnx(module: nnx.Module, with_state: bool = False) -> tuple[types.ApplyFn, types.Params]:
  """A Flax NNX module as a pure function of its variables.

  The mode is that of the module: call `module.eval()` or `module.train()` first. Random state, and
  whatever is neither parameter nor statistics, stays as it is: dropout left on draws the same bits
  in every call.

  Args:
    module: the module; it is not changed.
    with_state: also return the statistics as the call leaves them (moving averages in training).

  Returns:
    `(apply_fn, variables)`. Variables are nested dicts by the paths of the module,
    `{'params': ..., 'batch_stats': ...}`, the latter missing where there are none.
    `apply_fn(variables, *inputs)` gives what the module returns, with `with_state` the pair
    `(result, {'batch_stats': ...})`, `{}` where there are none.

  Raises:
    TypeError: for something other than an NNX module.
    ValueError: for a module without parameters.
  """
  if not isinstance(module, nnx.Module):
    raise TypeError(f'module is a {type(module).__name__}; give an instance of flax.nnx.Module')
  graph, *parts = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
  states, rest = {'params': parts[0], 'batch_stats': parts[1]}, parts[2]
  variables = _plain(states)
  if 'params' not in variables:
    raise ValueError(f'{type(module).__name__} has no nnx.Param, so there is nothing to cut')

  def apply_fn(variables: types.Params, *inputs: Any) -> Any:
    given = [_copy(states[name]) for name in states]
    for name, state in zip(states, given):
      nnx.replace_by_pure_dict(state, variables.get(name, {}))
    called = nnx.merge(graph, *given, _copy(rest))
    result = called(*inputs)
    if not with_state:
      return result
    return result, _plain({'batch_stats': nnx.state(called, nnx.BatchStat)})

  return apply_fn, variables


def _copy(state: nnx.State) -> nnx.State:
  """The same values in variables of their own: calling a module writes into them."""
  return jax.tree.map(lambda leaf: leaf, state)


def _plain(states: dict[str, nnx.State]) -> dict[str, Any]:
  """The states as nested dicts of arrays, without those that are empty."""
  plain = {name: nnx.to_pure_dict(state) for name, state in states.items()}
  return {name: tree for name, tree in plain.items() if jax.tree.leaves(tree)}
