"""The autoencoder of weights and the regression hypernetwork."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax.models import slots
from dapt_jax.weights import autoencoder, hypernetwork, partition

SIZE, LATENT = 12, 3


def _weights(count, seed=0):
  """Vectors on a bent surface of three dimensions, f32[count, SIZE]."""
  rng = np.random.default_rng(seed)
  mix = np.random.default_rng(9).normal(size=(LATENT, SIZE))
  return jnp.asarray(np.tanh(rng.normal(size=(count, LATENT)) @ mix), jnp.float32)


def _outputs(vector, images):
  """A linear network on 4 inputs with 3 classes; the entries of the vector are its kernel."""
  return images.reshape(len(images), -1) @ vector.reshape(4, 3)


#: The first row of the kernel, a bias in effect, counts as shared: what is learned is the same.
PARTS = partition.Partition(np.arange(3), np.arange(3, SIZE).reshape(3, 3).T)


def _train(made, state, batch, steps):
  @jax.jit
  def many(state):
    return jax.lax.scan(lambda s, _: made.update(s, batch), state, length=steps)

  return many(state)


def test_autoencoder_finds_the_surface():
  settings = autoencoder.Settings(LATENT, 1, 16, 1, steps=300, learning_rate=3e-3)
  made = autoencoder.make(settings, PARTS)
  state, metrics = _train(made, made.init(jax.random.key(0)), (_weights(128), None), 300)
  fresh = _weights(64, seed=1)
  found = made.decode(state.params, made.encode(state.params, fresh)[0])
  unexplained = jnp.square(found - fresh).mean() / fresh.var()
  assert unexplained < 0.1
  assert metrics['kl'][-1] > 0 and metrics['loss'][-1] < 0.1 * metrics['loss'][0]


def test_term_in_function_space_keeps_what_networks_compute():
  # Only two of four inputs ever occur: half of the weights do not matter for the function.
  probes = (
    jnp.zeros((256, 8, 2, 2, 1))
    .at[:, :, 0]
    .set(jax.random.normal(jax.random.key(5), (256, 8, 2, 1)))
  )
  x = jax.random.normal(jax.random.key(6), (256, SIZE))
  wanted = jax.vmap(_outputs)(x, probes)
  apart = {}
  for probe in (0.0, 3.0):
    settings = autoencoder.Settings(3, 1, 16, 1, probe=probe, steps=300, learning_rate=3e-3)
    made = autoencoder.make(settings, PARTS, _outputs)
    state, _ = _train(made, made.init(jax.random.key(0)), (x, probes), 300)
    found = made.decode(state.params, made.encode(state.params, x)[0])
    apart[probe] = float(jnp.square(jax.vmap(_outputs)(found, probes) - wanted).mean())
  assert apart[3.0] < 0.5 * apart[0.0]


def test_divergence_pulls_latents_to_the_normal():
  spreads = []
  for kl in (0.0, 30.0):
    settings = autoencoder.Settings(LATENT, 1, 16, 1, kl=kl, steps=300, learning_rate=3e-3)
    made = autoencoder.make(settings, PARTS)
    _, metrics = _train(made, made.init(jax.random.key(0)), (_weights(128), None), 300)
    spreads.append(float(metrics['kl'][-1]))
  assert spreads[1] < 0.3 * spreads[0]


def test_hypernetwork_regresses_or_fits_the_task():
  rng = np.random.default_rng(0)
  condition = jnp.asarray(rng.normal(size=(64, 3, 2)), jnp.float32)
  weights = jnp.tanh(
    condition.reshape(64, 6) @ jnp.asarray(rng.normal(size=(6, SIZE)), jnp.float32)
  )
  images = jnp.asarray(rng.normal(size=(64, 10, 2, 2, 1)), jnp.float32)
  labels = jax.vmap(_outputs)(weights, images).argmax(-1)
  batch = weights, {'condition': condition, 'images': images, 'labels': labels}
  right = {}
  for regression, task in ((1.0, 0.0), (0.0, 1.0)):
    settings = hypernetwork.Settings(
      48, 1, regression=regression, task=task, steps=400, learning_rate=3e-3
    )
    made = hypernetwork.make(settings, PARTS, _outputs)
    state, metrics = _train(made, made.init(jax.random.key(0), condition), batch, 400)
    found = made.predict(state.params, condition)
    right[task] = float((jax.vmap(_outputs)(found, images).argmax(-1) == labels).mean())
    apart = float(jnp.square(found - weights).mean())
    assert (apart < 0.05) == (regression == 1.0)
    assert set(metrics) == {'loss', 'error'} | ({'task'} if task else set())
  assert min(right.values()) > 0.85


def test_devices_average_their_gradients():
  made = hypernetwork.make(hypernetwork.Settings(width=8, blocks=1), PARTS)
  x = _weights(8)
  batch = x, {'condition': x.reshape(8, 3, 4)}
  state = made.init(jax.random.key(0), batch[1]['condition'])
  one, _ = jax.jit(made.update)(state, batch)
  halves = jax.tree.map(lambda a: a.reshape(2, 4, *a.shape[1:]), batch)
  both = functools.partial(made.update, axis_name='devices')
  two, _ = jax.jit(jax.vmap(both, in_axes=(None, 0), axis_name='devices'))(state, halves)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b[0], rtol=2e-4, atol=1e-6), one.params, two.params
  )


def test_a_term_needs_its_network():
  with pytest.raises(ValueError, match='set probe to 0'):
    autoencoder.make(autoencoder.Settings(probe=1.0), PARTS)
  with pytest.raises(ValueError, match='set task to 0'):
    hypernetwork.make(hypernetwork.Settings(task=1.0), PARTS)


def test_weights_of_one_class_are_found_by_derivatives():
  def outputs(code, images):
    hidden = jax.nn.relu(images.reshape(len(images), 4) @ code[:8].reshape(4, 2))
    return hidden @ code[9:15].reshape(2, 3) + code[15:18] + code[8]

  found = partition.of_outputs(outputs, 18, (2, 2, 1))
  np.testing.assert_array_equal(found.shared, np.arange(9))
  np.testing.assert_array_equal(found.slots, [[9, 12, 15], [10, 13, 16], [11, 14, 17]])
  x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 18)), jnp.float32)
  np.testing.assert_array_equal(found.join(*found.split(x)), x)
  with pytest.raises(ValueError, match='whose last layer is dense'):
    partition.of_outputs(lambda c, im: jax.nn.softmax(outputs(c, im)), 18, (2, 2, 1))
  with pytest.raises(ValueError, match=r'\[3, 3, 4\] weights of their own'):
    partition.of_outputs(lambda c, im: outputs(c, im).at[:, 2].add(c[18]), 19, (2, 2, 1))


def test_classes_that_are_exchanged_exchange_their_weights():
  net = slots.Slots(width=16, blocks=2, shared=5, per_slot=4)
  told = jnp.asarray(np.random.default_rng(1).normal(size=(6, 3, 4)), jnp.float32)
  params = net.init(jax.random.key(0), None, told)
  for name in ('places', 'ordered'):  # what may tell the classes apart
    params['params'][name] = jax.tree.map(jnp.zeros_like, params['params'][name])
  order = jnp.array([2, 0, 1])
  (shared, own), (same, other) = (net.apply(params, None, t) for t in (told, told[:, order]))
  np.testing.assert_allclose(same, shared, atol=1e-5)
  np.testing.assert_allclose(other, own[:, order], atol=1e-5)
  assert np.abs(own[:, 0] - own[:, 1]).max() > 0.01
