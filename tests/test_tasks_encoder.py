"""Encoders of sets: the order of images never counts, that of classes does; draws on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights_toys

from dapt_jax.tasks import conditioning, conditions, resample, set_encoder

B, CLASSES, K, F = 2, 3, 5, 4
SHAPE = (CLASSES, K, F)


def _module(name, slots=True, **fields):
  if name == 'moments':
    return set_encoder.Moments(CLASSES, slots=slots, **fields)
  small = {'size': 6, 'width': 8, 'heads': 2, 'depth': 1, 'inducing': 3, **fields}
  return set_encoder.SetTransformer(CLASSES, slots=slots, **small)


@functools.cache
def _encoder(name, slots=True, **fields):
  init, encode = set_encoder.functions(_module(name, slots, **fields), SHAPE)
  return init(jax.random.key(0)), jax.jit(encode)


def _features(seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(B, *SHAPE)), jnp.float32)


def _apart(a, b):
  return max(float(jnp.abs(x - y).max()) for x, y in zip(a, b))


@pytest.mark.parametrize('name', ['moments', 'transformer'])
def test_order_of_images_never_counts_and_that_of_classes_does(name):
  x, swap = _features(), jnp.array([2, 0, 1])
  for slots in (True, False):
    params, encode = _encoder(name, slots)
    usual = encode(params, x)
    assert _apart(usual, encode(params, x[:, :, jnp.array([3, 1, 0, 4, 2])])) < 1e-5
    other = encode(params, x[:, swap])
    # Without slots the vector stays, and tokens move with their classes.
    moved = float(jnp.abs(other.vector - usual.vector).max())
    followed = float(jnp.abs(other.tokens - usual.tokens[:, swap]).max())
    assert (moved > 1e-2 and followed > 1e-2) if slots else max(moved, followed) < 1e-5


def test_classes_that_exchange_images_differ():
  """An encoder of the union of all images would pass every test above."""
  x = _features()
  y = x.at[:, 0, 0].set(x[:, 1, 0]).at[:, 1, 0].set(x[:, 0, 0])
  params, encode = _encoder('transformer', False)
  assert _apart(encode(params, x), encode(params, y)) > 1e-3


@pytest.mark.parametrize('name', ['moments', 'transformer'])
def test_any_number_of_images_with_the_same_parameters(name):
  params, encode = _encoder(name)
  x = _features()
  few = encode(params, x[:, :, :2])
  for k in (1, 5, 10, 20):
    other = jax.eval_shape(encode, params, jnp.zeros((B, CLASSES, k, F)))
    assert jax.tree.map(jnp.shape, other) == jax.tree.map(jnp.shape, few)
  # Images that a mask leaves out are not seen, whatever they hold.
  mask = jnp.broadcast_to(jnp.arange(K) < 2, (B, 1, K))
  masked = encode(params, x.at[:, :, 2:].set(1e3), mask)
  assert _apart(few, masked) < 1e-5


def test_a_mask_may_differ_from_class_to_class():
  x = _features()
  mask = jnp.ones((B, CLASSES, K), bool).at[0, 1, 3:].set(False)
  params, encode = _encoder('moments')
  found = encode(params, x, mask).vector.reshape(B, CLASSES, -1)
  wanted = conditions.moments(x).at[0, 1].set(conditions.moments(x[0, 1, :3]))
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_every_parameter_gets_a_gradient():
  x = _features()
  for name, fields in (('moments', {'width': 4}), ('transformer', {})):
    params, encode = _encoder(name, True, **fields)
    shapes = jax.eval_shape(encode, params, x)
    target = [jax.random.normal(jax.random.key(1), a.shape) for a in shapes]
    loss = lambda p, x: sum(jnp.vdot(a, b) for a, b in zip(encode(p, x), target))  # noqa: B023
    of_params, of_features = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    for path, leaf in jax.tree_util.tree_leaves_with_path(of_params):
      size = float(jnp.abs(leaf).max())
      # A constant added to all keys changes no attention.
      silent = 'key' in jax.tree_util.keystr(path) and 'bias' in jax.tree_util.keystr(path)
      assert np.isfinite(size) and (silent or size > 1e-7), path
    assert jnp.isfinite(of_features).all() and jnp.abs(of_features).max(3).min() > 0


def test_moments():
  x = _features()
  np.testing.assert_allclose(
    conditions.moments(x), np.concatenate([x.mean(2), x.std(2)], -1), rtol=1e-5, atol=1e-6
  )
  one = x[:, :, :1]
  np.testing.assert_array_equal(conditions.moments(one)[..., F:], 0.0)
  slope = jax.grad(lambda x: conditions.moments(x).sum())(one)
  np.testing.assert_allclose(slope, 1.0)
  found = _encoder('moments')[1]({}, x)
  assert found.vector.shape == (B, CLASSES * 2 * F)
  np.testing.assert_array_equal(found.tokens[0, :, 2 * F :], np.eye(CLASSES))


def test_encoders_refuse_other_tasks():
  params, encode = _encoder('moments')
  x = _features()
  for bad in (x[0], x[:, :2], x[:, :, :0]):
    with pytest.raises(ValueError, match='3 classes'):
      encode(params, bad)
  with pytest.raises(ValueError, match=r'mask has shape.*3 or 1, 5'):
    encode(params, x, jnp.ones((B, K), bool))
  with pytest.raises(ValueError, match='heads=3'):
    set_encoder.functions(_module('transformer', heads=3), SHAPE)[0](jax.random.key(0))


def test_other_images_at_every_step():
  rows = jnp.arange(4 * 3 * 6).reshape(4, 3, 6)
  drawn = [np.asarray(resample.images(jax.random.key(i), rows, 4)) for i in range(40)]
  for one in drawn:
    assert one.shape == (4, 3, 4)
    assert (one // 6 == np.asarray(rows)[..., :1] // 6).all()  # of the same task and class
    assert all(len(set(row)) == 4 for row in one.reshape(12, 4).tolist())
  # All images come up, and about equally often in every place: 40 * 12 / 6 = 80.
  counts = np.stack([np.bincount(np.ravel(d[..., 0] % 6), minlength=6) for d in drawn]).sum(0)
  assert counts.min() > 50 and counts.max() < 115
  np.testing.assert_array_equal(np.sort(resample.images(jax.random.key(0), rows, 6)), rows)
  for k in (0, 7):
    with pytest.raises(ValueError, match='6 images of a class'):
      resample.images(jax.random.key(0), rows, k)


def test_batches_of_tasks_hold_only_training_images():
  made = weights_toys.make_bank()
  tasks = made.split.draw('zoo', 6, 0)
  rows = made.draw(tasks, 'zoo', 'train', 8, 0)
  draw = jax.jit(lambda key: resample.support(key, jnp.asarray(rows), 4, 2))
  seen = set()
  for i in range(10):
    task, images = draw(jax.random.key(i))
    assert len(set(task.tolist())) == 4 and images.shape == (4, 3, 2)
    assert all(set(r.ravel().tolist()) <= set(rows[t].ravel()) for t, r in zip(task, images))
    seen |= set(task.tolist())
  assert seen == set(range(6))
  with pytest.raises(ValueError, match='there are 6 tasks'):
    resample.support(jax.random.key(0), rows, 7, 2)


def test_numbers_of_shots():
  mask = resample.sizes(jax.random.key(0), 60, 5, (1, 5))
  assert mask.shape == (60, 1, 5) and mask.dtype == bool
  count = np.asarray(mask.sum((1, 2)))
  assert set(count) == {1, 5} and mask[..., 0].all() and 15 < (count == 1).sum() < 45
  for bad in ((), (0, 2), (6,)):
    with pytest.raises(ValueError, match='from 1 to k=5'):
      resample.sizes(jax.random.key(0), 4, 5, bad)


def _reader(how):
  """The rows of features, by parameters of one key."""
  if how.encoder is None:
    return how.tell
  params = how.encoder.init(jax.random.key(0), how.tell(_features(), None))
  encode = jax.jit(how.encoder.encode)
  return lambda features, mask: encode(params, how.tell(features, mask)).tokens


@pytest.mark.parametrize('name', conditioning.ENCODERS)
def test_rows_of_a_condition(name):
  x, swap, three = _features(), jnp.array([2, 0, 1]), jnp.arange(K) < 3
  rows = _reader(conditioning.make(name, CLASSES, width=8))
  usual = rows(x, None)
  assert usual.shape[:2] == (B, CLASSES) and usual.ndim == 3
  # Images that do not count change nothing, and any number of images can be told.
  some = rows(x, jnp.broadcast_to(three, (B, 1, K)))
  np.testing.assert_allclose(some, rows(x[:, :, :3], None), atol=1e-5)
  assert float(jnp.abs(some - usual).max()) > 1e-3
  assert float(jnp.abs(rows(x[:, swap], None) - usual).max()) > 1e-2
  # Without slots all classes are told alike, and their order never.
  alike = _reader(conditioning.make(name, CLASSES, width=8, slots=False))
  same = alike(x, None)
  np.testing.assert_allclose(same, jnp.broadcast_to(same[:, :1], same.shape), atol=1e-6)
  np.testing.assert_allclose(same, alike(x[:, swap], None), atol=1e-5)


def test_features_of_a_condition():
  images, rows = jnp.arange(24.0).reshape(6, 2, 2, 1), jnp.array([[[0, 1], [4, 5]]])
  np.testing.assert_array_equal(
    conditioning.PIXELS.of(images, rows), conditions.moments(images.reshape(6, 4)[rows])
  )
  known = jnp.eye(6)
  np.testing.assert_array_equal(
    conditioning.PIXELS.of(images, rows, known), conditions.moments(known[rows])
  )
  with pytest.raises(ValueError, match=r"'sets'.*'set_transformer'"):
    conditioning.make('sets', 3)
