"""Trains a generator of weights on a zoo: codec, autoencoder, gate, diffusion, hypernetwork.

  python -m experiments.train_generator --config=configs/generate.py --workdir=runs/generate

Needs WORKDIR/zoo (`experiments.build_zoo`). Writes WORKDIR/codec.* and WORKDIR/generator.*. The
gate: networks of held-out tasks, which are trained for it, must keep their accuracy through the
autoencoder; reconstructions of the zoo's own networks would hide over-fitting.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.training import loop, repeated, seeds
from dapt_jax.training import workdir as workdir_lib
from dapt_jax.types import Params
from dapt_jax.weights import autoencoder, batches, codec, generator, hypernetwork, members, trained
from dapt_jax.weights import zoo as zoo_lib
from experiments import build_zoo, flags, generation, zoo_task


def coder_of(config: Any, size: int, outputs: Any) -> autoencoder.Autoencoder:
  """The autoencoder of a configuration, for codes of `size` entries."""
  c = config.autoencoder
  settings = autoencoder.Settings(
    size,
    c.latent,
    tuple(c.hidden),
    noise=c.noise,
    latent_noise=c.latent_noise,
    kl=c.kl,
    probe=c.probe,
    learning_rate=c.learning_rate,
    steps=c.steps,
  )
  return autoencoder.make(settings, outputs)


def generator_of(
  config: Any,
  coder: autoencoder.Autoencoder,
  coder_params: Params,
  latents: generator.Latents,
  condition_size: int,
  outputs: Any,
) -> generator.Generator:
  """The generator of a configuration."""
  names = ('objective', 'schedule', 'width', 'blocks', 'task', 'fresh', 'drop_rate', 'ema_decay')
  fields = {name: config.generator[name] for name in (*names, 'learning_rate', 'steps')}
  settings = generator.Settings(**fields)
  return generator.make(settings, coder, coder_params, latents, condition_size, outputs)


def hypernetwork_of(
  config: Any, variant: str, size: int, outputs: Any
) -> hypernetwork.Hypernetwork:
  """One of the hypernetworks of a configuration."""
  c, (regression, task) = config.hypernetwork, generation.HYPERNETWORKS[variant]
  settings = hypernetwork.Settings(
    size, tuple(c.hidden), regression, task, learning_rate=c.learning_rate, steps=c.steps
  )
  return hypernetwork.make(settings, outputs)


def outputs_of(task: zoo_task.ZooTask, coding: codec.Codec) -> generator.Outputs:
  """Logits of a network from its code, on images; with their statistics where it normalises."""

  def outputs(code: jax.Array, images: jax.Array) -> jax.Array:
    variables = coding.decode(code)
    if 'batch_stats' in variables:
      return task.model.apply_train(variables, images)[0]
    return task.model.apply(variables, images)

  return outputs


def fit(
  config: Any,
  path: pathlib.Path,
  kind: str,
  update: Callable[..., Any],
  state: Any,
  draw: batches.Draw,
  data: batches.Data,
  steps: int,
) -> Any:
  """Runs one training in a directory of its own; goes on where an earlier call was stopped."""
  t = config.training
  sections = ('seed', 'data', 'model', 'zoo', 'autoencoder', 'training', 'sample', kind)
  described = {name: config[name] for name in sections}
  described['sample'] = {'support': config.sample.support}
  run = jax.jit(repeated.repeated(update, draw, t.repeat), donate_argnums=0)
  with workdir_lib.open_workdir(path, described, kind=kind) as opened:
    done = loop.run(
      run,
      state,
      lambda _: data,
      num_steps=max(steps // t.repeat, 1),
      workdir=opened,
      checkpoint_every=t.checkpoint_every,
      keep=1,
      log_every=max(t.checkpoint_every // 4, 1),
      shown=('loss', 'error', 'penalty'),
      name=kind,
    )
  return done.state


def check_gate(
  config: Any,
  task: zoo_task.ZooTask,
  workdir: str,
  coding: codec.Codec,
  rebuild: Callable[[jax.Array], jax.Array],
) -> dict[str, dict[str, float]]:
  """Accuracy of reconstructed networks of held-out tasks, {part: {'original', ..., 'share'}}.

  Raises:
    ValueError: if networks for unseen classes keep a smaller share than `autoencoder.gate`.
  """
  found = {}
  for part in config.compare.parts:
    tests = zoo_lib.build(
      pathlib.Path(workdir) / f'held-{part.replace("/", "-")}',
      task.model,
      task.bank,
      zoo_task.plan(config, part=part, size=config.compare.tasks, shard=config.compare.tasks),
      zoo_task.recipe(config),
      head=zoo_task.head(config, task),
    )
    codes = jax.jit(coding.encode)(zoo_task.variables(task, tests.vectors))
    again = zoo_task.vectors(task, coding, rebuild(codes))
    test = task.bank.draw(tests.tasks, part, 'test', config.zoo.test_per_class, config.seed)
    own = task.bank.draw(tests.tasks, part, 'train', config.zoo.per_class, config.seed)
    first, second = (_accuracy(task, v, own, test) for v in (jnp.asarray(tests.vectors), again))
    found[part] = {'original': first, 'rebuilt': second, 'share': second / first}
    print(f'gate, {part}: {second:.3f} rebuilt, {first:.3f} trained, {second / first:.1%} kept')
  worst = found[config.compare.parts[0]]['share']
  if worst < config.autoencoder.gate:
    raise ValueError(
      f'the autoencoder keeps {worst:.3f} of the accuracy of networks of held-out tasks; '
      f'autoencoder.gate is {config.autoencoder.gate}: take a larger zoo or latent, raise '
      'autoencoder.probe, or lower the gate'
    )
  return found


def _accuracy(
  task: zoo_task.ZooTask, vectors: jax.Array, own: np.ndarray, test: np.ndarray
) -> float:
  """Mean over networks, each normalised by training images `own` of its task."""
  vectors = members.refresh(task.flat, vectors, task.images, jnp.asarray(own))
  return float(members.accuracy(task.flat, vectors, task.images, jnp.asarray(test)).mean())


def run(config: Any, task: zoo_task.ZooTask, found: zoo_lib.Zoo, workdir: str) -> trained.Arrays:
  """Trains what is not trained yet and writes the generator."""
  root = pathlib.Path(workdir)
  stack = zoo_task.variables(task, found.vectors)
  coding = codec.Codec.fit(stack)
  coding.save(root / 'codec')
  outputs = outputs_of(task, coding)
  rows = jnp.asarray(zoo_task.training_rows(config, task, found))
  codes = jax.jit(coding.encode)(stack)
  data = batches.Data(codes, None, rows, task.images)
  size, t = codes.shape[1], config.training.batch_size

  coder = coder_of(config, size, outputs)
  probes = config.autoencoder.probes if config.autoencoder.probe else 0
  first = coder.init(seeds.key(config.seed, 'autoencoder'))
  coded = fit(
    *(config, root / 'autoencoder', 'autoencoder', coder.update, first),
    *(batches.of_autoencoder(t, probes), data, config.autoencoder.steps),
  )
  rebuild = jax.jit(lambda x: coder.decode(coded.params, coder.encode(coded.params, x)[0]))
  gate = check_gate(config, task, workdir, coding, rebuild)

  latents = generator.encode(coder, coded.params, codes)
  fresh = None
  if config.generator.fresh:
    fresh = jnp.asarray(zoo_task.fresh_rows(config, task, config.generator.fresh_tasks))
  data = data._replace(latents=latents.values, fresh=fresh)
  k, shown = config.sample.support, config.generator.shown
  given = batches.condition(data.images, rows[:1, :, :k])
  made = generator_of(config, coder, coded.params, latents, given.shape[1], outputs)
  start = made.training.init(seeds.key(config.seed, 'generator'))
  drawn = fit(
    *(config, root / 'diffusion', 'generator', made.training.update, start),
    *(batches.of_generator(t, k, shown), data, config.generator.steps),
  )

  written = {}
  for variant in config.hypernetwork.variants:
    network = hypernetwork_of(config, variant, size, outputs)
    begin = network.init(seeds.key(config.seed, 'hypernetwork'), given)
    written[variant] = fit(
      *(config, root / f'hypernetwork-{variant}', 'hypernetwork', network.update, begin),
      *(batches.of_hypernetwork(t, k, shown), data, config.hypernetwork.steps),
    ).params
  arrays = trained.Arrays(
    settings={'config': config.to_dict(), 'gate': gate, 'architecture': task.architecture},
    coder=coded.params,
    latent_mean=np.asarray(latents.mean),
    latent_std=np.asarray(latents.std),
    generator=drawn.ema,
    hypernetwork=written,
  )
  arrays.save(root / 'generator')
  return arrays


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Trains a generator."""
  if overwrite:
    root = pathlib.Path(workdir)
    flags.clear([root / 'autoencoder', root / 'diffusion', *root.glob('hypernetwork-*')])
  task = zoo_task.load(config)
  found = build_zoo.run(config, task, workdir)
  arrays = run(config, task, found, workdir)
  print(f'{pathlib.Path(workdir) / "generator"}.json: {arrays.parameters():,} parameters')


if __name__ == '__main__':
  flags.run(main, generation)
