"""Set before JAX starts: CPU, and code that compiles fast rather than runs fast."""

import os

from absl import logging

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_FLAG = '--xla_backend_optimization_level'
if _FLAG not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_FLAG}=0'.strip()
logging.set_verbosity(logging.ERROR)  # checkpoints log dozens of lines a save
