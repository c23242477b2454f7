"""ONNX through the extra `onnx`: any batch size, checked in onnxruntime before it is written."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dapt_jax import files
from dapt_jax import graph as graph_lib
from dapt_jax.export import onnx_graph, onnx_rules
from dapt_jax.export import small as small_lib
from dapt_jax.types import Params

#: Version of the operators; of 2022, so that old runtimes read the file too.
OPSET = 18
_IR_VERSION = 8


def save(
  graph: graph_lib.ChannelGraph,
  arch: graph_lib.Architecture,
  params: Params,
  path: str | os.PathLike[str],
) -> None:
  """Writes `NAME.onnx`, weights inside, the first axis of all inputs and results open.

  Before it is written, onnxruntime runs it on a batch of five and is compared.

  Args:
    graph: the whole network, traced in evaluation mode with plain primitives.
    arch: the structure; its fingerprint goes into the file's metadata.
    params: of the whole network, or of the small one.
    path: where to.

  Raises:
    ImportError: without the extra `onnx`.
    ValueError: for a primitive that has no ONNX rule (it is named), a dependence on the batch
      size, or results that differ in onnxruntime.
  """
  onnx, runtime = small_lib.require('onnx', 'onnx'), small_lib.require('onnxruntime', 'onnx')
  small = small_lib.cut(graph, arch, params)
  model = _convert(onnx, graph, arch, small)
  data = model.SerializeToString()
  inputs = small_lib.examples(graph, 5)
  found = _run(runtime, data, dict(zip(_input_names(graph), jax.tree.leaves(inputs))))
  gap = small_lib.difference(found, small_lib.run(small.fn, small.params, *inputs))
  if not gap <= small_lib.TOLERANCE:
    raise ValueError(
      f'onnxruntime computes something else (relative difference {gap:.1e}), nothing is written: '
      "the translation is wrong for this network; save with format='stablehlo' instead"
    )
  path = pathlib.Path(path)
  path = path if path.suffix == '.onnx' else path.with_name(path.name + '.onnx')
  path.parent.mkdir(parents=True, exist_ok=True)
  files.replace([(path, data)], 'an ONNX model')


def _convert(onnx: Any, graph: Any, arch: graph_lib.Architecture, small: small_lib.Small) -> Any:
  """The `onnx.ModelProto` of a small network."""
  shaped = lambda n: small_lib.batched(graph, lambda s, t: jax.ShapeDtypeStruct((n, *s), t))
  programs = onnx_graph.trace(lambda *xs: small.fn(small.params, *xs), shaped)
  names = _input_names(graph)
  writer = onnx_graph.Writer(onnx_rules.RULES, names)
  results = writer.run(programs[0], programs[1], names)
  outputs = [f'output_{i}' if len(results) > 1 else 'output' for i in range(len(results))]
  for result, name in zip(results, outputs):
    writer.nodes.append(('Identity', [writer.name(result)], [name], {}))
  in_shapes, out_shapes = (onnx_graph.shapes(programs, v) for v in ('inputs', 'outputs'))
  describe = lambda values: [programs[0].avals[v].dtype for v in values]
  body = onnx.helper.make_graph(
    [_node(onnx, *n) for n in writer.nodes],
    'dapt_jax',
    _infos(onnx, names, in_shapes, describe(programs[0].inputs)),
    _infos(onnx, outputs, out_shapes, describe(programs[0].outputs)),
    [onnx.numpy_helper.from_array(a, n) for n, a in writer.initializers.items()],
  )
  opset = [onnx.helper.make_opsetid('', OPSET)]
  model = onnx.helper.make_model(
    body, opset_imports=opset, ir_version=_IR_VERSION, producer_name='dapt_jax'
  )
  about = {'architecture': arch.fingerprint(), 'costs': json.dumps(arch.costs)}
  onnx.helper.set_model_props(model, about)
  onnx.checker.check_model(model, full_check=True)
  return model


def _run(runtime: Any, data: bytes, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
  try:
    session = runtime.InferenceSession(data, providers=['CPUExecutionProvider'])
    return session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})
  except Exception as error:  # its exceptions share no other base
    raise ValueError(
      f'onnxruntime does not run this network, nothing is written: {error}; convert the parameters '
      "to float32, or save with format='stablehlo' instead"
    ) from error


def _node(onnx: Any, operator: str, ins: list[str], outs: list[str], attributes: Any) -> Any:
  plain = {
    k: onnx.helper.np_dtype_to_tensor_dtype(v) if isinstance(v, np.dtype) else v
    for k, v in attributes.items()
  }
  return onnx.helper.make_node(operator, ins, outs, **plain)


def _infos(
  onnx: Any, names: Sequence[str], shapes: Sequence[onnx_graph.Shape], dtypes: Sequence[Any]
) -> list[Any]:
  """Names, types and shapes at the rim of the graph; the batch has a name of its own there."""
  sizes = [[n if n >= 0 else 'batch' if n == -1 else f'{-n}batch' for n in s] for s in shapes]
  kind = onnx.helper.np_dtype_to_tensor_dtype
  return [
    onnx.helper.make_tensor_value_info(name, kind(np.dtype(t)), s)
    for name, t, s in zip(names, dtypes, sizes)
  ]


def _input_names(graph: graph_lib.ChannelGraph) -> list[str]:
  return [n.replace('/', '_') for n in graph.tree.names[graph.tree.num_params :]]
