"""Users' own data: arrays and folders, and every mistake with its message."""

import numpy as np
import pytest
from PIL import Image

from dapt_jax import data

SQUARE = np.zeros((4, 5, 5), np.uint8)
FLOATS = np.full((4, 5, 5), 0.5, np.float32)


def spoiled(value):
  images = FLOATS.copy()
  images[2, 1, 3] = value
  return images


def test_from_arrays_takes_bytes_floats_and_gray_without_channels():
  assert data.from_arrays(SQUARE, [0, 1, 0, 1]).image_shape == (5, 5, 1)
  mixed = data.from_arrays(FLOATS.astype(np.float64)[..., None].repeat(3, -1), [0, 1, 0, 1])
  assert mixed.pixels.dtype == np.float32
  assert mixed.image_shape == (5, 5, 3)
  shrunk = data.from_arrays(FLOATS, np.array([0, 1, 0, 1], np.int64), image_size=3)
  assert shrunk.image_shape == (3, 3, 1)
  assert shrunk.class_names == ('0', '1')
  assert data.from_arrays(SQUARE > 0, [0, 1, 0, 1]).images.max() == 0


def test_a_list_of_different_sizes_needs_image_size():
  pictures = [np.full((4, 6), 255, np.uint8), np.zeros((9, 3), np.uint8)]
  with pytest.raises(ValueError, match=r'2 different sizes.*image_size=28'):
    data.from_arrays(pictures, [0, 1])
  resized = data.from_arrays(pictures, [0, 1], image_size=4)
  np.testing.assert_allclose(resized.images.mean(axis=(1, 2, 3)), [1, 0], atol=1e-6)


@pytest.mark.parametrize(
  ('images', 'labels', 'kwargs', 'message'),
  [
    (spoiled(np.nan), [0, 1, 0, 1], {}, r'images\[2\] has nan at .*\(1, 3, 0\).*[Rr]emove'),
    (spoiled(np.inf), [0, 1, 0, 1], {}, r'images\[2\] has inf'),
    (spoiled(7.0), [0, 1, 0, 1], {}, r'span 0.5..7.*Divide 0..255 by 255'),
    (spoiled(-1.0), [0, 1, 0, 1], {}, r'span -1..0.5'),
    (SQUARE.astype(np.int64), [0, 1, 0, 1], {}, r'dtype int64.*astype\(np.uint8\)'),
    (SQUARE.reshape(4, 25), [0, 1, 0, 1], {}, r'rank 2.*reshape'),
    (SQUARE[None, None], [0], {}, 'rank 5'),
    ([np.zeros(5, np.uint8)], [0], {}, r'images\[0\]: shape \(5,\)'),
    (np.zeros((2, 3, 8, 8), np.uint8), [0, 1], {}, 'channels first.*moveaxis'),
    (np.zeros((2, 0, 8), np.uint8), [0, 1], {}, 'length 0'),
    (SQUARE[:0], [], {}, 'none; give at least one'),
    ([SQUARE[0], SQUARE[0][..., None].repeat(3, -1)], [0, 1], {}, r'\[1, 3\] channels'),
    (SQUARE, [0, 1, 0], {}, '4 images but 3 labels'),
    (SQUARE, [1, 2, 1, 2], {}, r'classes \[0\].*no example'),
    (SQUARE, [0, 2, 0, 2], {}, r'classes \[1\].*renumber'),
    (SQUARE, [0, -1, 0, 1], {}, r'labels span -1..1'),
    (SQUARE, [0, 1, 0, 5], {'num_classes': 2}, r'labels span 0..5; expected 0..1'),
    (SQUARE, [0, 1, 0, 1], {'class_names': 'abc'}, r'classes \[2\].*no example'),
    (SQUARE, [0.0, 1.0, 0.0, 1.0], {}, 'dtype float64'),
    (SQUARE, ['a', 'b', 'a', 'b'], {}, 'return_inverse'),
    (SQUARE, np.eye(4, dtype=int), {}, 'One-hot.*argmax'),
    (SQUARE, [0, 1, 0, 1], {'image_size': 0}, 'image size 0'),
    (SQUARE, [0, 1, 0, 1], {'num_classes': 2, 'class_names': 'abc'}, '3 class names for 2'),
  ],
)
def test_bad_arrays_are_named(images, labels, kwargs, message):
  with pytest.raises(ValueError, match=message):
    data.from_arrays(images, labels, **kwargs)


def save(path, value=0, size=(8, 6), mode='L'):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, value).save(path)


@pytest.fixture
def folder(tmp_path):
  for k, name in enumerate(['cat', 'dog']):
    for i in range(10):
      save(tmp_path / 'pets' / name / f'{i:02d}.png', 100 * k + i)
  (tmp_path / 'pets' / '.hidden').write_text('skipped')
  return tmp_path / 'pets'


def test_a_folder_is_split_by_seed_and_class(folder):
  train, test, whole = (data.from_folder(folder, split=s) for s in ('train', 'test', 'all'))
  assert (len(train), len(test), len(whole)) == (16, 4, 20)
  assert np.bincount(test.labels).tolist() == [2, 2]
  assert (train.name, train.class_names) == ('pets', ('cat', 'dog'))
  assert train.image_shape == (6, 8, 1)
  parts = np.concatenate([train.pixels[:, 0, 0, 0], test.pixels[:, 0, 0, 0]])
  np.testing.assert_array_equal(np.sort(parts), np.sort(whole.pixels[:, 0, 0, 0]))
  np.testing.assert_array_equal(test.pixels, data.from_folder(folder, split='test').pixels)
  np.testing.assert_array_equal(whole.labels, whole.pixels[:, 0, 0, 0] >= 100)


def test_load_reads_folders_by_name(folder):
  loaded = data.load(f'folder:{folder}', 'test', image_size=4)
  assert loaded.image_shape == (4, 4, 1)
  assert len(loaded) == 4
  assert str(folder) in loaded.source
  for size in (None, 4):
    disk, memory = (
      data.load(f'folder:{folder}', image_size=size, in_memory=here) for here in (False, True)
    )
    assert not isinstance(disk.pixels, np.ndarray)
    np.testing.assert_array_equal(disk.images, memory.images)
    np.testing.assert_array_equal(disk.labels, memory.labels)


def test_train_and_test_folders_are_kept_apart(tmp_path):
  for part, n in [('train', 3), ('test', 2)]:
    for name in 'ab':
      for i in range(n):
        save(tmp_path / part / name / f'{i}.png', 10 * n + i)
  assert len(data.from_folder(tmp_path)) == 6
  test = data.from_folder(tmp_path, split='test')
  assert test.pixels[:, 0, 0, 0].tolist() == [20, 21, 20, 21]
  assert len(data.from_folder(tmp_path, split='all')) == 10
  save(tmp_path / 'test' / 'c' / '0.png')
  with pytest.raises(ValueError, match=r"different classes.*\['c'\]"):
    data.from_folder(tmp_path)


def test_colour_is_found_out_or_asked_for(folder):
  assert data.from_folder(folder, channels=3).image_shape == (6, 8, 3)
  save(folder / 'cat' / 'red.png', (255, 0, 0), mode='RGB')
  whole = data.from_folder(folder, split='all')
  assert whole.image_shape == (6, 8, 3)
  assert whole.pixels[10, 0, 0].tolist() == [255, 0, 0]
  assert data.from_folder(folder, channels=1).image_shape == (6, 8, 1)
  with pytest.raises(ValueError, match=r'channels 2'):
    data.from_folder(folder, channels=2)


def test_transparency_lies_on_white(tmp_path):
  save(tmp_path / 'a' / '0.png', (0, 0, 0, 0), mode='RGBA')
  save(tmp_path / 'b' / '0.png', (0, 0, 0, 255), mode='RGBA')
  whole = data.from_folder(tmp_path, split='all', channels=1)
  assert whole.pixels[:, 0, 0, 0].tolist() == [255, 0]


def test_different_sizes_need_image_size(folder):
  save(folder / 'cat' / 'wide.png', 9, size=(20, 6))
  with pytest.raises(ValueError, match=r'2 different sizes.*image_size'):
    data.from_folder(folder, split='all')
  assert data.from_folder(folder, split='all', image_size=(5, 7)).image_shape == (5, 7, 1)


def test_bad_folders_are_named(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no such folder'):
    data.from_folder(tmp_path / 'nowhere')
  with pytest.raises(FileNotFoundError, match=r'no such folder'):
    data.load(f'folder:{tmp_path / "nowhere"}')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match=r'no class folders'):
    data.from_folder(tmp_path / 'empty')
  save(tmp_path / 'one' / 'a' / '0.png')
  with pytest.raises(ValueError, match=r'only one class folder'):
    data.from_folder(tmp_path / 'one')
  save(tmp_path / 'one' / 'b' / '0.png')
  with pytest.raises(ValueError, match=r"one picture cannot be split.*split='all'"):
    data.from_folder(tmp_path / 'one')
  with pytest.raises(ValueError, match=r'split'):
    data.from_folder(folder, split='val')
  (folder / 'emu').mkdir()
  with pytest.raises(ValueError, match=r'emu: this class is empty'):
    data.from_folder(folder)
  (folder / 'emu' / 'notes.txt').write_text('not a picture')
  with pytest.raises(ValueError, match=r'notes.txt: not a picture.*Remove it'):
    data.from_folder(folder, split='all')
  (folder / 'emu' / 'notes.txt').unlink()
  (folder / 'emu' / 'deeper').mkdir()
  with pytest.raises(ValueError, match=r'a folder inside a class folder'):
    data.from_folder(folder)


def test_deep_and_damaged_pictures_are_named(folder):
  deep = folder / 'cat' / 'deep.png'
  Image.fromarray(np.zeros((6, 8), np.uint16)).save(deep)
  with pytest.raises(ValueError, match=r'deep.png: mode .* 8-bit'):
    data.from_folder(folder, split='all')
  deep.unlink()
  noise = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
  cut = folder / 'cat' / 'cut.png'
  Image.fromarray(noise).save(cut)
  cut.write_bytes(cut.read_bytes()[:-30])
  with pytest.raises(ValueError, match=r'cut.png: the picture is damaged'):
    data.from_folder(folder, split='all')
