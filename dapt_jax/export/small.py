"""What every format starts from: the small function, its parameters, examples of its inputs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from dapt_jax import graph as graph_lib
from dapt_jax.types import ApplyFn, Params

#: Largest relative difference between the small function and what is written or made of it.
TOLERANCE = 1e-4


class Small(NamedTuple):
  """A network that was cut out.

  Attributes:
    fn: `fn(params, *inputs)`.
    params: its parameters; None where a branch was cut.
  """

  fn: ApplyFn
  params: Params


def cut(graph: graph_lib.ChannelGraph, arch: graph_lib.Architecture, params: Params) -> Small:
  """The small network, for inference.

  Args:
    graph: the network that was traced, in evaluation mode.
    arch: the structure.
    params: of the whole network, to be cut; or of the small one, as they are.

  Returns:
    The small network.

  Raises:
    ValueError: if the function hands back new state, or the parameters fit neither network.
  """
  if graph.tree.state_outputs:
    raise ValueError(
      'the traced function hands back new state (it runs in training mode); trace and export '
      'the function that evaluates'
    )
  fn, wanted = graph.shrink(arch, graph.tree.param_shapes)
  names = graph.tree.names[: graph.tree.num_params]
  found = [_shape(x) for x in graph.tree.flatten(params)]
  if found == [_shape(x) for x in jax.tree.leaves(graph.tree.param_shapes)]:
    return Small(*graph.shrink(arch, params))
  small = [_shape(x) for x in graph.tree.flatten(wanted)]
  for name, a, b in zip(names, found, small):
    if a != b:
      raise ValueError(
        f'params leaf {name!r} has shape {a}; the small network has {b}; pass the parameters of '
        'the whole network, or those that shrink returned for this architecture'
      )
  return Small(fn, params)


def _shape(leaf: Any) -> tuple[int, ...] | None:
  return None if leaf is None else tuple(np.shape(leaf))


def leaf_names(params: Params) -> list[str]:
  """Path of every leaf ('params/stem/conv/kernel'), in the order of `jax.tree.leaves`.

  Raises:
    ValueError: if two leaves have the same path.
  """
  flat = jax.tree_util.tree_flatten_with_path(params)[0]
  names = [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in flat]
  double = sorted({n for n in names if names.count(n) > 1})
  if double:
    raise ValueError(f'several parameters have the path {double}: rename them')
  return names


def batched(graph: graph_lib.ChannelGraph, make: Callable[[tuple[int, ...], Any], Any]) -> Any:
  """The tuple of inputs, every leaf made by `make(shape of one example, dtype)`.

  Raises:
    ValueError: if an input has no axis.
  """
  leaves, treedef = jax.tree.flatten(graph.tree.input_shapes)
  for name, leaf in zip(graph.tree.names[graph.tree.num_params :], leaves):
    if not leaf.shape:
      raise ValueError(
        f'{name!r} is a scalar: every input must have the batch as its first axis; close over '
        'what is not an example before tracing'
      )
  return jax.tree.unflatten(treedef, [make(x.shape[1:], x.dtype) for x in leaves])


def examples(graph: graph_lib.ChannelGraph, batch: int) -> Any:
  """Inputs to compare functions on: normal numbers, and zeros and ones where they are integers."""
  rng = np.random.default_rng(batch)

  def draw(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    exact = not jax.numpy.issubdtype(dtype, np.inexact)
    full = (batch, *shape)
    return (rng.integers(0, 2, full) if exact else rng.normal(size=full)).astype(dtype)

  return batched(graph, draw)


def require(package: str, extra: str) -> Any:
  """Imports a package that an extra brings.

  Raises:
    ImportError: saying how to install it.
  """
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise ImportError(
      f"this export needs the package {package!r}: pip install 'dapt_jax[{extra}]'"
    ) from error


def run(fn: Callable[..., Any], *args: Any) -> Any:
  """`fn(*args)`, once: compiled quickly, to run slowly."""
  return jax.jit(fn, compiler_options={'xla_backend_optimization_level': 0})(*args)


def difference(found: Any, wanted: Any) -> float:
  """Largest difference between two results, relative to the largest entry of each leaf (or 1).

  Infinite where shapes or the places of NaNs differ.
  """
  a, b = jax.tree.leaves(found), jax.tree.leaves(wanted)
  if len(a) != len(b) or any(np.shape(x) != np.shape(y) for x, y in zip(a, b)):
    return float('inf')
  worst = 0.0
  for x, y in zip(a, b):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    gap = np.where(same, 0.0, np.abs(x - y))
    gap = np.where(np.isnan(gap), np.inf, gap)
    scale = max(1.0, np.abs(y[np.isfinite(y)]).max(initial=0.0))
    worst = max(worst, float(gap.max(initial=0.0) / scale))
  return worst
