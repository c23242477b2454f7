"""How much every gate matters by the classical criteria: by what writes it, or by the loss.

Every function gives `{group: f64[width]}`, none below 0, larger for gates that matter more. Groups
that a criterion has nothing to say about are left out.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import distance

from dapt_jax.graph import ChannelGraph, groups
from dapt_jax.pruning.losses import LossFn
from dapt_jax.types import Gates, Params, PRNGKey

Saliency = dict[str, np.ndarray]

#: Random directions a batch that the diagonal of the Hessian is estimated from.
PROBES = 16
#: Operations that leave the entries of a parameter as they are.
_SHAPES = {'broadcast_in_dim', 'convert_element_type', 'copy', 'reshape', 'squeeze', 'transpose'}


def magnitude(graph: ChannelGraph, params: Params, order: int) -> Saliency:
  """L1 or L2 norm of all slices that write a gate (Li et al., 2017; Han et al., 2015, for links).

  A residual stream has several writers, and a slice of each counts. An input has none: there the
  slices that read it count. A branch has the norm of the parameters that carry its gate, a link its
  absolute value.

  Args:
    graph: from `dapt.trace`.
    params: weights of the network.
    order: 1 or 2.
  """
  leaves = _leaves(graph, params)

  @functools.cache
  def slices(leaf: int, axis: int) -> np.ndarray:
    """The sum over every slice, f64[size of the axis]."""
    others = tuple(i for i in range(leaves[leaf].ndim) if i != axis)
    return _power(leaves[leaf], order).sum(others, dtype=np.float64)

  out = {}
  for name, group in graph.gated_groups.items():
    powers = np.zeros(group.width)
    if group.carriers:
      flat = np.concatenate([np.ravel(leaves[i]) for i in group.carriers])
      entries = _power(flat, order)
      powers += entries if group.kind == 'link' else entries.sum(dtype=np.float64)
    for piece in _filters(group):
      np.add.at(powers, piece.index, slices(piece.leaf, piece.axis)[piece.positions])
    out[name] = powers ** (1.0 / order)
  return out


def bn_scale(graph: ChannelGraph, params: Params) -> Saliency:
  """|scale| of the normalisations along a group (network slimming; Liu et al., 2017).

  A scale is a vector along the group that multiplies before anything else happens to it; scales of
  several writers add up. A branch has the mean over the scales among its carriers. Groups with a
  gate that no scale belongs to are left out.
  """
  leaves = _leaves(graph, params)
  scales = {i for i, counts in enumerate(graph.tree.counted) if counts and _multiplies(graph, i)}
  out = {}
  for name, group in graph.gated_groups.items():
    total, seen = np.zeros(group.width), np.zeros(group.width, bool)
    if group.kind == 'branch':
      mine = [np.abs(leaves[i]).mean() for i in group.carriers if i in scales]
      total, seen = np.full(1, np.mean(mine or [0.0])), np.array([bool(mine)])
    for piece in group.touching('along'):
      if piece.leaf in scales:
        np.add.at(total, piece.index, np.abs(np.ravel(leaves[piece.leaf]))[piece.positions])
        seen[piece.index] = True
    if seen.all():
      out[name] = total
  return out


def _multiplies(graph: ChannelGraph, leaf: int) -> bool:
  """Whether a parameter is a vector that enters products only, such as the scale of a BatchNorm."""
  program = graph.program
  mine = {program.inputs[leaf]}
  shape = program.shape(program.inputs[leaf])
  used = set()
  for node in program.nodes:
    if mine.isdisjoint(node.ins):
      continue
    if node.name in _SHAPES:
      mine.update(node.outs)
    else:
      used.add(node.name)
  is_vector = len(shape) > 0 and max(shape) == np.prod(shape)
  return bool(is_vector) and used == {'mul'}


def fpgm(graph: ChannelGraph, params: Params, alive: Mapping[str, np.ndarray]) -> Saliency:
  """Distance to the other filters of the group, summed over them (FPGM; He et al., 2019).

  Small sums belong to the filters nearest to the geometric median, those that the others can
  replace; this is the form in which the paper finds them. With several writers the sums of all
  writers add up. Branches and links have no filters to compare and are left out.

  Args:
    graph: from `dapt.trace`.
    params: weights of the network.
    alive: `{group: bool[width]}`; filters that are cut are no others to compare with.
  """
  leaves = _leaves(graph, params)
  out = {}
  for name, group in graph.gated_groups.items():
    if group.carriers:
      continue
    out[name] = np.zeros(group.width)
    for piece in _filters(group):
      array = np.moveaxis(leaves[piece.leaf], piece.axis, 0)
      rows = array.reshape(len(array), -1)[piece.positions]
      others = rows[alive[name][piece.index]]
      np.add.at(out[name], piece.index, distance.cdist(rows, others).sum(1))
  return out


def taylor(
  graph: ChannelGraph, params: Params, loss_fn: LossFn, batches: Sequence[Any]
) -> Saliency:
  """Mean squared derivative of the loss by the gate, at 1 (Molchanov et al., 2019).

  The gate multiplies the channel after normalisation and non-linearity, so the derivative is the
  first-order change of the loss when the channel goes. It is also the sum of weight times gradient
  over the slices that read the channel. The mean is over batches, of the square of each.
  """
  gradient = jax.jit(lambda p, gates, batch: jax.grad(_of_gates(graph, loss_fn, p))(gates, batch))
  total = {n: np.zeros(g.width) for n, g in graph.gated_groups.items()}
  for batch in batches:
    for name, slope in gradient(params, _open(graph), batch).items():
      total[name] += np.asarray(slope, np.float64) ** 2 / len(batches)
  return total


def hessian(
  graph: ChannelGraph,
  params: Params,
  loss_fn: LossFn,
  batches: Sequence[Any],
  key: PRNGKey,
) -> Saliency:
  """Half the second derivative of the loss by the gate, at 1 (OBD; LeCun et al., 1990).

  This is the second-order change of the loss when the channel goes, the first-order one taken for
  zero as at a minimum. The diagonal is Hutchinson's estimate (Bekas et al., 2007), the mean of
  v * Hv over `PROBES` random signs v a batch, which is unbiased; H is the full Hessian, no Fisher
  matrix in its place. Estimates below 0 count as 0.
  """

  @jax.jit
  def probe(params: Params, gates: Gates, batch: Any, key: PRNGKey) -> Gates:
    signs = {
      n: jax.random.rademacher(jax.random.fold_in(key, i), g.shape, g.dtype)
      for i, (n, g) in enumerate(gates.items())
    }
    slope = lambda a: jax.grad(_of_gates(graph, loss_fn, params))(a, batch)
    curved = jax.jvp(slope, (gates,), (signs,))[1]
    return jax.tree.map(jnp.multiply, signs, curved)

  total = {n: np.zeros(g.width) for n, g in graph.gated_groups.items()}
  count = len(batches) * PROBES
  for number in range(count):
    own = jax.random.fold_in(key, number)
    seen = probe(params, _open(graph), batches[number // PROBES], own)
    for name, curvature in seen.items():
      total[name] += np.asarray(curvature, np.float64) / count
  return {n: np.maximum(0.5 * t, 0.0) for n, t in total.items()}


def random(graph: ChannelGraph, key: PRNGKey) -> Saliency:
  """Uniform random numbers in [0, 1)."""
  numbers = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  return {n: numbers.random(g.width) for n, g in graph.gated_groups.items()}


def _of_gates(graph: ChannelGraph, loss_fn: LossFn, params: Params):
  return lambda gates, batch: loss_fn(graph.apply_gates(params, gates), batch)


def _open(graph: ChannelGraph) -> Gates:
  return {n: jnp.ones(g.width, jnp.float32) for n, g in graph.gated_groups.items()}


def _leaves(graph: ChannelGraph, params: Params) -> list[np.ndarray]:
  """The parameters in single precision or better, as they are stored where they have it."""
  arrays = [np.asarray(leaf) for leaf in graph.tree.flatten_whole(params)]
  return [a.astype(np.promote_types(a.dtype, np.float32), copy=False) for a in arrays]


def _power(array: np.ndarray, order: int) -> np.ndarray:
  """|entry|^order, for order 1 or 2."""
  return np.abs(array) if order == 1 else np.square(array)


def _filters(group: groups.Group) -> list[groups.Slices]:
  """The filters of a group: the slices of every writer, or of every reader where none writes."""
  return group.touching('write') or group.touching('read')
