"""Pruned networks for the world outside: StableHLO, safetensors, ONNX, smaller Flax modules."""

from dapt_jax.export.formats import FORMATS, load, load_stablehlo, save
from dapt_jax.export.modules import flax_module

__all__ = ['FORMATS', 'flax_module', 'load', 'load_stablehlo', 'save']
