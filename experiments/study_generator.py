"""What a generator owes to its parts: one thing is changed at a time, on one zoo.

  python -m experiments.study_generator --config=configs/ablations.py --workdir=runs/ablations

Every variant of `experiments.ablations` is a changed configuration. All read one zoo, and trainings
with equal settings are one training, so that only what changed is trained. What is finished is not
repeated, and a stopped study goes on. Writes WORKDIR/ablations.md and .json, after every variant
anew. `--groups=encoder,images` leaves the others out.

The held-out tasks are those that other tables report: this study explains, and chooses nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import flags as absl_flags

from dapt_jax.training import writers
from dapt_jax.weights import zoo as zoo_lib
from experiments import (
  ablations,
  build_zoo,
  compare_starts,
  fitting,
  flags,
  generation,
  studies,
  train_generator,
  zoo_task,
)

_GROUPS = absl_flags.DEFINE_list(
  'groups', list(ablations.GROUPS), f'Groups of variants out of {[*ablations.GROUPS]}.'
)

#: {row: what `run` found}
Rows = dict[str, dict[str, Any]]


def run(
  config: Any, task: zoo_task.ZooTask, found: zoo_lib.Zoo, root: pathlib.Path, variant: str
) -> dict[str, Any]:
  """Trains and judges a variant, unless that is done.

  Args:
    config: that all variants have in common.
    task: images and model.
    found: the whole zoo.
    root: of the study.
    variant: out of `ablations.GROUPS`, or `ablations.BASE`.

  Returns:
    {'config', 'gate': {part: share}, 'seconds': of the CPU, 'parts': {part: {method: {'one',
    'best', 'ensemble': accuracies, one a task}}}}.

  Raises:
    ValueError: if the variant asks for a larger zoo.
  """
  own = ablations.changed(config, variant)
  generation.check(own)
  part = first(found, own.zoo.size, variant)
  path = root / 'variants' / studies.directory(variant)
  done = studies.finished(path / 'result.json', own)
  if done is not None:
    return done
  share(own, root, path)
  with _clock(path / 'seconds.json'):
    arrays = train_generator.run(own, task, part, str(path))
    source = compare_starts.Starts(own, task, part, str(path))
    names = ('generator', *(f'hypernetwork, {v}' for v in own.hypernetwork.variants))
    seen = studies.judged(source, names)
  result = {
    'config': own.to_dict(),
    'gate': {p: kept['share'] for p, kept in arrays.settings['gate'].items()},
    'seconds': json.loads((path / 'seconds.json').read_text(encoding='utf-8')),
    'parts': {p: {m: studies.listed(a) for m, a in ms.items()} for p, ms in seen.items()},
  }
  writers.write_json(path / 'result.json', result)
  return result


def first(found: zoo_lib.Zoo, size: int, variant: str) -> zoo_lib.Zoo:
  """The first networks of a zoo.

  Raises:
    ValueError: if there are not so many.
  """
  if size > len(found.tasks):
    raise ValueError(
      f'{variant!r} takes {size} networks, but zoo.size is {len(found.tasks)}; raise it, or leave '
      'the group out: --groups'
    )
  fields = {name: getattr(found, name)[:size] for name in ('tasks', 'records', 'vectors')}
  return dataclasses.replace(found, **fields)


def share(config: Any, root: pathlib.Path, path: pathlib.Path) -> None:
  """Links the trainings of a variant to those of the study: equal settings, one training."""
  kinds = {'autoencoder': 'autoencoder', 'alignment': 'condition', 'diffusion': 'generator'}
  kinds |= {'baseline-joint': 'joint'}
  kinds |= {f'hypernetwork-{v}': 'hypernetwork' for v in config.hypernetwork.variants}
  targets = {}
  for name, kind in kinds.items():
    described = json.dumps(writers.jsonable(fitting.described(config, kind)), sort_keys=True)
    digest = hashlib.sha256(described.encode()).hexdigest()[:16]
    targets[name] = root / 'trained' / f'{name}-{digest}'
  for part in config.compare.parts:  # networks that the gate trains
    name = f'held-{part.replace("/", "-")}'
    targets[name] = root / name
  targets['features'] = root / 'features'
  path.mkdir(parents=True, exist_ok=True)
  for name, target in targets.items():
    target.mkdir(parents=True, exist_ok=True)
    link = path / name
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


@contextlib.contextmanager
def _clock(path: pathlib.Path) -> Iterator[None]:
  """Adds the CPU-seconds of a block to those of earlier calls, whatever ends it."""
  before = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else 0.0
  start = time.process_time()
  try:
    yield
  finally:
    writers.write_json(path, round(before + time.process_time() - start, 1))


def markdown(groups: Mapping[str, Rows]) -> str:
  """A table for every group; the first row of each is what the others are compared with."""
  lines = []
  for group, rows in groups.items():
    base = next(iter(rows.values()))
    titles = [f'{p.replace("_", " ")}: {k}' for p in base['parts'] for k in studies.KINDS.values()]
    head = ['variant', 'gate', *titles, 'CPU-s']
    lines += [f'**{group}**', '', f'| {" | ".join(head)} |', '| --- ' * len(head) + '|']
    for name, row in rows.items():
      for number, method in enumerate(next(iter(row['parts'].values()))):
        said = name if not number else f'{name}: {method}'
        cells = [said, f'{next(iter(row["gate"].values())):.0%}', *_cells(row, base, method)]
        lines.append(f'| {" | ".join(cells)} | {row["seconds"]:.0f} |')
    lines.append('')
  lines += [
    'Means and 95% intervals over tasks; (+), (-): the paired interval lies above, below that of',
    'the first row. CPU-seconds: of what no row of an earlier table or line had trained already.',
  ]
  return '\n'.join(lines)


def _cells(row: Mapping[str, Any], base: Mapping[str, Any], method: str) -> list[str]:
  cells = []
  for part, methods in row['parts'].items():
    for kind in studies.KINDS:
      values, others = (np.asarray(r[method][kind]) for r in (methods, base['parts'][part]))
      cells.append(studies.entry(values, others, interval=True))
  return cells


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Runs all variants and writes the tables."""
  if overwrite:
    raise ValueError('--overwrite is not for a study: remove the directories of variants by hand')
  unknown = [g for g in _GROUPS.value if g not in ablations.GROUPS]
  if unknown:
    raise ValueError(f'--groups has {unknown}; choose out of {list(ablations.GROUPS)}')
  root = pathlib.Path(workdir)
  task = zoo_task.load(config)
  found = build_zoo.run(config, task, workdir)
  wanted = {g: (ablations.BASE, *ablations.GROUPS[g]) for g in _GROUPS.value}
  total = len({name for names in wanted.values() for name in names})
  groups: dict[str, Rows] = {}
  finished: Rows = {}
  for group, names in wanted.items():
    for name in names:
      if name not in finished:
        print(f'{len(finished) + 1} of {total}: {group}, {name}', flush=True)
        finished[name] = run(config, task, found, root, name)
      groups.setdefault(group, {})[name] = finished[name]
      writers.write_json(root / 'ablations.json', groups)
      (root / 'ablations.md').write_text(markdown(groups) + '\n', encoding='utf-8')
  print(markdown(groups))


if __name__ == '__main__':
  flags.run(main, generation)
