"""Alignment of conditions with latents: the losses by hand, a toy correspondence, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax.tasks import alignment, resample, set_encoder
from dapt_jax.training import repeated

CLASSES, K, F, L = 2, 3, 4, 16


def _softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_losses_by_hand():
  rng = np.random.default_rng(0)
  d, w = rng.normal(size=(2, 5, 3)).astype(np.float32)
  logits = w @ d.T / 0.5
  rows, columns = np.log(_softmax(logits)), np.log(_softmax(logits.T))
  wanted = -(np.trace(rows) + np.trace(columns)) / 10
  assert float(alignment.info_nce(d, w, 0.5)) == pytest.approx(wanted, rel=1e-5)
  targets = _softmax((d @ d.T + w @ w.T) / 2 * 0.5)
  wanted = -((targets * rows).sum() + (targets * columns).sum()) / 10
  assert float(alignment.soft_target(d, w, 0.5)) == pytest.approx(wanted, rel=1e-5)
  assert float(alignment.info_nce(0 * d, w, 1.0)) == pytest.approx(np.log(5), rel=1e-6)


def test_retrieval():
  own = jnp.eye(4)
  assert float(alignment.retrieval(own, own * jnp.array([1, 2, 30, 4])[:, None])) == 1.0
  assert float(alignment.retrieval(own[jnp.array([1, 0, 2, 3])], own)) == 0.5


def _problem(tasks, seed):
  """Classes around random centres; the latent is a fixed map of the centres in their order."""
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(tasks, CLASSES, F))
  images = centres[:, :, None] + 0.1 * rng.normal(size=(tasks, CLASSES, 6, F))
  mix = np.random.default_rng(99).normal(size=(CLASSES * F, L))
  latents = centres.reshape(tasks, -1) @ mix / 2
  return jnp.asarray(images, jnp.float32), jnp.asarray(latents, jnp.float32)


def _make(loss, module):
  settings = alignment.Settings(L, loss, width=8, steps=200, learning_rate=5e-3)
  return alignment.make(settings, set_encoder.functions(module, (CLASSES, K, F)))


MOMENTS = set_encoder.Moments(CLASSES, width=16)
TRANSFORMER = set_encoder.SetTransformer(CLASSES, 16, width=16, heads=1, depth=0)


@pytest.mark.parametrize('loss,module', [('info_nce', TRANSFORMER), ('soft_target', MOMENTS)])
def test_a_correspondence_is_learned(loss, module):
  images, latents = _problem(256, 0)
  made = _make(loss, module)

  def draw(data, key):
    rows = jnp.broadcast_to(jnp.arange(6), (256, CLASSES, 6))
    task, chosen = resample.support(key, rows, 24, K)
    features = jnp.take_along_axis(data[0][task], chosen[..., None], axis=2)
    return features, None, data[1][task]

  state = made.init(jax.random.key(0), images[:, :, :K])
  start, fresh = state.params, _problem(32, 1)
  run = jax.jit(repeated.repeated(made.update, draw, 200))
  state, metrics = run(state, (images, latents))
  assert np.isfinite(metrics['loss'])
  embed = jax.jit(lambda p, x: made.embed(p, x, None, fresh[1]))
  share = lambda p, x: float(alignment.retrieval(*embed(p, x)))
  assert share(start, fresh[0]) < 0.3 and share(state.params, fresh[0]) > 0.7
  # The order of the classes is part of what is told.
  assert share(state.params, fresh[0][:, ::-1]) < 0.3


@pytest.mark.parametrize('loss', alignment.LOSSES)
def test_devices_do_what_one_does(loss):
  images, latents = _problem(8, 0)
  images = images[:, :, :K]
  made = _make(loss, MOMENTS)
  state = made.init(jax.random.key(0), images)
  one, metrics = jax.jit(made.update)(state, (images, None, latents))
  halves = jax.tree.map(lambda a: a.reshape(2, 4, *a.shape[1:]), (images, None, latents))
  both = functools.partial(made.update, axis_name='devices')
  two, same = jax.jit(jax.vmap(both, in_axes=(None, 0), axis_name='devices'))(state, halves)
  np.testing.assert_allclose(same['loss'], metrics['loss'], rtol=1e-5)
  # Adam's averages are nearly linear in the gradient; its first step is a sign where that is tiny.
  compare = lambda a, b: np.testing.assert_allclose(a, b[0], rtol=1e-3, atol=1e-6)
  jax.tree.map(compare, one.optimizer, two.optimizer)


def test_bad_settings():
  with pytest.raises(ValueError, match=r"'clip'.*info_nce"):
    alignment.Settings(L, 'clip')
  with pytest.raises(ValueError, match='temperature is 0'):
    alignment.Settings(L, temperature=0.0)
