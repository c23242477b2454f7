"""Brings what pictures are drawn from, draws them, and keeps the pictures only."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from dapt_jax.data import drawn, glyph_fonts, glyphs, icon_sets, icons, installers

Log = Callable[[str], None]


class Origin(NamedTuple):
  """Where the pictures of some collections come from.

  Attributes:
    via: the installer, 'apt' or 'npm'.
    collections: what is drawn; all share one `fetch_name`.
    make: brings the package below a folder and writes the pictures into another one; returns the
      number of pictures of every split. Takes (folder to work in, folder to write to, log).
  """

  via: str
  collections: Sequence[drawn.Collection]
  make: Callable[[pathlib.Path, pathlib.Path, Log], Mapping[str, int]]


def _make_icons(staging: pathlib.Path, target: pathlib.Path, log: Log) -> Mapping[str, int]:
  log(f'icons: {icon_sets.PACKAGE} via npm, about 104 MB ...')
  installers.npm(icon_sets.PACKAGE, staging)
  return icon_sets.prepare(staging / icon_sets.INSIDE, target)


def _make_glyphs(staging: pathlib.Path, target: pathlib.Path, log: Log) -> Mapping[str, int]:
  folder = glyph_fonts.INSTALLED
  if missing := glyph_fonts.missing(folder, glyphs.FAMILY):
    log(f'glyphs: {", ".join(glyph_fonts.PACKAGES)} via apt, about 85 MB ({missing[0]}) ...')
    for package in glyph_fonts.PACKAGES:
      (staging / package).mkdir()
      installers.apt(package, staging / package)
    folder = staging
  return glyph_fonts.prepare(folder, target, glyphs.FAMILY)


ORIGINS = {
  icons.FETCH_NAME: Origin('npm', icons.COLLECTIONS, _make_icons),
  glyphs.FETCH_NAME: Origin('apt', (glyphs.FAMILY,), _make_glyphs),
}


def fetch(name: str, root: pathlib.Path, via: str, log: Log) -> pathlib.Path:
  """Brings and draws all collections of one name; does nothing where they are there and good.

  Args:
    name: a key of `ORIGINS`.
    root: data directory; made where it is not there.
    via: 'auto', or the installer of this name.
    log: takes lines of progress.

  Returns:
    The folder that holds the pictures.

  Raises:
    ValueError: it does not come via that.
    installers.InstallError: the package could not be brought, or is not what it should be.
  """
  origin = ORIGINS[name]
  if via not in ('auto', origin.via):
    raise ValueError(f'{name} do not come via {via}. Use --via auto.')
  root.mkdir(parents=True, exist_ok=True)
  target = root / name
  if target.exists():
    reason = _refusal(origin, root)
    if reason is None:
      log(f'{name}: already in {target}, checked; nothing to do.')
      return target
    log(f'{name}: {target} is not good, fetching anew: {reason}')
  with tempfile.TemporaryDirectory(prefix='.incoming-', dir=root) as folder:
    staging = pathlib.Path(folder)
    made = staging / 'made'
    made.mkdir()
    try:
      counts = origin.make(staging, made, log)
    except (ImportError, ValueError) as e:
      raise installers.InstallError(f'{name}: {e}') from e
    if target.exists():
      os.rename(target, staging / 'replaced')
    os.rename(made, target)
  log(f'{name}: {sum(counts.values()):,} pictures of {len(counts)} splits in {target}')
  return target


def _refusal(origin: Origin, root: pathlib.Path) -> str | None:
  """Why what lies in the data directory cannot be used, or None."""
  for collection in origin.collections:
    folder = collection.find([root])
    if folder is None:
      return f'{collection.stem}.npz or {collection.stem}.json is missing'
    try:
      collection.about(folder)
    except ValueError as e:
      return str(e)
  return None
