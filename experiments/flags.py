"""What all apps share: their flags, what happens before the work, and how errors are shown."""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import os
import pathlib
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from dapt_jax.training import checkpoint, hosts, runner, writers
from dapt_jax.training import config as config_lib
from dapt_jax.training import workdir as workdir_lib
from experiments import beginning, generation, schema

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Configuration file, e.g. configs/demo.py; override with --config.a.b=value.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of this run; resumed if it holds it.')
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Remove an earlier run in --workdir first.')
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'Join the processes of this job as the cluster lists them (TPU, SLURM, ...).',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, "Join them by address: 'host:port' of process 0; needs the two below."
)
_PROCESSES = flags.DEFINE_integer('processes', None, 'Number of processes of this job.')
_PROCESS = flags.DEFINE_integer('process', None, 'Number of this process, from 0.')
_PROFILE = flags.DEFINE_bool('profile', False, 'Trace 20 steps of every search, into its profile/.')
_JOB = (_DISTRIBUTED, _COORDINATOR, _PROCESSES, _PROCESS)


#: Errors whose message says all there is to say.
_EXPECTED = (
  ValueError,
  OSError,
  ImportError,
  FloatingPointError,
  workdir_lib.WorkdirError,
  checkpoint.CheckpointError,
  hosts.HostError,
)


def run(
  main: Callable[[Any, str, bool], None],
  rules: types.ModuleType = schema,
  *,
  several: bool = False,
) -> None:
  """Parses the flags, checks the configuration, and calls `main(config, workdir, overwrite)`.

  Args:
    main: of an app.
    rules: the module with the fields of its configuration, `SCHEMA` and `check`.
    several: whether the app may run in several processes.
  """

  def checked(argv: list[str]) -> None:
    try:
      if len(argv) > 1:
        raise ValueError(f'unexpected arguments {argv[1:]}; options start with --')
      logging.set_verbosity(logging.WARNING)  # checkpoints log dozens of lines a save
      rules.check(_CONFIG.value)
      if _PROFILE.value:
        _profile(_CONFIG.value)
      _join(_CONFIG.value, several)
      with contextlib.ExitStack() as stack:
        if not hosts.is_first():  # process 0 speaks for all
          nowhere = stack.enter_context(open(os.devnull, 'w', encoding='utf-8'))
          stack.enter_context(contextlib.redirect_stdout(nowhere))
        main(_CONFIG.value, str(_WORKDIR.value), bool(_OVERWRITE.value))
    except _EXPECTED as e:
      hosts.leave(2)
      if os.environ.get('DAPT_TRACEBACK'):
        raise
      _refuse(f'{e}\n(DAPT_TRACEBACK=1 shows where)')
    except (Exception, KeyboardInterrupt):
      hosts.leave(1)
      raise

  flags.mark_flags_as_required(['config', 'workdir'])
  shown = [_CONFIG, _WORKDIR, _OVERWRITE, _PROFILE, *(_JOB if several else ())]
  for flag in shown:  # so that --help shows them for every app
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag.name])
  app.run(checked, flags_parser=functools.partial(_parse, rules))


def _parse(rules: types.ModuleType, argv: list[str]) -> list[str]:
  """Parses the command line; what is wrong with it is said in one line."""
  for argument in argv[1:]:
    if argument.startswith('--config.'):
      name = argument.removeprefix('--config.').split('=')[0]
      section = f'{schema.FIRST_WEIGHTS}.' if name.startswith(schema.FIRST_WEIGHTS) else ''
      known = [section + n for n in (generation if section else rules).SCHEMA]
      if name not in known and not name.startswith(f'{section}model.options.'):
        near = difflib.get_close_matches(name, known, n=3)
        hint = f'the nearest are {", ".join(near)}' if near else f'see {rules.__name__}'
        _refuse(f'{argument}: the configuration has no field {name}; {hint}')
  try:
    return flags.FLAGS(argv)
  except (AttributeError, KeyError) as e:
    _refuse(f'an override names a field that the configuration file does not have: {e}')
  except (flags.Error, TypeError, ValueError, FileNotFoundError) as e:
    _refuse(str(e))


def _refuse(message: str) -> NoReturn:
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


def clear(directories: Iterable[pathlib.Path]) -> None:
  """Removes the runs in these directories; those that hold none are left alone.

  Raises:
    WorkdirError: a job is using one of them.
  """
  for path in directories:
    described = path / 'config.json'
    if described.is_file():
      saved = json.loads(described.read_text(encoding='utf-8'))
      with workdir_lib.open_workdir(path, saved['config'], kind=saved['kind'], overwrite=True):
        described.unlink()


def _profile(config: Any) -> None:
  if 'profile' not in config:
    raise ValueError('--profile traces searches, and this app has none')
  config.profile = config.profile or 20


def _join(config: Any, several: bool) -> None:
  """Joins the processes of a job, if this is one of several, and takes its share of the cores."""
  address = hosts.Address(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value).filled()
  job = _DISTRIBUTED.value or address.count is not None
  if job and not several:
    raise ValueError(
      'this app runs in one process: start it once, without --distributed, --coordinator and '
      'variables JAX_COORDINATOR_ADDRESS'
    )
  if job and _OVERWRITE.value:
    raise ValueError('--overwrite is for one process: remove the earlier run before, by hand')
  _use_cores(config, address.count or 1)
  if job:
    hosts.initialize(address)
    given = {'--workdir': _WORKDIR.value, **beginning.given()._asdict()}
    hosts.agree(writers.jsonable(given | config_lib.flatten(config)), 'configuration')


def _use_cores(config: Any, processes: int) -> None:
  """One host device per core, of a search as far as its population divides."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
  size = config.search.population if 'search' in config else cores
  fits = [n for n in range(1, min(cores, size) + 1) if size % (n * processes) == 0]
  count = config.devices or max(fits, default=1)
  if 'host_platform_device_count' not in os.environ.get('XLA_FLAGS', ''):
    runner.host_devices(count)
