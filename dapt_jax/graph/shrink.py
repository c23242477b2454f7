"""`shrink`: an ordinary smaller function with ordinary smaller parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.graph import architecture, checks, replay
from dapt_jax.graph import program as program_lib
from dapt_jax.graph import tree as tree_lib
from dapt_jax.types import ApplyFn, Params

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph


def shrink(
  graph: ChannelGraph,
  arch: architecture.Architecture,
  params: Params,
  *,
  rescale: bool = False,
  overrides: replay.Overrides | None = None,
) -> tuple[ApplyFn, Params]:
  """Cuts an architecture out of a network.

  Args:
    graph: from `trace`.
    arch: from `graph.decide`, or loaded.
    params: parameters of the whole network (or `jax.ShapeDtypeStruct`s: shapes are cut then).
    rescale: multiply cut kernels by sqrt(fan-in before / after), so that freshly drawn weights of
      the whole network become freshly drawn weights of the small one.
    overrides: {primitive name: function(*args, **params)} evaluated instead of the primitive, e.g.
      another lowering of the convolution.

  Returns:
    (function, params): `function(params, *inputs)` takes the inputs of the whole network, of any
    batch size. Parameters of branches that were cut are None. masked == shrunk: it equals the
    whole function on `apply_gates(params, arch.gates())` up to rounding.

  Raises:
    ValueError: if the architecture was made for another graph or `params` has another structure.
    TypeError: for an argument of another type.
  """
  checks.instance(arch, architecture.Architecture, 'arch', 'pass what graph.decide returns')
  checks.instance(rescale, (bool, np.bool_), 'rescale', 'it must be True or False')
  _check_overrides(overrides)
  plan = _Plan(graph, arch, overrides)
  small = plan.slice(params, rescale)
  plans = {tree_lib.signature(graph.tree.input_shapes): plan}

  def function(small_params: Params, *inputs: Any) -> Any:
    shapes = tree_lib.shapes_of(inputs)
    key = tree_lib.signature(shapes)
    if key not in plans:
      plans[key] = _Plan(graph.at(shapes), arch, overrides)
    return plans[key](small_params, jax.tree.leaves(inputs))

  return function, small


def _check_overrides(overrides: replay.Overrides | None) -> None:
  rule = 'it must be {primitive name: function}'
  checks.instance(overrides or {}, Mapping, 'overrides', rule)
  for name, function in (overrides or {}).items():
    checks.instance(name, str, 'a name in overrides', rule)
    if not callable(function):
      raise TypeError(f'overrides[{name!r}] is {checks.kind_of(function)}; {rule}')


def _to_device(leaves: list[Any]) -> list[Any]:
  """The list with its NumPy arrays as JAX arrays, sent in one go."""
  here = [i for i, x in enumerate(leaves) if isinstance(x, (np.ndarray, np.generic))]
  sent = jax.device_put([leaves[i] for i in here])
  out = list(leaves)
  for i, x in zip(here, sent):
    out[i] = x
  return out


class _Plan:
  """What stays, for one set of input shapes."""

  def __init__(
    self,
    graph: ChannelGraph,
    arch: architecture.Architecture,
    overrides: replay.Overrides | None,
  ) -> None:
    arch.check(graph)
    self.graph = graph
    program, tree = graph.program, graph.tree
    gates = arch.masks()
    self.links = {
      graph.groups[n].carriers[0]: g for n, g in gates.items() if graph.groups[n].kind == 'link'
    }
    dead = graph.members.dead(gates)
    edges = frozenset(
      (b.node, b.operand) for b in graph.branches if b.group in gates and gates[b.group][0] == 0
    )
    self.cut = replay.Cut(graph.analysis, dead, edges, overrides)
    main = [v for i, v in enumerate(program.outputs) if i not in tree.state_outputs]
    whole = program_lib.needed(program, main)
    gone = whole - self.cut.needed(main)
    # New state goes when what the results would use on the way to it has gone.
    gone_states = {
      i
      for i in tree.state_outputs
      if program_lib.nearest(program, program.outputs[i], whole) & gone
    }
    self.dropped = {leaf for leaf in range(tree.num_params) if program.inputs[leaf] in gone}
    self.dropped |= {tree.state_outputs[i] for i in gone_states}
    self.results = [None if i in gone_states else v for i, v in enumerate(program.outputs)]

  def slice(self, params: Params, rescale: bool) -> Params:
    """The parameters that stay, cut."""
    tree = self.graph.tree
    out = [
      None if leaf in self.dropped else self._slice_leaf(leaf, array, rescale)
      for leaf, array in enumerate(tree.flatten_whole(params))
    ]
    return jax.tree.unflatten(tree.param_treedef, _to_device(out))

  def _slice_leaf(self, leaf: int, array: Any, rescale: bool) -> Any:
    value = self.graph.program.inputs[leaf]
    if isinstance(array, jax.ShapeDtypeStruct):
      return jax.ShapeDtypeStruct(self.cut.sizes(value), array.dtype)
    # Concrete arrays are cut on the host: a compiled take per shape would cost seconds.
    concrete = array if isinstance(array, jax.core.Tracer) else np.asarray(array)
    out = self.cut.take(value, concrete)
    if out is concrete and isinstance(out, np.ndarray):
      out = out.copy()  # what is sent to a CPU device shares the host's memory
    if leaf in self.links:
      out = out * self._link_mask(leaf).astype(out.dtype)
    if rescale:
      for axis in range(out.ndim):
        if (value, axis) in self.graph.analysis.record.reads and out.shape[axis]:
          out = out * np.sqrt(array.shape[axis] / out.shape[axis]).astype(out.dtype)
    return out

  def _link_mask(self, leaf: int) -> Any:
    value = self.graph.program.inputs[leaf]
    mask = self.links[leaf].reshape(self.graph.program.shape(value))
    return self.cut.take(value, mask)

  def _check_shapes(self, leaves: list[Any]) -> None:
    for leaf, array in enumerate(leaves):
      wanted = self.cut.sizes(self.graph.program.inputs[leaf])
      if leaf not in self.dropped and checks.shape(array) != wanted:
        found = checks.shape(array) or checks.kind_of(array)
        raise ValueError(
          f'small_params leaf {self.graph.tree.names[leaf]!r} has shape {found}, the cut network '
          f'has {wanted}; pass the parameters that shrink returned'
        )

  def __call__(self, small_params: Params, inputs: list[Any]) -> Any:
    tree, program = self.graph.tree, self.graph.program
    leaves = tree.flatten(small_params, 'small_params')
    self._check_shapes(leaves)
    for leaf in self.links:
      if leaves[leaf] is not None:
        leaves[leaf] = leaves[leaf] * self._link_mask(leaf).astype(leaves[leaf].dtype)
    values = program.inputs[tree.num_params :]
    cut_inputs = [self.cut.take(v, jnp.asarray(x)) for v, x in zip(values, inputs)]
    wanted = [v for v in self.results if v is not None]
    outs = iter(self.cut.run([*leaves, *cut_inputs], wanted))
    flat = [None if v is None else next(outs) for v in self.results]
    return jax.tree.unflatten(tree.out_treedef, flat)
