"""Bring packages into a folder with the ordinary package managers, without root."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

_TIMEOUT_S = 900


class InstallError(RuntimeError):
  """A package could not be brought; the message says why and what to do."""


def apt(package: str, staging: pathlib.Path) -> None:
  """Downloads a Debian or Ubuntu package and unpacks it below `staging`; nothing is installed.

  Uses the package lists of the system; where they are absent or outdated, fetches lists of its
  own into `staging`. apt checks the package against the signed lists.

  Raises:
    InstallError: no apt-get or dpkg-deb here, no network, or no such package.
  """
  _need('apt-get', f'on Debian or Ubuntu; elsewhere fetch {package} there and copy the folder')
  _need('dpkg-deb', 'part of dpkg')
  # Root would be told that the download cannot drop privileges; the setting keeps that quiet.
  options = ['-o', 'APT::Sandbox::User=root'] if os.geteuid() == 0 else []
  try:
    _call(['apt-get', *options, 'download', package], staging)
  except InstallError:
    (staging / 'lists' / 'partial').mkdir(parents=True)
    (staging / 'cache' / 'archives' / 'partial').mkdir(parents=True)
    options += ['-o', f'Dir::State::Lists={staging / "lists"}']
    options += ['-o', f'Dir::Cache={staging / "cache"}']
    _call(['apt-get', *options, 'update'], staging)
    _call(['apt-get', *options, 'download', package], staging)
  found = list(staging.glob('*.deb'))
  if len(found) != 1:
    raise InstallError(f'apt-get download {package} left {len(found)} packages; expected one.')
  _call(['dpkg-deb', '-x', str(found[0]), str(staging)], staging)


def npm(package: str, staging: pathlib.Path) -> None:
  """Installs an npm package below `staging`, running none of its scripts.

  Raises:
    InstallError: no npm here, no network, or no such package.
  """
  _need('npm', 'apt-get install npm, or nodejs.org')
  command = ['npm', 'install', '--ignore-scripts', '--no-save', '--no-audit', '--no-fund']
  _call([*command, '--prefix', str(staging), package], staging)


def tfds(name: str, data_dir: pathlib.Path) -> pathlib.Path:
  """Downloads and prepares a data set with TFDS in array_record format.

  TFDS works in a folder of its own and renames it when complete. Preparing, unlike reading, needs
  TensorFlow for most data sets.

  Returns:
    The prepared directory.

  Raises:
    InstallError: unknown name, no network, or a package missing; TFDS's reason is in the message.
  """
  # Imported here: TFDS takes a second to load and only this function needs it.
  import tensorflow_datasets

  try:
    builder = tensorflow_datasets.builder(
      name, data_dir=str(data_dir), file_format='array_record', try_gcs=False
    )
    builder.download_and_prepare()
  except Exception as e:
    # TFDS raises whatever its data set script raises: every kind means "not prepared".
    reason = str(e).strip().splitlines()
    text = f'TFDS could not prepare {name}: {type(e).__name__}: {reason[0] if reason else ""}'
    if isinstance(e, ImportError):
      text += (
        f'\n  pip install {e.name or "tensorflow"}; preparing may need more than reading does.'
      )
    raise InstallError(text) from e
  return pathlib.Path(builder.data_dir)


def _need(program: str, where: str) -> None:
  if shutil.which(program) is None:
    raise InstallError(f'{program} is not on this machine ({where}).')


def _call(command: list[str], folder: pathlib.Path) -> None:
  """Runs a command in `folder`, quietly; its last lines are in the error."""
  line = ' '.join(command)
  try:
    done = subprocess.run(
      command,
      cwd=folder,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      timeout=_TIMEOUT_S,
      check=False,
    )
  except subprocess.TimeoutExpired as e:
    raise InstallError(f'no end after {_TIMEOUT_S} s: {line}') from e
  if done.returncode != 0:
    tail = '\n  '.join(done.stdout.strip().splitlines()[-5:])
    raise InstallError(f'exit code {done.returncode} from: {line}\n  {tail}')
