"""The flags that all apps share; defined here once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from dapt_jax.training import config as config_lib
from dapt_jax.training import workdir as workdir_lib
from experiments import schema

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Configuration file, e.g. configs/demo.py; override with --config.a.b=value.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of this run; resumed if it holds it.')
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Remove an earlier run in --workdir first.')


def run(main: Callable[[Any, str, bool], None]) -> None:
  """Parses the flags, checks the configuration, and calls `main(config, workdir, overwrite)`."""

  def checked(argv: list[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f'unexpected arguments {argv[1:]}; options start with --')
    try:
      logging.set_verbosity(logging.WARNING)  # checkpoints log dozens of lines a save
      schema.check(_CONFIG.value)
      main(_CONFIG.value, _WORKDIR.value, _OVERWRITE.value)
    except (ValueError, FileNotFoundError, config_lib.ConfigError, workdir_lib.WorkdirError) as e:
      if os.environ.get('DAPT_TRACEBACK'):
        raise
      print(f'error: {e}\n(DAPT_TRACEBACK=1 shows where)', file=sys.stderr)
      sys.exit(2)

  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(checked)
