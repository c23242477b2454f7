"""The channel graph: what can be cut out of a JAX function, exactly."""

from dapt_jax.graph.architecture import Architecture
from dapt_jax.graph.channel_graph import ChannelGraph
from dapt_jax.graph.costs.cost import UNITS
from dapt_jax.graph.tracing import LEVELS, trace

__all__ = ['LEVELS', 'UNITS', 'Architecture', 'ChannelGraph', 'trace']
