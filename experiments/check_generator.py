"""Does a generator listen to what it is told, and are its networks new? Tests on held-out tasks.

  python -m experiments.check_generator --config=configs/generate.py --workdir=runs/generate

Needs WORKDIR/generator (`experiments.train_generator`). Writes WORKDIR/checks.json with rows
and verdicts, checks.npz with figures of every task for `experiments.checks_table`, novelty.png and
.svg, and prints the tables.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import numpy as np

from dapt_jax.training import seeds, writers
from dapt_jax.weights import checks, novelty, novelty_report, starts
from dapt_jax.weights import zoo as zoo_lib
from experiments import build_zoo, checks_table, compare_starts, flags, generation, zoo_task


def check(
  source: compare_starts.Starts, held: zoo_task.Held, *, draws: int = 4
) -> dict[str, checks.Checks]:
  """{method: its checks}, of the generator and of every hypernetwork."""
  config, task = source.config, source.task
  key = seeds.key(config.seed, f'checks {held.part}')
  run = functools.partial(
    checks.run,
    conditions=np.asarray(source.conditions(held.support)),
    flat=task.flat,
    images=source.images,
    tests=held.test,
    key=key,
  )
  drawn = lambda guidance: lambda given, key: source.draw(given, key, guidance)
  found = {
    'generator': run(drawn(config.sample.guidance), unconditional=drawn(0.0), draws=draws),
    'generator, no guidance': run(drawn(None), unconditional=drawn(0.0), draws=draws),
  }
  for variant in source.hypernetworks:
    written = lambda given, key, v=variant: source.written(v, given)[:, 0]
    found[f'hypernetwork, {variant}'] = run(written, draws=1)
  return found


def round_trip(source: compare_starts.Starts, vectors: jax.Array) -> jax.Array:
  """Networks f32[N, size] encoded and decoded again by the autoencoder."""
  coder, params = source.coder, source.arrays.coder
  codes = jax.jit(source.codec.encode)(zoo_task.variables(source.task, np.asarray(vectors)))
  again = jax.jit(lambda x: coder.decode(params, coder.encode(params, x)[0]))(codes)
  return zoo_task.vectors(source.task, source.codec, again)


def report(source: compare_starts.Starts, held: zoo_task.Held) -> novelty_report.Report:
  """Novelty of the generator's networks, as many a task as `sample.candidates`."""
  config, task = source.config, source.task
  s = config.sample
  given = source.conditions(held.support)
  return novelty.report(
    task.flat,
    source.vectors,
    source.sampled(given, s.candidates, s.guidance, f'{held.part} guided'),
    zoo_task.trained(config, task, held),
    starts.best_rows(task.flat, source.vectors, source.images, held.support),
    source.images,
    held.test,
    seeds.key(config.seed, f'novelty {held.part}'),
    through=functools.partial(round_trip, source),
  )


def run(
  config: Any, task: zoo_task.ZooTask, found: zoo_lib.Zoo, workdir: str
) -> dict[str, checks_table.Part]:
  """Tests everything on every part and writes what came out."""
  source = compare_starts.Starts(config, task, found, workdir)
  parts, reports = {}, {}
  for part in config.compare.parts:
    held = zoo_task.held(config, task, part)
    made = reports[part.replace('_', ' ')] = report(source, held)
    parts[part] = checks_table.Part(check(source, held), made.values())
  root = pathlib.Path(workdir)
  checks_table.save(root / 'checks.npz', parts)
  rows = {name: part.rows() for name, part in parts.items()}
  writers.write_json(root / 'checks.json', {'config': config.to_dict(), 'parts': rows})
  page = novelty_report.figure(reports)
  for suffix in ('png', 'svg'):
    page.savefig(root / f'novelty.{suffix}')
  return parts


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Tests a generator."""
  del overwrite  # nothing is resumed: everything is measured anew every time
  task = zoo_task.load(config)
  found = build_zoo.run(config, task, workdir)
  print(checks_table.markdown(run(config, task, found, workdir)))


if __name__ == '__main__':
  flags.run(main, generation)
