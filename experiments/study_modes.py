"""Several modes for every task: where drawing weights should beat regressing on them.

  python -m experiments.study_modes --config=configs/modes.py --workdir=runs/modes --seeds=0,1,2

For every zoo of `experiments.modes`, or those of `--zoo`, and every seed of split, zoo and
generator: a regression hypernetwork, one trained on images of the tasks as well, and the generator
with neither or with the same loss on images; one draw, the best of `sample.candidates` on the
support, their ensemble. Writes WORKDIR/modes.md, WORKDIR/seed-S/ZOO.json (accuracies, one a task)
and, for every zoo and seed, what the other apps leave in a work directory. What is finished is not
repeated.
"""

from __future__ import annotations

import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags as absl_flags

from dapt_jax.training import writers
from experiments import (
  build_zoo,
  compare_starts,
  flags,
  generation,
  modes,
  studies,
  train_generator,
  zoo_task,
)

#: {whether the loss on images is used: (the hypernetwork, what is drawn)}
_LOSSES = {'weights': 'hypernetwork, regression', 'images': 'hypernetwork, both'}
_DRAWN = ('generator, no guidance', 'generator')

_SEEDS = absl_flags.DEFINE_list('seeds', ['0', '1', '2'], 'Seeds of split, zoo and generator.')
_ZOOS = absl_flags.DEFINE_multi_string(
  'zoo', [*modes.MODES], 'A zoo of the study; may be given again.'
)

#: {'name', 'gate', 'parts': {part: {loss: {method: {'one', 'best', 'ensemble': accuracies}}}}}
Row = dict[str, Any]


def run(config: Any, root: pathlib.Path, mode: str) -> list[Row]:
  """Trains and judges one zoo, unless that is done: a row for every width, accuracies f[T]."""
  path, whole = root / f'{studies.directory(mode)}.json', modes.changed(config, mode)
  done = studies.finished(path, whole)
  if done is None:
    done = {'config': whole.to_dict(), 'rows': _rows(config, root, mode)}
    writers.write_json(path, done)
  return done['rows']


def _rows(config: Any, root: pathlib.Path, mode: str) -> list[Row]:
  rows: dict[int, Row] = {}
  for loss, hypernetwork in _LOSSES.items():
    own = modes.changed(config, mode, loss)
    path = root / studies.directory(f'{mode} - {loss}')
    if loss != 'weights' and not path.exists():  # the same zoo and autoencoder
      first = root / studies.directory(f'{mode} - weights')
      shutil.copytree(first, path, ignore=shutil.ignore_patterns('diffusion', 'starts*'))
    task = zoo_task.load(own)
    found = build_zoo.run(own, task, str(path))
    arrays = train_generator.run(own, task, found, str(path))
    gate = arrays.settings['gate'][own.compare.parts[0]]['share']
    for width in range(len(task.widths)):
      own.sample.width = width
      seen = studies.judged(
        compare_starts.Starts(own, task, found, str(path)), (hypernetwork, *_DRAWN)
      )
      name = f'{mode}: {task.widths.models[width].config["widths"]}' if width else mode
      row = rows.setdefault(width, {'name': name, 'gate': gate, 'parts': {}})
      for part, methods in seen.items():
        plain = {method: studies.listed(arrays) for method, arrays in methods.items()}
        row['parts'].setdefault(part, {})[loss] = plain
  return list(rows.values())


def stacked(seeds: list[list[Row]]) -> list[Row]:
  """The rows of several seeds as one: accuracies f[S, T], the mean of the gates."""
  out = []
  for same in zip(*seeds, strict=True):
    trees = [row['parts'] for row in same]
    parts = jax.tree.map(lambda *a: np.asarray(a), *trees, is_leaf=lambda x: isinstance(x, list))
    gate = float(np.mean([row['gate'] for row in same]))
    out.append({'name': same[0]['name'], 'gate': gate, 'parts': parts})
  return out


def markdown(rows: list[Row]) -> str:
  """A table for every part of `stacked` rows: one draw / best on support / ensemble."""
  titles = [f'{name}, {loss}' for loss in _LOSSES for name in ('regressed', *_DRAWN)]
  lines = []
  for part in rows[0]['parts']:
    lines += [f'**{part}**, {" / ".join(studies.KINDS.values())}', '']
    lines += ['| zoo | gate | ' + ' | '.join(titles) + ' |', '| --- ' * (2 + len(titles)) + '|']
    for row in rows:
      cells = [f'{row["gate"]:.0%}']
      for loss, hypernetwork in _LOSSES.items():
        cells += _cells(row['parts'][part][loss], hypernetwork)
      lines.append(f'| {row["name"]} | ' + ' | '.join(cells) + ' |')
    lines.append('')
  lines.append(
    '(+), (-): the paired 95% interval over seeds and tasks lies above, below the hypernetwork'
  )
  return '\n'.join(lines)


def _cells(methods: Mapping[str, Any], hypernetwork: str) -> list[str]:
  """The hypernetwork's cell, then those of everything drawn, each entry with its sign."""
  plain = methods[hypernetwork]['best']
  drawn = [[methods[name][kind] for kind in studies.KINDS] for name in _DRAWN]
  cells = [' / '.join(studies.entry(values, plain) for values in three) for three in drawn]
  return [studies.figure(plain.mean()), *cells]


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Runs all zoos and writes the table."""
  if overwrite:
    raise ValueError('--overwrite is not for a study: remove the directories of its zoos by hand')
  unknown = [zoo for zoo in _ZOOS.value if zoo not in modes.MODES]
  if unknown or not all(seed.isdecimal() for seed in _SEEDS.value):
    raise ValueError(
      f'--zoo={unknown or _ZOOS.value}, --seeds={_SEEDS.value}: zoos are {list(modes.MODES)}, '
      'seeds are whole numbers'
    )
  root = pathlib.Path(workdir)
  rows: list[Row] = []
  for mode in _ZOOS.value:
    seen = []
    for seed in _SEEDS.value:
      start, place = time.process_time(), root / f'seed-{seed}'
      place.mkdir(parents=True, exist_ok=True)
      seen.append(run(studies.changed(config, {'seed': int(seed)}), place, mode))
      print(f'{mode}, seed {seed}: {time.process_time() - start:.0f} CPU-seconds', flush=True)
    rows += stacked(seen)
    (root / 'modes.md').write_text(markdown(rows) + '\n', encoding='utf-8')
    print(markdown(rows), flush=True)


if __name__ == '__main__':
  flags.run(main, generation)
