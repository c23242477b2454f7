"""Trains a generator of weights on a zoo: codec, autoencoder, gate, diffusion, hypernetwork.

  python -m experiments.train_generator --config=configs/generate.py --workdir=runs/generate

Needs WORKDIR/zoo (`experiments.build_zoo`). Writes WORKDIR/codec.* and WORKDIR/generator.*. The
gate: networks of held-out tasks, which are trained for it, must keep their accuracy through the
autoencoder; reconstructions of the zoo's own networks would hide over-fitting.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.tasks import conditioning as conditioning_lib
from dapt_jax.training import seeds
from dapt_jax.types import Params
from dapt_jax.weights import (
  autoencoder,
  batches,
  codec,
  generator,
  hypernetwork,
  members,
  partition,
  token_autoencoder,
  tokens,
  trained,
)
from dapt_jax.weights import zoo as zoo_lib
from experiments import (
  build_zoo,
  conditioning,
  fitting,
  flags,
  generation,
  generation_schema,
  zoo_modes,
  zoo_task,
)


def parts_of(task: zoo_task.ZooTask, coding: codec.Codec) -> partition.Partition:
  """Which weights belong to one class; those of narrower networks are among them."""
  outputs, widest = outputs_of(task, coding), zoo_modes.told(task, np.array(0))
  logits = lambda code, images: outputs(code, batches.ask(images, widest))
  return partition.of_outputs(logits, coding.shape[0], task.bank.images.shape[1:])


def tokens_of(config: Any, coding: codec.Codec, parts: partition.Partition) -> tokens.Tokens:
  """The tokens that weights are read in where a network is 'tokens'."""
  return tokens.Tokens.of(coding.layout, config.autoencoder.chunk, parts.owners)


def coder_of(
  config: Any, coding: codec.Codec, parts: partition.Partition, outputs: generator.Outputs
) -> autoencoder.Autoencoder:
  """The autoencoder of a configuration."""
  fields = {f.name: config.autoencoder[f.name] for f in dataclasses.fields(autoencoder.Settings)}
  settings = autoencoder.Settings(**fields)
  if config.autoencoder.network == 'slots':
    return autoencoder.make(settings, parts, outputs)
  return token_autoencoder.make(settings, parts, tokens_of(config, coding, parts), outputs)


def generator_of(
  config: Any,
  coder: autoencoder.Autoencoder,
  coder_params: Params,
  latents: generator.Latents,
  condition_shape: tuple[int, ...],
  outputs: generator.Outputs,
  encoder: conditioning_lib.Encoder | None = None,
) -> generator.Generator:
  """The generator of a configuration."""
  fields = {f.name: config.generator[f.name] for f in dataclasses.fields(generator.Settings)}
  if not config.fresh.tasks:
    fields['fresh'] = 0.0
  settings = generator.Settings(**fields)
  return generator.make(settings, coder, coder_params, latents, condition_shape, outputs, encoder)


def hypernetwork_of(
  config: Any,
  variant: str,
  coding: codec.Codec,
  parts: partition.Partition,
  outputs: generator.Outputs,
  encoder: conditioning_lib.Encoder | None = None,
) -> hypernetwork.Hypernetwork:
  """One of the hypernetworks of a configuration."""
  c, (regression, task) = config.hypernetwork, generation_schema.HYPERNETWORKS[variant]
  settings = hypernetwork.Settings(
    c.width, c.blocks, regression, task, learning_rate=c.learning_rate, steps=c.steps
  )
  cut = tokens_of(config, coding, parts) if c.network == 'tokens' else None
  return hypernetwork.make(settings, parts, outputs, cut, encoder)


def outputs_of(task: zoo_task.ZooTask, coding: codec.Codec) -> generator.Outputs:
  """Logits of a network from its code, see `batches.ask`; BatchNorm goes by the images shown."""
  normalised = not task.flat.trained.all()
  several = len(task.widths) > 1
  masks = jax.vmap(task.flat.unravel)(jnp.asarray(task.widths.masks)) if several else None

  def outputs(code: jax.Array, asked: Any) -> jax.Array:
    variables, images = coding.decode(code), asked
    if several:
      images, width = asked
      own = lambda x, mask: x * jnp.tensordot(width, mask, 1)
      variables = jax.tree.map(own, variables, masks)
    if normalised:
      return task.model.apply_train(variables, images)[0]
    return task.model.apply(variables, images)

  return outputs


def check_gate(
  config: Any,
  task: zoo_task.ZooTask,
  found: zoo_lib.Zoo,
  workdir: str,
  coding: codec.Codec,
  rebuild: Callable[[jax.Array], jax.Array],
) -> dict[str, dict[str, float]]:
  """Accuracy of reconstructed networks of held-out tasks, {part: {'original', ..., 'share'}}.

  Raises:
    ValueError: if networks for unseen classes keep a smaller share than `autoencoder.gate`.
  """
  shares = {}
  for part in config.compare.parts:
    tests = zoo_lib.build(
      pathlib.Path(workdir) / f'held-{part.replace("/", "-")}',
      task.model,
      task.bank,
      zoo_task.plan(config, part=part, size=config.compare.tasks, shard=config.compare.tasks),
      zoo_task.recipe(config),
      narrower=task.widths.models[1:],
      head=zoo_task.head(config, task),
    )
    tests = zoo_modes.aligned(config, task, tests, found)
    codes = zoo_modes.encode(task, coding, tests)
    again = zoo_task.vectors(task, coding, rebuild(codes), tests.widths)
    test = task.bank.draw(tests.tasks, part, 'test', config.zoo.test_per_class, config.seed)
    own = task.bank.draw(tests.tasks, part, 'train', config.zoo.per_class, config.seed)
    first, second = (_accuracy(task, v, own, test) for v in (jnp.asarray(tests.vectors), again))
    shares[part] = {'original': first, 'rebuilt': second, 'share': second / first}
    print(f'gate, {part}: {second:.3f} rebuilt, {first:.3f} trained, {second / first:.1%} kept')
  worst = shares[config.compare.parts[0]]['share']
  if worst < config.autoencoder.gate:
    raise ValueError(
      f'the autoencoder keeps {worst:.3f} of the accuracy of networks of held-out tasks; '
      f'autoencoder.gate is {config.autoencoder.gate}: take a larger zoo or latent, raise '
      'autoencoder.probe, or lower the gate'
    )
  return shares


def _accuracy(
  task: zoo_task.ZooTask, vectors: jax.Array, own: np.ndarray, test: np.ndarray
) -> float:
  """Mean over networks, each normalised by training images `own` of its task."""
  vectors = members.refresh(task.flat, vectors, task.images, jnp.asarray(own))
  return float(members.accuracy(task.flat, vectors, task.images, jnp.asarray(test)).mean())


def run(config: Any, task: zoo_task.ZooTask, found: zoo_lib.Zoo, workdir: str) -> trained.Arrays:
  """Trains what is not trained yet and writes the generator."""
  root = pathlib.Path(workdir)
  coding = zoo_modes.fit_codec(config, task, found)
  coding.save(root / 'codec')
  outputs = outputs_of(task, coding)
  rows = zoo_task.training_rows(config, task, found)
  codes = zoo_modes.encode(task, coding, found)
  widths = zoo_modes.told(task, found.widths)
  data = batches.Data(codes, None, jnp.asarray(rows), task.images, widths=widths)
  parts, t = parts_of(task, coding), config.training.batch_size

  coder = coder_of(config, coding, parts, outputs)
  probes = config.autoencoder.probes if config.autoencoder.probe else 0
  first = coder.init(seeds.key(config.seed, 'autoencoder'))
  coded = fitting.fit(
    *(config, root / 'autoencoder', 'autoencoder', coder.update, first),
    *(batches.of_autoencoder(t, probes), data, config.autoencoder.steps),
  )
  rebuild = jax.jit(lambda x: coder.decode(coded.params, coder.encode(coded.params, x)[0]))
  gate = check_gate(config, task, found, workdir, coding, rebuild)

  latents = generator.encode(coder, coded.params, codes)
  learned = conditioning.learn(config, task, found, rows, workdir)
  how = conditioning.make(config, task, learned, workdir)
  fresh = zoo_task.fresh_rows(config, task)
  data = data._replace(
    latents=latents.values,
    fresh=None if fresh is None else jnp.asarray(fresh),
    known=how.known(task.bank.images) if how.known else None,
  )
  sizes = conditioning.sizes(config)
  given = how.of(data.images, data.rows[:1, :, : max(sizes)], data.known)
  given = batches.tell(given, None if widths is None else widths[:1])
  how = conditioning.aligned(config, how, data, given, workdir)
  warped = config.fresh.warped if config.fresh.tasks else 0.0
  shown = batches.Told(sizes, config.generator.shown, warped, how)
  made = generator_of(config, coder, coded.params, latents, given.shape[1:], outputs, how.encoder)
  start = made.training.init(seeds.key(config.seed, 'generator'))
  drawn = fitting.fit(
    *(config, root / 'diffusion', 'generator', made.training.update, start),
    *(batches.of_generator(t, shown), data, config.generator.steps),
  )

  written = {}
  for variant in config.hypernetwork.variants:
    network = hypernetwork_of(config, variant, coding, parts, outputs, how.encoder)
    begin = network.init(seeds.key(config.seed, 'hypernetwork'), given)
    written[variant] = fitting.fit(
      *(config, root / f'hypernetwork-{variant}', 'hypernetwork', network.update, begin),
      *(batches.of_hypernetwork(t, shown), data, config.hypernetwork.steps),
    ).params
  arrays = trained.Arrays(
    settings={'config': config.to_dict(), 'gate': gate, 'architecture': task.architecture},
    coder=coded.params,
    latent_mean=np.asarray(latents.mean),
    latent_std=np.asarray(latents.std),
    generator=drawn.ema,
    hypernetwork=written,
    features=learned,
  )
  arrays.save(root / 'generator')
  return arrays


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Trains a generator."""
  if overwrite:
    root = pathlib.Path(workdir)
    names = ('autoencoder', 'alignment', 'diffusion')
    flags.clear([*(root / name for name in names), *root.glob('hypernetwork-*')])
  task = zoo_task.load(config)
  found = build_zoo.run(config, task, workdir)
  arrays = run(config, task, found, workdir)
  print(f'{pathlib.Path(workdir) / "generator"}.json: {arrays.parameters():,} parameters')


if __name__ == '__main__':
  flags.run(main, generation)
