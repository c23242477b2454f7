"""The pytree side of a traced function: flat arguments, their names, state among the results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.graph import checks
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
    input_shapes: the inputs as a tuple of such trees.
    out_treedef: structure of the result.
    state_outputs: flat result number -> parameter leaf it is the new value of.
  """

  jaxpr: Any
  names: list[str]
  num_params: int
  counted: list[bool]
  param_treedef: Any
  param_shapes: Params
  input_shapes: Any
  out_treedef: Any
  state_outputs: dict[int, int]

  def flatten(self, params: Params, what: str = 'params') -> list[Any]:
    """The leaves of parameters of the traced structure; None where a branch was cut.

    Raises:
      ValueError: for another structure.
    """
    try:
      return list(self.param_treedef.flatten_up_to(params))
    except ValueError as error:
      raise ValueError(
        f'{what} has another structure than the one traced: {error}; pass the parameters of the '
        'function that was traced (or, to a shrunk function, those that shrink returned)'
      ) from error

  def flatten_whole(self, params: Params) -> list[Any]:
    """The leaves of parameters of the whole network.

    Raises:
      ValueError: for another structure or shape.
    """
    leaves = self.flatten(params)
    for name, leaf, shape in zip(self.names, leaves, jax.tree.leaves(self.param_shapes)):
      checks.leaf(leaf, f'params leaf {name!r}')
      if _is_real(shape) and not _is_real(leaf):
        raise TypeError(
          f'params leaf {name!r} has dtype {_dtype(leaf)}, traced was {shape.dtype}: gates between '
          '0 and 1 would be lost; convert it first'
        )
      if jnp.shape(leaf) != shape.shape:
        raise ValueError(
          f'params leaf {name!r} has shape {jnp.shape(leaf)}, traced was {shape.shape}; '
          'pass the parameters of the function that was traced'
        )
    return leaves


def _path(path: Sequence[Any]) -> str:
  return jax.tree_util.keystr(tuple(path), simple=True, separator='/')


def _is_real(leaf: Any) -> bool:
  dtype = _dtype(leaf)
  return dtype == np.float32 or jnp.issubdtype(dtype, jnp.inexact)


def shapes_of(tree: Any, what: str = 'inputs') -> Any:
  """The tree with `jax.ShapeDtypeStruct` leaves.

  Raises:
    TypeError: for a leaf that is neither a number nor a numeric array.
  """
  if not all(map(checks.is_leaf, jax.tree.leaves(tree))):
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
      checks.leaf(x, f'{what} leaf {_path(path)!r}')
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), _dtype(x)), tree)


def signature(shapes: Any) -> Any:
  """What two trees of shapes have in common if a program traced on one fits the other."""
  leaves, treedef = jax.tree.flatten(shapes)
  return treedef, tuple((x.shape, x.dtype) for x in leaves)


def _dtype(x: Any) -> Any:
  return x.dtype if hasattr(x, 'dtype') else jax.dtypes.canonicalize_dtype(type(x))


def describe(apply_fn: ApplyFn, params: Params, inputs: Sequence[Any]) -> Tree:
  """Traces the function on shapes alone and names its leaves."""
  if not callable(apply_fn):
    raise TypeError(f'apply_fn is {checks.kind_of(apply_fn)}; pass a function of (params, *inputs)')
  params, inputs = shapes_of(params, 'params'), shapes_of(tuple(inputs))
  try:
    jaxpr, out = jax.make_jaxpr(apply_fn, return_shape=True)(params, *inputs)
  except Exception as error:
    shown = jax.tree.map(lambda s: f'{s.dtype}{list(s.shape)}', inputs)
    raise TypeError(
      f'apply_fn cannot be traced on inputs {shown}: {type(error).__name__}: {error}; pass params '
      'and inputs of the structure and shapes that it expects, and let it return arrays'
    ) from error
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
      tail = path[len(path) - full.count('/') - 1 :]
      # Numbers alone ('0/1') say nothing: two tuples match by chance.
      named = any(not isinstance(k, jax.tree_util.SequenceKey) for k in tail)
      same = named and _path(tail) == full and leaf.shape == leaves[twin][1].shape
      if same and '/' in full:
        state[number] = twin
  collections = isinstance(params, dict) and 'params' in params
  counted = [p.startswith('params/') or not collections for p in paths]
  return Tree(jaxpr, names, len(paths), counted, treedef, params, inputs, out_treedef, state)
