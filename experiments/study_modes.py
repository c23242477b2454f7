"""Several modes for every task: where drawing weights should beat regressing on them.

  python -m experiments.study_modes --config=configs/modes.py --workdir=runs/modes

For every zoo of `MODES`: a regression hypernetwork, one trained on images of the tasks as well, and
the generator with neither or with the same loss on images; one draw, the best of
`sample.candidates` on the support, their ensemble. Writes WORKDIR/modes.md and, for every zoo, what
the other apps leave in a work directory. What is finished is not repeated.
"""

from __future__ import annotations

import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

import ml_collections

from experiments import (
  build_zoo,
  compare_starts,
  flags,
  generation,
  studies,
  train_generator,
  zoo_task,
)

#: {zoo: what changes in the configuration}
MODES: dict[str, dict[str, Any]] = {
  'shared': {},
  'shared, flow': {'generator.objective': 'flow'},
  '3 starts': {'zoo.starts': 3},
  '3 starts, aligned': {'zoo.starts': 3, 'zoo.align': 'weights'},
  'independent': {'zoo.start': 'independent'},
  'independent, by weights': {'zoo.start': 'independent', 'zoo.align': 'weights'},
  'independent, by weights, leaf': {
    **{'zoo.start': 'independent', 'zoo.align': 'weights', 'autoencoder.scale': 'leaf'}
  },
  'independent, by activations': {'zoo.start': 'independent', 'zoo.align': 'activations'},
  'widths': {'model.narrower': ({'widths': (16,)}, {'widths': (8,)})},
}
#: {whether the loss on images is used: (the hypernetwork, what is drawn)}
_LOSSES = {'weights': 'hypernetwork, regression', 'images': 'hypernetwork, both'}
_DRAWN = ('generator, no guidance', 'generator')


def changed(config: Any, mode: str, loss: str = 'images') -> ml_collections.ConfigDict:
  """The configuration of one zoo.

  Args:
    config: that all have in common.
    mode: out of `MODES`.
    loss: 'weights' leaves out the generator's loss on images.

  Raises:
    ValueError: for a mode that is not known.
  """
  if mode not in MODES:
    raise ValueError(f'{mode!r} is no zoo of the study; choose one of {list(MODES)}')
  out = studies.changed(config, MODES[mode])
  if loss == 'weights':
    out.generator.task = 0.0
  return out


def run(config: Any, root: pathlib.Path, mode: str) -> list[tuple[str, studies.Results, float]]:
  """[(row of the table, results, share that the gate found)] of one zoo, a row for every width."""
  rows: dict[int, studies.Results] = {}
  for loss, hypernetwork in _LOSSES.items():
    own = changed(config, mode, loss)
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
      source = compare_starts.Starts(own, task, found, str(path))
      seen = studies.judged(source, (hypernetwork, *_DRAWN))
      if not width:
        compare_starts.save(seen, own, str(path))
      for part, methods in seen.items():
        rows.setdefault(width, {}).setdefault(part, {})[loss] = methods
  name = lambda width: f'{mode}: {task.widths.models[width].config["widths"]}' if width else mode
  return [(name(width), results, gate) for width, results in rows.items()]


def markdown(rows: list[tuple[str, studies.Results, float]]) -> str:
  """A table for every part: one draw / best on support / ensemble, and what that is worth."""
  titles = [f'{name}, {loss}' for loss in _LOSSES for name in ('regressed', *_DRAWN)]
  lines = []
  for part in rows[0][1]:
    lines += [f'**{part}**, one / best on support / ensemble', '']
    lines += ['| zoo | gate | ' + ' | '.join(titles) + ' |', '| --- ' * (2 + len(titles)) + '|']
    for name, results, gate in rows:
      cells = [f'{gate:.0%}']
      for loss, hypernetwork in _LOSSES.items():
        cells += _cells(results[part][loss], hypernetwork)
      lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    lines.append('')
  lines.append('(+), (-): the paired 95% interval over tasks lies above, below the hypernetwork')
  return '\n'.join(lines)


def _cells(methods: Mapping[str, Any], hypernetwork: str) -> list[str]:
  """The hypernetwork's cell, then those of everything drawn, each entry with its sign."""
  plain = methods[hypernetwork]['best']
  drawn = [studies.accuracies(methods[name]).values() for name in _DRAWN]
  cells = [' / '.join(studies.entry(values, plain) for values in three) for three in drawn]
  return [studies.figure(plain.mean()), *cells]


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Runs all zoos and writes the table."""
  if overwrite:
    raise ValueError('--overwrite is not for a study: remove the directories of its zoos by hand')
  root = pathlib.Path(workdir)
  root.mkdir(parents=True, exist_ok=True)
  rows = []
  for mode in MODES:
    start = time.process_time()
    rows += run(config, root, mode)
    print(f'{mode}: {time.process_time() - start:.0f} CPU-seconds')
    (root / 'modes.md').write_text(markdown(rows) + '\n', encoding='utf-8')
    print(markdown(rows), flush=True)


if __name__ == '__main__':
  flags.run(main, generation)
