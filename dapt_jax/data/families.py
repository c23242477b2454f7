"""Families of data sets of one shape: 28x28x1 and ten classes, so that one network fits all.

A generator of first weights learns from some of them and is tested on others. Sets that are too
alike for that stand in `KIN`.
"""

from __future__ import annotations

import pathlib

from dapt_jax.data import catalog, embedded, glyphs, icon_concepts, icons, packages, prepared

#: Data sets that share what they show: keep each group on one side of a split by data set.
KIN = glyphs.KIN + icon_concepts.KIN
_DRAWN = {glyphs.FETCH_NAME: glyphs.FAMILY, icons.FETCH_NAME: icons.FAMILY}
_ALONE = ('mnist', 'fashion_mnist')


def names(data_dir: str | pathlib.Path | None = None) -> dict[str, list[str]]:
  """Finds the data sets that are here; reads no picture.

  Args:
    data_dir: where data lie; see `catalog.search_path`.

  Returns:
    `{family: names for load}` for 'glyphs', 'icons', and 'mnist' and 'fashion_mnist', which are
    families of one. What is not here is left out. Of MNIST 5,000 pictures are always here.

  Raises:
    FileNotFoundError: `data_dir` is given but is no directory.
    ValueError: drawn pictures are damaged or follow other rules; the message says what to do.
  """
  roots = catalog.search_path(data_dir)
  here = {}
  for family, collection in _DRAWN.items():
    if (folder := collection.find(roots)) is not None:
      collection.about(folder)
      here[family] = list(collection.names)
  return here | {name: [name] for name in _ALONE if _is_here(name, roots)}


def _is_here(name: str, roots: list[pathlib.Path]) -> bool:
  folder = prepared.find(name, roots)
  return (
    name in embedded.SPLIT_SIZES
    or packages.find(name, roots) is not None
    or (folder is not None and prepared.refusal(folder) is None)
  )
