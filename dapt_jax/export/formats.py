"""`save`: one call for every format."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from dapt_jax import graph as graph_lib
from dapt_jax.export import network, onnx, stablehlo
from dapt_jax.types import Params

_SAVERS: dict[str, Callable[..., None]] = {
  'safetensors': network.save,
  'stablehlo': stablehlo.save,
  'onnx': onnx.save,
}
#: What `save` writes.
FORMATS = tuple(_SAVERS)
#: Rebuilds a network saved as 'safetensors'.
load = network.load
#: Reads a function saved as 'stablehlo'.
load_stablehlo = stablehlo.load


def save(
  graph: graph_lib.ChannelGraph,
  arch: graph_lib.Architecture,
  params: Params,
  path: str | os.PathLike[str],
  *,
  format: str = 'safetensors',
  **options: Any,
) -> None:
  """Writes the network that `arch` cuts out of `graph`.

  Args:
    graph: the whole network, traced in evaluation mode.
    arch: the structure.
    params: of the whole network, to be cut; or of the small one, as they are (retrained, say).
    path: where to, with or without a suffix.
    format: 'safetensors' (weights and a spec, for `load`), 'stablehlo' (a compiled function, for
      `load_stablehlo`) or 'onnx' (for onnxruntime and others).
    **options: of the format: `model` of 'safetensors'; `platforms`, `weights` of 'stablehlo'.

  Raises:
    ValueError: for an unknown format, or a network that the format cannot hold.
  """
  if format not in _SAVERS:
    raise ValueError(f'format={format!r}: choose one of {FORMATS}')
  _SAVERS[format](graph, arch, params, path, **options)
