"""Set before JAX starts: CPU, and code that compiles fast rather than runs fast."""

import os

import jaxlib
from absl import logging

_FLAGS = ['--xla_backend_optimization_level=0']
if jaxlib.version.__version_info__[:2] == (0, 10):  # XLA ends a process for flags it does not know
  # Without the emitters of fused kernels programs compile in .6 of the time.
  _FLAGS.append('--xla_cpu_use_fusion_emitters=false')

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
for _flag in _FLAGS:
  if _flag.split('=')[0] not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_flag}'.strip()
logging.set_verbosity(logging.ERROR)  # checkpoints log dozens of lines a save
