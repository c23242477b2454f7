"""StableHLO through `jax.export`: one file that JAX alone runs, for any batch size."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export

from dapt_jax import files
from dapt_jax import graph as graph_lib
from dapt_jax.export import small as small_lib
from dapt_jax.types import Params

_FILES = files.Pair(
  format='dapt_jax.stablehlo',
  version=1,
  what='an exported function',
  suffix='.stablehlo',
  required=('weights', 'platforms', 'architecture'),
  head_suffix='.stablehlo.json',
)
#: Where the weights may be.
WEIGHTS = ('inside', 'arguments')


def save(
  graph: graph_lib.ChannelGraph,
  arch: graph_lib.Architecture,
  params: Params,
  path: str | os.PathLike[str],
  *,
  platforms: Sequence[str] = ('cpu', 'cuda', 'tpu'),
  weights: str = 'inside',
) -> None:
  """Writes `NAME.stablehlo` (what `jax.export` serialises) and `NAME.stablehlo.json` beside it.

  The batch is a symbol: the function of one example is mapped over it. Inference only.

  Args:
    graph: the whole network, traced in evaluation mode; the first axis of all inputs and results
      is the batch.
    arch: the structure.
    params: of the whole network, or of the small one.
    path: where to.
    platforms: what the file shall run on.
    weights: 'inside' the file, or 'arguments': the loaded function takes them first.

  Raises:
    ImportError: without the extra `stablehlo`.
    ValueError: for a bad option, or if an example's result depends on the rest of its batch.
  """
  small_lib.require('flatbuffers', 'stablehlo')
  if weights not in WEIGHTS:
    raise ValueError(f'weights={weights!r}: choose one of {WEIGHTS}')
  small = small_lib.cut(graph, arch, params)
  mapped = _per_example(small)
  _check_independent(graph, small, mapped)
  (batch,) = jax.export.symbolic_shape('batch')
  shapes = small_lib.batched(graph, lambda s, t: jax.ShapeDtypeStruct((batch, *s), t))
  if weights == 'inside':
    arguments = shapes
    function = lambda *inputs: mapped(small.params, *inputs)
  else:
    leaf_shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    arguments, function = (jax.tree.map(leaf_shape, small.params), *shapes), mapped
  exported = jax.export.export(jax.jit(function), platforms=tuple(platforms))(*arguments)
  head = {
    'weights': weights,
    'platforms': list(exported.platforms),
    'inputs': [str(a) for a in jax.tree.leaves(shapes)],
    'outputs': [str(a) for a in exported.out_avals],
    'architecture': arch.fingerprint(),
    'provenance': arch.provenance,
  }
  _FILES.save(path, head, bytes(exported.serialize()))


def load(path: str | os.PathLike[str]) -> Callable[..., Any]:
  """Reads what `save` wrote.

  Returns:
    `function(*inputs)`, or `function(small_params, *inputs)` if the weights are arguments; of any
    batch size.

  Raises:
    ImportError: without the extra `stablehlo`.
    FileNotFoundError: if one of the two files is missing.
    ValueError: for a foreign or damaged file.
  """
  small_lib.require('flatbuffers', 'stablehlo')
  _, data = _FILES.load(path)
  return jax.export.deserialize(bytearray(data)).call


def _per_example(small: small_lib.Small) -> Callable[..., Any]:
  """The small function as a map of its batch-of-one over the batch, whose size may be a symbol."""

  def one(params: Params, *inputs: Any) -> Any:
    out = small.fn(params, *jax.tree.map(lambda x: x[None], inputs))
    return jax.tree.map(lambda y: y.reshape(y.shape[1:]), out)

  def mapped(params: Params, *inputs: Any) -> Any:
    return jax.vmap(lambda *xs: one(params, *xs))(*inputs)

  return mapped


def _check_independent(
  graph: graph_lib.ChannelGraph, small: small_lib.Small, mapped: Callable[..., Any]
) -> None:
  """The map over examples must be the function on the batch: on three of them, before writing."""
  inputs = small_lib.examples(graph, 3)
  wanted = small_lib.run(small.fn, small.params, *inputs)
  for leaf in jax.tree.leaves(wanted):
    if leaf.shape[:1] != (3,):
      raise ValueError(
        f'a batch of 3 gives a result of shape {leaf.shape}: the first axis of every result must '
        'be the batch'
      )
  gap = small_lib.difference(small_lib.run(mapped, small.params, *inputs), wanted)
  if not gap <= small_lib.TOLERANCE:
    raise ValueError(
      'the result of an example depends on the others in its batch '
      f'(relative difference {gap:.1e}), so the function is no map over examples; export the '
      'function that evaluates, with stored statistics'
    )
