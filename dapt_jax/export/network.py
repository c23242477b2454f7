"""safetensors and a JSON spec from which the small network is rebuilt; no code in the files."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax

from dapt_jax import files
from dapt_jax import graph as graph_lib
from dapt_jax.export import small as small_lib
from dapt_jax.models import model as models
from dapt_jax.types import ApplyFn, Params

_FILES = files.Pair(
  format='dapt_jax.network',
  version=1,
  what='a saved network',
  suffix='.safetensors',
  required=('model', 'levels', 'inputs', 'cut', 'architecture'),
)


def save(
  graph: graph_lib.ChannelGraph,
  arch: graph_lib.Architecture,
  params: Params,
  path: str | os.PathLike[str],
  *,
  model: models.Model | None = None,
) -> None:
  """Writes the weights of the small network (`NAME.safetensors`) and a spec (`NAME.json`).

  Args:
    graph: the whole network, traced in evaluation mode.
    arch: the structure; it becomes part of the spec.
    params: of the whole network, or of the small one.
    path: where to.
    model: the reference model that was traced; `load` then needs the path alone.

  Raises:
    ValueError: if `model` is not what was traced, or the parameters do not fit or have a type
      that safetensors does not hold.
  """
  small = small_lib.cut(graph, arch, params)
  names = small_lib.leaf_names(graph.tree.param_shapes)
  leaves = dict(zip(names, graph.tree.flatten(small.params)))
  head = {
    'model': None if model is None else model.spec,
    'levels': graph.levels,
    'inputs': [_spec(x) for x in jax.tree.leaves(graph.tree.input_shapes)],
    'cut': [n for n, leaf in leaves.items() if leaf is None],
    'architecture': dataclasses.asdict(arch),
  }
  if model is not None:
    _check_model(head, graph, arch, small)
  data = {n: jnp.asarray(leaf) for n, leaf in leaves.items() if leaf is not None}
  payload = safetensors.flax.save(data)
  _decode(payload)  # a type that cannot be read back is refused now, not when it is needed
  _FILES.save(path, head, payload)


def load(
  path: str | os.PathLike[str], graph: graph_lib.ChannelGraph | None = None
) -> tuple[ApplyFn, Params]:
  """Rebuilds the small network.

  Args:
    path: what `save` was given.
    graph: the whole network, traced as it was for `save` (on shapes: no weights needed). None
      rebuilds the reference model that the spec names.

  Returns:
    (small function, small parameters), as `graph.shrink` returned them.

  Raises:
    FileNotFoundError: if one of the two files is missing.
    ValueError: for a foreign or damaged file, or a graph of another network.
  """
  head, data = _FILES.load(path)
  file, _ = _FILES.paths(path)
  if graph is None:
    if head['model'] is None:
      raise ValueError(
        f'{file} does not say which function it is the weights of; trace that function again and '
        'pass the graph'
      )
    graph = _retrace(head)
  fn, shapes = graph.shrink(_architecture(head, file), graph.tree.param_shapes)
  arrays = _decode(data)
  names = small_lib.leaf_names(graph.tree.param_shapes)
  leaves = []
  for name, wanted in zip(names, graph.tree.flatten(shapes)):
    array = arrays.get(name)
    if (array is None) != (name in head['cut']) or (array is None) != (wanted is None):
      raise ValueError(f'{file} and the network disagree about {name!r}: {_other_network(file)}')
    if array is not None and array.shape != wanted.shape:
      raise ValueError(
        f'{file}: {name!r} has shape {array.shape}, the network {wanted.shape}: '
        + _other_network(file)
      )
    leaves.append(array)
  if set(arrays) - set(names):
    raise ValueError(
      f'{file}: the network has no {sorted(set(arrays) - set(names))}: {_other_network(file)}'
    )
  return fn, jax.tree.unflatten(graph.tree.param_treedef, leaves)


def _decode(data: bytes) -> dict[str, jax.Array]:
  """The arrays of a safetensors file; its own reader for NumPy and JAX refuses bfloat16."""
  types = {'BOOL': np.dtype(bool), 'BF16': jnp.dtype(jnp.bfloat16)}
  types |= {f'{kind}{8 * n}': np.dtype(f'{kind}{n}'.lower()) for kind in 'IU' for n in (1, 2, 4, 8)}
  types |= {f'F{8 * n}': np.dtype(f'f{n}') for n in (2, 4, 8)}
  out = {}
  for name, view in safetensors.deserialize(data):
    if view['dtype'] not in types:
      raise ValueError(f'{name!r} has the type {view["dtype"]}: convert it to one of {list(types)}')
    array = np.frombuffer(view['data'], types[view['dtype']]).reshape(view['shape'])
    out[name] = jnp.array(array)
  return out


def _other_network(file: Any) -> str:
  return f'pass a graph of the network that {file.name} was saved from'


def _architecture(head: dict[str, Any], file: Any) -> graph_lib.Architecture:
  try:
    entries = dict(head['architecture'])
    kept = {n: np.asarray(k, np.int32) for n, k in entries.pop('kept').items()}
    return graph_lib.Architecture(kept, **entries)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{file} is damaged: its architecture is not valid ({error})') from error


def _spec(leaf: Any) -> dict[str, Any]:
  return {'shape': list(leaf.shape), 'dtype': str(leaf.dtype)}


def _retrace(head: dict[str, Any]) -> graph_lib.ChannelGraph:
  """The graph of the reference model that a head names."""
  spec = head['model']
  options = {'input_shape': spec['input_shape'], 'num_classes': spec['num_classes']}
  made = models.create(spec['name'], lowering='lax', **options, **spec['config'])
  shapes = jax.eval_shape(made.init, jax.random.key(0))
  inputs = [jax.ShapeDtypeStruct(tuple(x['shape']), x['dtype']) for x in head['inputs']]
  return graph_lib.trace(made.apply, shapes, *inputs, levels=head['levels'])


def _check_model(
  head: dict[str, Any],
  graph: graph_lib.ChannelGraph,
  arch: graph_lib.Architecture,
  small: small_lib.Small,
) -> None:
  """What `load` will rebuild must be what was traced: compared on two examples, before writing."""
  remedy = 'pass the model whose `apply` was traced (traced with lowering="lax"), or no model'
  try:
    again = _retrace(head)
    fn, _ = again.shrink(arch, again.tree.param_shapes)
    inputs = small_lib.examples(graph, 2)
    found = small_lib.run(fn, small.params, *inputs)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'model={head["model"]["name"]!r} is not the network that was traced ({error}); {remedy}'
    ) from error
  gap = small_lib.difference(found, small_lib.run(small.fn, small.params, *inputs))
  if not gap <= small_lib.TOLERANCE:
    raise ValueError(
      f'model={head["model"]["name"]!r} computes something else than the function that was traced '
      f'(relative difference {gap:.1e}); {remedy}'
    )
