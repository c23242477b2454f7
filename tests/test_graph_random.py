"""masked == shrunk on random networks, in double precision: no tolerance hides a mistake.

RANDOM_NETWORKS=500 draws so many of them (`make study-random`); the suite takes the first few.
"""

import functools
import os

import graph_builder
import graph_nets as nets
import jax
import numpy as np
import pytest

from dapt_jax import graph as graph_lib

SEEDS = range(int(os.environ.get('RANDOM_NETWORKS', '25')))
LEVELS = (('channel', 'branch'), ('channel', 'branch', 'normalised'), graph_lib.LEVELS)
KEEP = (0.7, 0.3)


@functools.cache
def _graph(seed):
  net, x = graph_builder.declared(seed)
  params = nets.randomised(net.shapes, seed)
  return graph_lib.trace(net, params, x, levels=LEVELS[seed // 4 % len(LEVELS)]), params, x


@pytest.mark.parametrize('seed', SEEDS)
def test_random_network(seed):
  with jax.enable_x64(True):
    graph, params, x = _graph(seed)
    compare = nets.Comparison(graph, params)
    for keep in KEEP if len(SEEDS) > 25 else KEEP[seed % 2 :][:1]:
      gates = nets.random_gates(graph, seed, keep, keep)
      arch = nets.architecture(gates)
      small_fn, small = compare.check(arch, x, tolerance=1e-9, grad_tolerance=1e-7)
      _check_cost(graph, arch, small_fn, small, x)


def _check_cost(graph, arch, small_fn, small, x):
  """The cost of binary gates is that of the small network; zeros of links stay in its kernels."""
  links = [n for n, g in graph.gated_groups.items() if g.kind == 'link']
  gates = {n: m for n, m in arch.masks().items() if n not in links}
  again = graph_lib.trace(small_fn, small, x, levels=graph_lib.LEVELS)
  for unit in ('params', 'macs'):
    assert again.total(unit) == graph.cost_model.absolute(gates, unit, np), unit


def test_most_random_networks_have_something_to_cut():
  with jax.enable_x64(True):
    graphs = [_graph(seed)[0] for seed in SEEDS]
  widths = [g for graph in graphs for g in graph.gated_groups.values() if g.kind != 'link']
  several = [len([g for g in graph.gated_groups.values() if g.kind != 'link']) for graph in graphs]
  assert np.mean(np.array(several) >= 2) >= 0.8
  assert {g.kind for g in widths} >= {'channel', 'normalised', 'branch'}
