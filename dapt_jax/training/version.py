"""Which code a run was made by."""

from __future__ import annotations

import functools
import pathlib
import subprocess

_FOLDER = pathlib.Path(__file__).parent


@functools.cache
def code() -> str:
  """Version of the package, and the git commit where it is used out of a checkout.

  Returns:
    `'0.1.0'`; `'0.1.0+1a2b3c4d5e6f'`; or, if tracked files differ from that commit,
    `'0.1.0+1a2b3c4d5e6f.changed'`.
  """
  import dapt_jax  # at the time of the call: the package itself imports this floor

  commit = _commit()
  return f'{dapt_jax.__version__}+{commit}' if commit else str(dapt_jax.__version__)


def _commit() -> str | None:
  """The commit, with `.changed` where files differ; None without git or a checkout."""
  try:
    # A package installed inside somebody's repository is not part of it.
    _git('ls-files', '--error-unmatch', pathlib.Path(__file__).name)
    return _git('describe', '--always', '--abbrev=12', '--exclude=*', '--dirty=.changed')
  except (OSError, subprocess.SubprocessError):
    return None


def _git(*arguments: str) -> str:
  done = subprocess.run(
    ['git', *arguments], cwd=_FOLDER, capture_output=True, text=True, check=True, timeout=20
  )
  return done.stdout.strip()
