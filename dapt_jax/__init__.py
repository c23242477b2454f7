"""dapt_jax: learn a structure apart from its weights, cut it out, carry it to a new task.

graph = dapt.trace(apply_fn, params, example)            # what can be cut, for any JAX function
theta = graph.init_gates(key)                            # gate logits, a pytree of their own
gates = dapt.two_temperature(theta, hard=0.1, soft=1.0)
y = apply_fn(graph.apply_gates(params, gates), x)        # the gated network
arch = graph.decide(theta, budget=0.25, unit='macs')     # a structure without weights
small_fn, small_params = graph.shrink(arch, params)      # masked == shrunk
"""

from dapt_jax import data, export, gates, graph, pruning, transfer
from dapt_jax.gates import gumbel_gates, two_temperature
from dapt_jax.graph import Architecture, ChannelGraph, trace

__version__ = '0.1.0'
__all__ = [
  'Architecture',
  'ChannelGraph',
  'data',
  'export',
  'gates',
  'graph',
  'gumbel_gates',
  'pruning',
  'trace',
  'transfer',
  'two_temperature',
]
