"""What `benchmarks.weights` times: every function here returns a call of one stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.tasks import conditioning
from dapt_jax.types import Params
from dapt_jax.weights import autoencoder, batches, generator, members, starts
from dapt_jax.weights import codec as codec_lib
from experiments import generation, train_generator, zoo_task

STAGES = ('data', 'zoo', 'autoencoder', 'generator', 'drawing')
#: Updates that a network of a zoo is trained for here; the recipe has 500.
STEPS = 50
Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Setting:
  """Random networks in the place of a zoo.

  Attributes:
    config: of the apps that generate weights.
    task: data and model.
    vectors: f32[N, size].
    stack: the same as variables.
    codec: fitted to them.
    rows: i32[N, classes, K], training images.
  """

  config: Any
  task: zoo_task.ZooTask
  vectors: np.ndarray
  stack: Params
  codec: codec_lib.Codec
  rows: jax.Array

  @property
  def images(self) -> jax.Array:
    """f32[n, H, W, C]."""
    return jnp.asarray(self.task.bank.images)


def pilot(count: int) -> Setting:
  """Networks of configs/generate.py."""
  return _setting(generation.default(), count)


def large(widths: Sequence[int], count: int, network: str, width: int, chunk: int) -> Setting:
  """Perceptrons on 28x28 images.

  Args:
    widths: hidden ones.
    count: networks.
    network: how weights are read, 'slots' or 'tokens'.
    width: of the autoencoder.
    chunk: weights a token, of 'tokens'.
  """
  config = generation.default()
  config.data.update({'sources': ('mnist',), 'held_views': (), 'transforms': ('rot0',)})
  config.data.image_size, config.compare.parts = 28, ('new_classes',)
  config.model.options = {'widths': tuple(widths)}
  config.autoencoder.update({'network': network, 'width': width})
  if network == 'tokens':
    config.autoencoder.update({'chunk': chunk, 'blocks': 2, 'per_token': 8})
    config.generator.update({'network': 'tokens', 'width': 128})
  config.zoo.group = min(count, 8)
  return _setting(config, count)


def _setting(config: Any, count: int) -> Setting:
  task = zoo_task.load(config)
  vectors = np.random.default_rng(0).standard_normal((count, task.flat.size), np.float32) / 10
  stack = zoo_task.variables(task, vectors)
  config.fresh.tasks = count
  rows = jnp.asarray(zoo_task.fresh_rows(config, task))
  return Setting(config, task, vectors, stack, codec_lib.Codec.fit(stack), rows)


def zoo_trainer(s: Setting) -> Call:
  """Trains all networks for `STEPS` steps."""
  recipe = dataclasses.replace(zoo_task.recipe(s.config), steps=STEPS)
  start, keys = jnp.asarray(s.vectors), jax.random.split(jax.random.key(0), len(s.vectors))
  return lambda: members.train(s.task.flat, recipe, start, s.images, s.rows, keys).vector


def codec_fit(s: Setting) -> Call:
  """Fits the codec to the stack."""
  return lambda: codec_lib.Codec.fit(s.stack).mean


def _coder(s: Setting) -> tuple[autoencoder.Autoencoder, batches.Data]:
  outputs = train_generator.outputs_of(s.task, s.codec)
  coder = train_generator.coder_of(
    s.config, s.codec, train_generator.parts_of(s.task, s.codec), outputs
  )
  codes = jax.jit(s.codec.encode)(s.stack)
  return coder, batches.Data(codes, None, s.rows, s.images, s.rows)


def _made(s: Setting) -> tuple[generator.Generator, batches.Data]:
  coder, data = _coder(s)
  params = jax.jit(lambda key: coder.init(key).params)(jax.random.key(0))
  latents = generator.encode(coder, params, data.codes)
  shape = conditioning.PIXELS.of(data.images, s.rows[:1]).shape[1:]
  outputs = train_generator.outputs_of(s.task, s.codec)
  made = train_generator.generator_of(s.config, coder, params, latents, shape, outputs)
  return made, data._replace(latents=latents.values)


def _stepper(update: Any, draw: batches.Draw, state: Any, data: batches.Data) -> Call:
  """One update after the other; the state is kept and its old arrays are given up."""
  compiled = jax.jit(lambda state, key: update(state, draw(data, key)), donate_argnums=0)
  newest = [jax.tree.map(jnp.copy, state)]

  def call() -> jax.Array:
    newest[0], metrics = compiled(newest[0], jax.random.key(0))
    return metrics['loss']

  return call


def coder_step(s: Setting) -> Call:
  """One update of the autoencoder."""
  coder, data = _coder(s)
  draw = batches.of_autoencoder(s.config.training.batch_size, s.config.autoencoder.probes)
  return _stepper(coder.update, draw, coder.init(jax.random.key(0)), data)


def generator_step(s: Setting) -> Call:
  """One update of the generator, its task terms included."""
  made, data = _made(s)
  c = s.config
  told = batches.Told((c.sample.support,), c.generator.shown, c.fresh.warped)
  draw = batches.of_generator(c.training.batch_size, told)
  return _stepper(made.training.update, draw, made.training.init(jax.random.key(0)), data)


def drawer(s: Setting, count: int, method: str, steps: int, guidance: float | None) -> Call:
  """Draws networks, from images to weights."""
  made, data = _made(s)
  params = made.training.init(jax.random.key(0)).ema
  rows = jnp.resize(s.rows, (count, *s.rows.shape[1:]))[:, :, : s.config.sample.support]

  @jax.jit
  def draw(params: Params, images: jax.Array) -> jax.Array:
    given, key = conditioning.PIXELS.of(images, rows), jax.random.key(1)
    codes = made.sample(params, given, key, guidance, method=method, num_steps=steps)
    return jax.vmap(lambda code: s.task.flat.ravel(s.codec.decode(code)))(codes)

  return lambda: draw(params, data.images)


def nearest(s: Setting, count: int) -> Call:
  """The nearest network by conditions, for `count` tasks."""
  known = np.asarray(conditioning.PIXELS.of(s.images, s.rows[:, :, :10]))
  return lambda: starts.nearest(s.vectors, known, known[:count])


def best_of_zoo(s: Setting) -> Call:
  """All networks on the support of one task."""
  rows = np.asarray(s.rows[:1, :, :10])
  return lambda: starts.best_of_zoo(s.task.flat, s.vectors, s.images, rows)


def coder_parameters(s: Setting) -> int:
  """Parameters of the autoencoder."""
  coder, _ = _coder(s)
  shapes = jax.eval_shape(lambda key: coder.init(key).params, jax.random.key(0))
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))


def stage(name: str) -> None:
  """Runs one stage once, at the size of the pilot: 1,000 networks."""
  s = pilot(2 if name == 'data' else 1000)
  calls: dict[str, Callable[[], Call]] = {
    'data': lambda: lambda: s.images,
    'zoo': lambda: zoo_trainer(s),
    'autoencoder': lambda: coder_step(s),
    'generator': lambda: generator_step(s),
    'drawing': lambda: drawer(s, 1000, 'dpm_solver', 10, 2.0),
  }
  jax.block_until_ready(calls[name]()())
