"""The pytree side of a traced function: flat arguments, their names, state among the results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from dapt_jax.types import ApplyFn, Params


@dataclasses.dataclass(frozen=True)
class Tree:
  """How pytrees map to the flat program.

  Attributes:
    jaxpr: closed jaxpr of the function.
    names: name of every flat argument, parameters first ('cell1/conv/kernel'), then inputs.
    num_params: number of parameter leaves.
    counted: for every parameter leaf, whether it counts as a parameter (not as statistics).
    param_treedef: structure of the parameters.
    param_shapes: the parameters as `jax.ShapeDtypeStruct`.
    out_treedef: structure of the result.
    state_outputs: flat result number -> parameter leaf it is the new value of.
  """

  jaxpr: Any
  names: list[str]
  num_params: int
  counted: list[bool]
  param_treedef: Any
  param_shapes: Params
  out_treedef: Any
  state_outputs: dict[int, int]


def _path(path: Sequence[Any]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def shapes_of(tree: Any) -> Any:
  """The tree with `jax.ShapeDtypeStruct` leaves."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jax.numpy.shape(x), _dtype(x)), tree)


def _dtype(x: Any) -> Any:
  return x.dtype if hasattr(x, 'dtype') else jax.dtypes.canonicalize_dtype(type(x))


def describe(apply_fn: ApplyFn, params: Params, inputs: Sequence[Any]) -> Tree:
  """Traces the function on shapes alone and names its leaves."""
  params, inputs = shapes_of(params), shapes_of(tuple(inputs))
  jaxpr, out = jax.make_jaxpr(apply_fn, return_shape=True)(params, *inputs)
  leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
  paths = [_path(p) for p, _ in leaves]
  in_leaves = jax.tree_util.tree_flatten_with_path(inputs)[0]
  many = len(in_leaves) > 1
  names = [p.removeprefix('params/') for p in paths]
  names += [f'input/{_path(p)}' if many else 'input' for p, _ in in_leaves]
  outs, out_treedef = jax.tree_util.tree_flatten_with_path(out)
  state = {}
  for number, (path, leaf) in enumerate(outs):
    for twin, full in enumerate(paths):
      tail = _path(path[-full.count('/') - 1 :])
      if '/' in full and tail == full and leaf.shape == leaves[twin][1].shape:
        state[number] = twin
  collections = isinstance(params, dict) and 'params' in params
  counted = [p.startswith('params/') or not collections for p in paths]
  return Tree(jaxpr, names, len(paths), counted, treedef, params, out_treedef, state)
