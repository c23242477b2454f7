"""Networks that read and write weights in tokens: cutting, autoencoder, denoiser, hypernetwork."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax.models import segments
from dapt_jax.weights import (
  autoencoder,
  generator,
  hypernetwork,
  layout,
  partition,
  token_autoencoder,
)
from dapt_jax.weights import tokens as tokens_lib

WIDTH, CLASSES = 5, 3
LAYOUT = layout.Layout.of(
  [
    {
      'params': {
        'a': {'kernel': np.zeros((4, WIDTH)), 'bias': np.zeros(WIDTH)},
        'b': {'kernel': np.zeros((WIDTH, CLASSES)), 'bias': np.zeros(CLASSES)},
      }
    }
  ]
)


def _outputs(vector, images):
  """A perceptron of two layers on four inputs."""
  tree = LAYOUT.unflatten(vector, np.zeros(0))['params']
  hidden = jnp.tanh(images.reshape(len(images), 4) @ tree['a']['kernel'] + tree['a']['bias'])
  return hidden @ tree['b']['kernel'] + tree['b']['bias']


PARTS = partition.of_outputs(_outputs, LAYOUT.size, (2, 2, 1))
#: Two units of five weights in a token of the first layer, one class of six in those of the last.
TOKENS = tokens_lib.Tokens.of(LAYOUT, 11, PARTS.owners)
SETTINGS = autoencoder.Settings(width=32, blocks=1, per_token=2, steps=300, learning_rate=3e-3)


def _weights(count, seed=0):
  """Vectors on a bent surface of three dimensions, f32[count, D]."""
  rng = np.random.default_rng(seed)
  mix = np.random.default_rng(9).normal(size=(3, LAYOUT.size))
  return jnp.asarray(np.tanh(rng.normal(size=(count, 3)) @ mix), jnp.float32)


def _train(made, state, batch, steps):
  @jax.jit
  def many(state):
    return jax.lax.scan(lambda s, _: made.update(s, batch), state, length=steps)

  return many(state)


def test_units_share_tokens_unless_they_belong_to_classes():
  assert TOKENS.shape == (6, 11) and TOKENS.sizes == (3, 3)
  np.testing.assert_array_equal(TOKENS.owners(PARTS.owners), [-1, -1, -1, 0, 1, 2])
  vector = jnp.arange(1.0, 1 + LAYOUT.size)
  np.testing.assert_array_equal(TOKENS.unpack(TOKENS.pack(vector)), vector)
  tree = LAYOUT.unflatten(vector, np.zeros(0))['params']
  unit = lambda layer, k: np.append(tree[layer]['kernel'][:, k], tree[layer]['bias'][k])
  packed = np.asarray(TOKENS.pack(vector))
  np.testing.assert_array_equal(packed[1], [*unit('a', 2), *unit('a', 3), 0])
  np.testing.assert_array_equal(packed[2], [*unit('a', 4), *np.zeros(6)])
  np.testing.assert_array_equal(packed[4], [*unit('b', 1), *np.zeros(5)])
  # Long units are cut as ever, and where classes are unknown every unit stays alone.
  assert tokens_lib.Tokens.of(LAYOUT, 4, PARTS.owners).sizes == (10, 6)
  assert tokens_lib.Tokens.of(LAYOUT, 11).sizes == (5, 3)


@pytest.fixture(scope='module')
def trained():
  made = token_autoencoder.make(SETTINGS, PARTS, TOKENS)
  state, metrics = _train(made, made.init(jax.random.key(0)), (_weights(128), None), 300)
  return made, state.params, metrics


def test_autoencoder_finds_the_surface(trained):
  made, params, metrics = trained
  fresh = _weights(64, seed=1)
  found = made.decode(params, made.encode(params, fresh)[0])
  assert jnp.square(found - fresh).mean() < 0.1 * fresh.var()
  assert set(metrics) == {'loss', 'error', 'kl'} and metrics['kl'][-1] > 0


def test_latents_are_shared_tokens_and_then_class_after_class(trained):
  made, params, _ = trained
  assert (made.size, made.shared) == (12, 6)
  np.testing.assert_array_equal(made.owners, np.eye(6, CLASSES, -3))
  # The numbers of a token are what its weights are written from, beside what all tokens tell.
  alone = token_autoencoder.make(
    autoencoder.Settings(width=32, blocks=0, per_token=2), PARTS, TOKENS
  )
  params = alone.init(jax.random.key(0)).params
  z = jnp.zeros((1, 12))
  moved = alone.decode(params, z.at[0, 8:10].add(1.0)) - alone.decode(params, z)
  np.testing.assert_array_equal(np.flatnonzero(np.abs(moved[0]) > 1e-6), np.sort(PARTS.slots[1]))
  mean = lambda x: alone.encode(params, x)[0]
  x = _weights(1)
  told = np.flatnonzero(np.abs(mean(x.at[0, PARTS.slots[2, 0]].add(1.0)) - mean(x))[0] > 1e-6)
  np.testing.assert_array_equal(told, [10, 11])


@pytest.mark.parametrize('network', generator.NETWORKS)
def test_a_generator_draws_what_the_condition_says(trained, network):
  made, params, _ = trained
  codes = _weights(128)
  latents = generator.encode(made, params, codes)
  # Each class is told its own weights, and by its own row only.
  told = lambda x: x[:, PARTS.slots]
  settings = generator.Settings(
    network=network, width=32, blocks=1, task=0.0, fresh=0.0, steps=200, learning_rate=3e-3
  )
  built = generator.make(settings, made, params, latents, (CLASSES, PARTS.slots.shape[1]))
  batch = latents.values, {'condition': told(codes)}
  state, metrics = _train(built.training, built.training.init(jax.random.key(0)), batch, 200)
  assert metrics['loss'][-20:].mean() < 0.3 * metrics['loss'][0]
  sample = jax.jit(lambda c: built.sample(state.params, c, jax.random.key(1), num_steps=8))
  fresh = _weights(64, seed=1)
  error = lambda x: float(jnp.square(x - fresh).mean() / fresh.var())
  assert error(sample(told(fresh))) < 0.3 < error(sample(told(fresh)[::-1]))


def test_hypernetwork_writes_tokens():
  codes = _weights(128)
  told = {'condition': codes[:, PARTS.slots]}
  settings = hypernetwork.Settings(32, 1, steps=300, learning_rate=3e-3)
  made = hypernetwork.make(settings, PARTS, None, TOKENS)
  state, _ = _train(made, made.init(jax.random.key(0), told['condition']), (codes, told), 300)
  fresh = _weights(64, seed=1)
  found = made.predict(state.params, fresh[:, PARTS.slots])
  assert jnp.square(found - fresh).mean() < 0.1 * fresh.var()


def test_parameters_do_not_grow_with_weights_times_width():
  count = lambda sizes, length: sum(
    x.size
    for x in jax.tree.leaves(
      jax.eval_shape(
        segments.Segments(sizes, 64, 2, length).init,
        jax.random.key(0),
        jnp.zeros((1, sum(sizes), length)),
      )
    )
  )
  more = count((400, 10), 256) - count((40, 10), 256)
  assert more == 360 * 3 * 64  # place and factors of every token; 92,160 weights more


def test_bad_tokens():
  with pytest.raises(ValueError, match=r'have \[0, 0, 0\] tokens of their own'):
    one = tokens_lib.Tokens.of(LAYOUT, 60, np.full(LAYOUT.size, -1))
    token_autoencoder.make(SETTINGS, PARTS, one)
  with pytest.raises(ValueError, match='hold 43 weights, the partition has 12'):
    token_autoencoder.make(SETTINGS, partition.consecutive(3, 3, 3), TOKENS)
  slots = autoencoder.make(autoencoder.Settings(probe=0.0), PARTS)
  latents = generator.Latents(*jnp.zeros((3, 1, slots.size)))
  build = lambda **c: generator.make(
    generator.Settings(task=0.0, fresh=0.0, **c), slots, None, latents, (3, 2)
  )
  with pytest.raises(ValueError, match='latents of this autoencoder are none'):
    build(network='tokens')
  with pytest.raises(ValueError, match=r"network is 'mlp'; choose one of \('slots', 'tokens'\)"):
    build(network='mlp')
