"""The generator on networks that are one linear layer, and tasks that a condition tells whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax.tasks import conditioning, set_encoder
from dapt_jax.training import repeated
from dapt_jax.weights import autoencoder, batches, generator, hypernetwork, partition

# Two classes of points in the plane: a condition is the direction to each, from the middle.
SIZE, LATENT = 6, 2
#: A column of the kernel for every class; biases count as shared.
PARTS = partition.Partition(np.arange(4, 6), np.array([[0, 2], [1, 3]]))


def _outputs(code, images):
  weights = code.reshape(3, 2)
  return images.reshape(len(images), 2) @ weights[:2] + weights[2]


def _tasks(key, count):
  """Directions f32[count, 2], points f32[count, 8, 2, 1, 1] and labels i32[count, 8]."""
  angle = jax.random.uniform(key, (count,), maxval=2 * jnp.pi)
  direction = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
  labels = jnp.tile(jnp.arange(8) % 2, (count, 1))
  noise = 0.3 * jax.random.normal(jax.random.fold_in(key, 1), (count, 8, 2))
  points = (2.0 * labels - 1.0)[..., None] * direction[:, None] + noise
  return direction, points[..., None, None], labels


def _condition(direction):
  """f32[..., 2, 2], a row for each class."""
  return jnp.stack([-direction, direction], axis=-2)


def _weights(direction):
  """A network that is right: its second logit grows along the direction."""
  zero = jnp.zeros_like(direction)
  kernel = jnp.stack([-direction, direction], axis=2)
  return jnp.concatenate([kernel.reshape(-1, 4), zero], axis=1)


def _coder():
  settings = autoencoder.Settings(LATENT, 1, 16, 1, steps=400, learning_rate=3e-3)
  made = autoencoder.make(settings, PARTS)
  codes = _weights(_tasks(jax.random.key(1), 256)[0])
  run = repeated.repeated(made.update, lambda data, key: (data, None), 400)
  state, _ = jax.jit(run)(made.init(jax.random.key(0)), codes)
  return made, state.params, codes


@pytest.fixture(scope='module')
def coder():
  return _coder()


def _draw(data, key):
  latents, direction, points, labels, fresh = data
  chosen = jax.random.randint(key, (32,), 0, len(latents))
  told = {
    'condition': _condition(direction[chosen]),
    'images': points[chosen],
    'labels': labels[chosen],
  }
  if fresh is not None:
    other = jax.random.randint(jax.random.fold_in(key, 1), (32,), 0, len(fresh[0]))
    names = ('condition', 'images', 'labels')
    told['fresh'] = {n: a[other] for n, a in zip(names, (_condition(fresh[0]), *fresh[1:]))}
    told['fresh']['key'] = jax.random.split(jax.random.fold_in(key, 2), 32)
  return latents[chosen], told


def _trained(coder, count, steps=300, **changes):
  made, params, codes = coder
  latents = generator.encode(made, params, codes)
  options = {'width': 16, 'blocks': 1, 'steps': steps, 'learning_rate': 3e-3, 'ema_decay': 0.98}
  settings = generator.Settings(**{**options, 'task': 0.0, 'fresh': 0.0, **changes})
  built = generator.make(settings, made, params, latents, (2, 2), _outputs)
  own = _tasks(jax.random.key(1), 256)
  fresh = _tasks(jax.random.key(7), 64) if settings.fresh else None
  data = latents.values[:count], *(a[:count] for a in own), fresh
  run = jax.jit(repeated.repeated(built.training.update, _draw, steps))
  state, metrics = run(built.training.init(jax.random.key(0)), data)
  return built, state, metrics


def _accuracy(built, state, guidance=None, told=None):
  direction, points, labels = _tasks(jax.random.key(99), 64)
  sample = jax.jit(lambda p, c, key: built.sample(p, c, key, guidance, num_steps=8))
  given = _condition(direction if told is None else told(direction))
  codes = sample(state.ema, given, jax.random.key(3))
  return float((jax.vmap(_outputs)(codes, points).argmax(-1) == labels).mean())


def test_networks_for_unseen_tasks_are_drawn(coder):
  built, state, metrics = _trained(coder, 256)
  assert _accuracy(built, state) > 0.9
  # The condition is what it goes by: the opposite one gives the opposite labels.
  assert _accuracy(built, state, told=lambda c: -c) < 0.1
  assert set(metrics) == {'loss'}


def test_the_task_term_needs_few_networks_with_fresh_tasks(coder):
  few = {}
  for name, changes in (('plain', {}), ('fresh', {'task': 1.0, 'fresh': 1.0})):
    built, state, metrics = _trained(coder, 4, **changes)
    few[name] = _accuracy(built, state)
  assert set(metrics) == {'loss', 'error', 'penalty'}
  assert few['fresh'] > 0.9 and few['fresh'] > few['plain'] + 0.1


def _encoder():
  """Rows are sums over the images f32[B, 2, k, 2], through a matrix that must be learned."""
  init = lambda key, told: 0.1 * jax.random.normal(key, (told.shape[-1], 3))
  encode = lambda p, told, mask=None: set_encoder.Condition(None, told.sum(2) @ p)
  return conditioning.Encoder(init, encode)


def test_an_encoder_is_trained_along(coder):
  made, params, codes = coder
  latents = generator.encode(made, params, codes)
  settings = generator.Settings(
    **{'width': 16, 'blocks': 1, 'steps': 300, 'learning_rate': 3e-3, 'ema_decay': 0.98},
    **{'task': 0.0, 'fresh': 1.0},
  )
  encoder = _encoder()
  built = generator.make(settings, made, params, latents, (2, 1, 2), _outputs, encoder)
  sets = lambda told: {
    k: sets(v) if k == 'fresh' else v[:, :, None] if k == 'condition' else v
    for k, v in told.items()
  }

  def draw(data, key):
    chosen, told = _draw(data, key)
    return chosen, sets(told)

  data = latents.values, *_tasks(jax.random.key(1), 256), _tasks(jax.random.key(7), 64)
  run = jax.jit(repeated.repeated(built.training.update, draw, 300))
  start = built.training.init(jax.random.key(0))
  state, _ = run(start, data)
  direction, points, labels = _tasks(jax.random.key(99), 64)
  # Any number of images: here two, whose sum is the direction.
  given = jnp.repeat(_condition(direction)[:, :, None], 2, axis=2) / 2
  sample = jax.jit(lambda p, c: built.sample(p, c, jax.random.key(3), None, num_steps=8))
  right = lambda p: float(
    (jax.vmap(_outputs)(sample(p, given), points).argmax(-1) == labels).mean()
  )
  assert right(state.ema) > 0.9
  # The rows that it learned to write are what the denoiser goes by.
  learned, first = state.ema['encoder'], start.params['encoder']
  assert float(jnp.abs(learned - first).max()) > 0.05
  assert right({**state.ema, 'encoder': -learned}) < 0.1
  with pytest.raises(ValueError, match=r'takes \(B, 2, k, 2\)'):
    built.sample(state.ema, given[..., :1], jax.random.key(3))
  network = hypernetwork.make(hypernetwork.Settings(8, 1), PARTS, encoder=encoder)
  begun = network.init(jax.random.key(0), given)
  assert set(begun.params) == {'network', 'encoder'}
  np.testing.assert_allclose(
    network.predict(begun.params, given),
    network.predict(begun.params, given.sum(2, keepdims=True)),
    atol=1e-5,
  )


def _data(**changes):
  """Four tasks of two classes with six images each, all images apart; image n has features n."""
  rows = jnp.arange(48).reshape(4, 2, 6)
  images = jnp.arange(48.0)[:, None, None, None] * jnp.ones((48, 2, 2, 1))
  numbers = jnp.arange(4.0)[:, None]
  return batches.Data(numbers, numbers, rows, images)._replace(**changes)


def test_batches_tell_tasks_by_features_that_are_stored_or_computed():
  look = lambda pictures: 100 + pictures.mean((-3, -2, -1))[..., None]
  how = conditioning.make('set_transformer', 2, look=look)
  known = jnp.arange(48.0)[:, None]
  data = _data(
    known=known, fresh=jnp.arange(24).reshape(2, 2, 6), widths=jnp.eye(2)[jnp.array([0, 1, 1, 0])]
  )
  draw = batches.of_generator(8, batches.Told((1, 4), 3, 0.5, how))
  latents, told = draw(data, jax.random.key(0))
  given = np.asarray(told['condition'])
  assert given.shape == (8, 2, 4, 1 + 1 + 2)
  # Stored features of the networks' own tasks; 1 or 4 images count; the width is told last.
  task = np.asarray(latents[:, 0], int)
  assert (given[..., 1] // 12 == task[:, None, None]).all()
  counts = given[..., 0].sum(-1)
  assert set(counts.ravel()) == {1.0, 4.0} and (counts[:, 0] == counts[:, 1]).all()
  np.testing.assert_array_equal(given[:, 0, 0, 2:], data.widths[task])
  # Fresh tasks may be distorted, so their features are computed.
  assert (told['fresh']['condition'][..., 1] >= 100).all()
  plain = batches.of_hypernetwork(8, batches.Told((4,), 3, 0.0, how))(data, jax.random.key(0))[1]
  assert (plain['fresh']['condition'][..., 1] < 24).all() and plain['condition'][..., 0].all()
  with pytest.raises(ValueError, match='50% of the tasks are distorted, but only stored'):
    batches.of_generator(8, batches.Told((4,), 3, 0.5, how._replace(look=None)))
  told, _, latents = batches.of_alignment(4, batches.Told((4,), 0, how=how))(
    data, jax.random.key(0)
  )
  task = np.asarray(latents[:, 0], int)
  assert sorted(task) == [0, 1, 2, 3]
  assert (told[..., 1] // 12 == task[:, None, None]).all()


def test_guidance_without_a_condition_is_unconditional(coder):
  built, state, _ = _trained(coder, 256, drop_rate=0.3)
  alone = _accuracy(built, state, guidance=0.0)
  turned = _accuracy(built, state, guidance=0.0, told=lambda c: -c)
  assert alone == pytest.approx(turned, abs=1e-6)
  assert _accuracy(built, state, guidance=1.5) > 0.9


def test_latents_are_standardised(coder):
  made, params, codes = coder
  latents = generator.encode(made, params, codes)
  np.testing.assert_allclose(latents.values.mean(0), 0, atol=1e-4)
  assert float(latents.values.std(0).max()) == pytest.approx(1, abs=1e-3)
  again = made.decode(params, latents.values * latents.std + latents.mean)
  assert float(jnp.square(again - codes).mean()) < 0.05


def test_bad_settings(coder):
  made, params, codes = coder
  latents = generator.encode(made, params, codes)
  build = lambda outputs, **c: generator.make(
    generator.Settings(**c), made, params, latents, (2, 2), outputs
  )
  with pytest.raises(ValueError, match='set both to 0'):
    build(None)
  with pytest.raises(ValueError, match="take 'v'"):
    build(_outputs, objective='epsilon')
  assert build(None, task=0.0, fresh=0.0, objective='epsilon')
