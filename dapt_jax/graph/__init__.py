"""The channel graph: what can be cut out of a JAX function, exactly."""

from dapt_jax.graph.architecture import Architecture
from dapt_jax.graph.channel_graph import LEVELS, ChannelGraph, trace
from dapt_jax.graph.cost import UNITS

__all__ = ['LEVELS', 'UNITS', 'Architecture', 'ChannelGraph', 'trace']
