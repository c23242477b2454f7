"""dapt_jax: learn a structure apart from its weights, cut it out, carry it to a new task."""

from dapt_jax.graph import Architecture, ChannelGraph, trace

__version__ = '0.1.0'
__all__ = ['Architecture', 'ChannelGraph', 'trace']
