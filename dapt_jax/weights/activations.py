"""The activations of every channel group, where the network reads them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.graph import ChannelGraph, replay
from dapt_jax.types import Params
from dapt_jax.weights import symmetry as symmetry_lib

#: `{group: [f32[samples, width], ...]}`, one array per value that is read; see `reader`.
Activations = dict[str, list[jax.Array]]


class _Site(NamedTuple):
  """A value of the program that is read, and gates of one group along an axis of it."""

  group: str
  value: int
  axis: int
  positions: np.ndarray  # i64[k, count]
  gates: np.ndarray  # i64[k]
  averaged: tuple[int, ...]  # axes that other permutations move


def reader(symmetry: symmetry_lib.Symmetry, *inputs: Any) -> Callable[[Params], Activations]:
  """A compiled function that evaluates a network and returns what its layers read.

  A value is read where a contraction (a matrix product, a convolution, a loop) sums over its
  channels: after normalisation and non-linearity, whatever they are.

  Args:
    symmetry: from `symmetry.find`.
    *inputs: of the function; any batch size.

  Returns:
    `read(params) -> {group: arrays}`: every array is f32[samples, width], samples being all other
    axes of the value, but for axes of other groups that can be permuted (the heads of attention
    for the features of a head): these are averaged over. Where a layer shows only some of the
    gates, the other columns are zero. Groups that are read inside loops only are missing.
  """
  graph = symmetry.graph
  here = graph.at(inputs)
  sites = list(_sites(here, symmetry.groups))
  values = list(dict.fromkeys(s.value for s in sites))
  cut = replay.Cut(here.analysis, np.zeros(here.analysis.space.size, bool))
  flat_inputs = jax.tree.leaves(inputs)

  @jax.jit
  def evaluate(leaves: list[Any], flat_inputs: list[Any]) -> Activations:
    found = dict(zip(values, cut.run([*leaves, *flat_inputs], values)))
    out: Activations = {}
    for site in sites:
      width = here.groups[site.group].width
      out.setdefault(site.group, []).append(_columns(found[site.value], site, width))
    return out

  return lambda params: evaluate(graph.tree.flatten_whole(params), flat_inputs)


def _columns(value: jax.Array, site: _Site, width: int) -> jax.Array:
  """f32[samples, width] of one site."""
  value = value.mean(axis=site.averaged, keepdims=True) if site.averaged else value
  taken = jnp.moveaxis(value.take(site.positions.reshape(-1), axis=site.axis), site.axis, 0)
  shown = taken.reshape(len(site.gates), -1).T.astype(jnp.float32)
  return jnp.zeros((len(shown), width), jnp.float32).at[:, site.gates].set(shown)


def _sites(graph: ChannelGraph, permuted: Collection[str]) -> Iterator[_Site]:
  """Where activations of these groups go into a contraction; every value once."""
  axes, split = graph.analysis.axes, graph.members.split
  seen: set[tuple[str, int]] = set()
  for node in graph.program.nodes:
    outs = [label for v in node.outs for label in axes.get(v, ())]
    stays = {name for label in outs for name, _, _ in split(label)}
    operands = node.ins if len(node.ins) > 1 else []
    for value in filter(graph.analysis.depends_on_input, operands):
      found = [[p for p in split(label) if p[0] in permuted] for label in axes[value]]
      for axis, parts in enumerate(found):
        others = tuple(a for a, p in enumerate(found) if p and a != axis)
        for name, positions, gates in parts:
          if name not in stays and (name, value) not in seen:
            seen.add((name, value))
            for square, chosen in _by_count(positions, gates):
              yield _Site(name, value, axis, square, chosen, others)


def _by_count(positions: np.ndarray, gates: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(positions i64[k, count], gates i64[k]) of gates with one position, with two, and so on."""
  counts = np.bincount(gates)
  for count in np.unique(counts[counts > 0]):
    chosen = np.flatnonzero(counts == count)
    shown = np.isin(gates, chosen)
    order = np.lexsort((positions[shown], gates[shown]))
    yield positions[shown][order].reshape(-1, count), chosen
