"""Times the layers of a graph on the device at hand, and fits how they add up to a network."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy import optimize

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import (
  cost,
  cost_terms,
  latency,
  liveness,
  replay,
  rules,
  selection,
  stopwatch,
  timings,
)
from dapt_jax.graph import program as program_lib
from dapt_jax.graph.architecture import Architecture

if TYPE_CHECKING:
  from dapt_jax.graph.channel_graph import ChannelGraph

#: Whole cut networks that the fit is made on.
_NETWORKS = 8
#: How strongly the terms of the fit beside the layers are drawn to zero.
_RIDGE = 0.3
_SUM = latency.Fit(1.0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class _Plan:
  """How to time one primitive.

  Attributes:
    node: its index.
    counts: live widths of the axes of its table.
    rest: live widths to which its time is taken to be proportional.
    axes: for every count, {(operand, axis): positions for each of the count's}.
    job: the primitive at the widest.
    name: of the primitive and what it compiles to, equal for layers that take the same time.
  """

  node: int
  counts: tuple[cost.Count, ...]
  rest: tuple[cost.Count, ...]
  axes: tuple[dict[tuple[int, int], int], ...]
  job: stopwatch.Job
  name: str

  @property
  def knots(self) -> tuple[latency.Knots, ...]:
    """Of every axis of the table."""
    return tuple(latency.Knots.of(round(c.size)) for c in self.counts)

  def jobs(self) -> list[stopwatch.Job]:
    """One for every entry of the table."""
    return [self._at(widths) for widths in itertools.product(*(k.widths for k in self.knots))]

  def _at(self, widths: Sequence[int]) -> stopwatch.Job:
    """The job at these widths."""
    shapes = [list(s.shape) for s in self.job.shapes]
    for width, places in zip(widths, self.axes):
      for (operand, axis), times in places.items():
        shapes[operand][axis] = width * times
    cut = [jax.ShapeDtypeStruct(tuple(n), s.dtype) for n, s in zip(shapes, self.job.shapes)]
    return stopwatch.Job(self.job.function, tuple(cut))


def calibrate(
  graph: ChannelGraph,
  *,
  batch: int = 64,
  overrides: replay.Overrides | None = None,
  cache: bool = True,
  timer: stopwatch.Timer | None = None,
) -> ChannelGraph:
  """Times a network on the device at hand, so that its cost has the unit 'latency' (seconds).

  Every contraction and window is compiled and timed alone, at a few live widths of its inputs and
  outputs, once for all layers that compile to the same program. Some whole cut networks are timed
  to fit how layers, memory traffic and calls add up; see `latency`.

  Args:
    graph: from `trace`; every input has the batch as its first axis.
    batch: examples at a time.
    overrides: as in `shrink`: the lowering that the cut network will run with.
    cache: keep the times by device in `$DAPT_JAX_CACHE` (or `~/.cache/dapt_jax`), and use those
      that are there.
    timer: seconds of some jobs; None measures them.

  Returns:
    A copy of the graph with the unit 'latency', the forward pass at this batch.

  Raises:
    ValueError: for a batch below one, or inputs that have no batch axis.
  """
  if batch < 1:
    raise ValueError(f'batch is {batch}; it is a number of examples and must be at least 1')
  times = timings.Timings(timer or stopwatch.measure, cache and timer is None)
  wide = graph.at(_batched(graph.tree.input_shapes, batch))
  plans = _plans(wide, overrides)
  archs = [_random_architecture(wide, seed) for seed in range(_NETWORKS)]
  networks = [_network(wide, arch, overrides) for arch in archs]
  key = f'networks-{timings.signature(networks[0], [])}'
  seconds = times({p.name: p.jobs() for p in plans} | {key: networks})
  layers = [_layer(p, seconds[p.name], wide.cost_model.live) for p in plans]
  model = latency.LatencyModel(layers, _SUM, wide.cost_model)
  model.fit = _fit(model, archs, seconds[key])
  out = copy.copy(graph)
  out.cost_model = graph.cost_model.with_unit('latency', model)
  return out


def _batched(shapes: Any, batch: int) -> Any:
  leaves = jax.tree.leaves(shapes)
  if any(not s.shape for s in leaves) or len({s.shape[0] for s in leaves}) > 1:
    raise ValueError(
      f'the inputs have shapes {[s.shape for s in leaves]}; calibrate needs inputs that share the '
      'batch as their first axis: trace the graph with such inputs'
    )
  return jax.tree.map(lambda s: jax.ShapeDtypeStruct((batch, *s.shape[1:]), s.dtype), shapes)


def _plans(graph: ChannelGraph, overrides: replay.Overrides | None) -> list[_Plan]:
  """A plan for every contraction and window of the program."""
  count = cost_terms.counter(graph)
  cut = replay.Cut(graph.analysis, np.zeros(0, bool), overrides=overrides)
  return [
    _plan(graph.analysis, index, count, cut)
    for index, node in enumerate(graph.program.nodes)
    if node.name in ('dot_general', 'conv_general_dilated') or node.name.startswith('reduce_window')
  ]


def _plan(analysis: analysis_lib.Analysis, index: int, count: Any, cut: replay.Cut) -> _Plan:
  program = analysis.program
  node = program.nodes[index]
  rule = rules.RULES[node.name]

  def function(*args: Any) -> Any:
    return rule.replay(cut, node, args) if rule.replay else cut.bind(node, args, node.params)

  found = _widths(analysis, node, count)
  shapes = tuple(jax.ShapeDtypeStruct(program.shape(v), program.avals[v].dtype) for v in node.ins)
  job = stopwatch.Job(function, shapes)
  places = tuple(f[1] for f in found[:2])
  name = timings.signature(job, [sorted(p.items()) for p in places])
  counts = tuple(f[0] for f in found)
  return _Plan(index, counts[:2], counts[2:], places, job, f'{node.name}-{name}')


def _widths(
  analysis: analysis_lib.Analysis, node: program_lib.Node, count: Any
) -> list[tuple[cost.Count, dict[tuple[int, int], int]]]:
  """The live widths of a primitive's operands, and the axes that have (a multiple of) each.

  Axes that are joined, as the inputs of a convolution and those of its kernel, have one width.
  """
  axes = [
    (count(label), (operand, axis))
    for operand, value in enumerate(node.ins)
    for axis, label in enumerate(analysis.labels_of(value))
  ]
  found: list[tuple[cost.Count, dict[tuple[int, int], int]]] = []
  for width, place in sorted((a for a in axes if a[0].parts), key=lambda a: a[0].size):
    twin = next((f for f in found if _proportional(width, f[0])), None)
    if twin is None:
      found.append((width, {place: 1}))
    else:
      twin[1][place] = round(width.size / twin[0].size)
  return sorted(found, key=lambda f: min(f[1]))


def _proportional(many: cost.Count, few: cost.Count) -> bool:
  """Whether one count is a whole multiple of another at all gates."""
  times = many.size / few.size
  same = many.base == times * few.base and set(many.parts) == set(few.parts)
  return (
    same
    and times == int(times)
    and all(np.array_equal(many.parts[n], times * few.parts[n]) for n in few.parts)
  )


def _layer(plan: _Plan, seconds: Sequence[float], live: liveness.Liveness) -> latency.Layer:
  """The table of a plan's times."""
  table = np.reshape(seconds, [len(k.widths) for k in plan.knots])
  alive = live.of_node[plan.node]
  return latency.Layer(plan.name, plan.counts, plan.rest, alive, table)


def _network(
  graph: ChannelGraph, arch: Architecture, overrides: replay.Overrides | None
) -> stopwatch.Job:
  """The whole cut network."""
  function, params = graph.shrink(arch, graph.tree.param_shapes, overrides=overrides)
  return stopwatch.Job(function, (params, *graph.tree.input_shapes))


def _fit(
  model: latency.LatencyModel, archs: Sequence[Architecture], seconds: Sequence[float]
) -> latency.Fit:
  """Fits the sum of the layers to whole cut networks, by least squares of relative errors.

  All but the scale of the layers is drawn to zero: a few noisy networks cannot tell much more.
  """
  parts = np.array([(*model.parts(a.masks(), np), 1.0) for a in archs])
  sizes = parts.mean(axis=0)
  relative = parts / sizes / np.asarray(seconds)[:, None]
  draw = np.sqrt(_RIDGE) * np.mean(1 / np.asarray(seconds)) * np.eye(4)[1:]
  wanted = np.concatenate([np.ones(len(archs)), np.zeros(3)])
  found = optimize.nnls(np.concatenate([relative, draw]), wanted)[0] / sizes
  return latency.Fit(*found.tolist())


def _random_architecture(graph: ChannelGraph, seed: int) -> Architecture:
  """A cut network of random widths and branches; multiples of eight for odd seeds."""
  random = np.random.default_rng(seed)
  logits = {}
  for name, group in graph.gated_groups.items():
    share = random.uniform(0.1 + 0.1 * seed / _NETWORKS, 1.0)
    logits[name] = share - random.uniform(size=group.width)
  limits = selection.Limits(1.0, 'macs', 8 if seed % 2 else 1, 1, 1.0, False)
  alive = {n: np.ones(len(t), bool) for n, t in logits.items()}
  chosen = selection.Selection(graph, logits, alive, limits)
  chosen.require()
  gates = chosen.gates(chosen.on | (chosen.priority > 0))
  return Architecture(
    {n: np.flatnonzero(g).astype(np.int32) for n, g in gates.items()},
    {n: len(g) for n, g in gates.items()},
  )
