"""Makes one self-contained HTML page out of what `prune` and `transfer` left in a work directory.

  python -m experiments.report --config=configs/demo.py --workdir=runs/demo

Writes WORKDIR/report.html, with the same numbers as report.json and CSV files beside it.
"""

from __future__ import annotations

import datetime
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import dapt_jax as dapt
from dapt_jax.report import data as report_data
from dapt_jax.report import page
from dapt_jax.training import writers
from experiments import candidates, first_weights, flags, latency, outputs, prune, transfer
from experiments import task as task_lib

NOTES = (
  'The search procedure (two temperatures, noise, trapezoid estimator, populations of re-drawn '
  'weights, dual ascent to a budget) is our reconstruction: of the paper on differentiable '
  'architecture pruning for transfer learning (Colombo and Gao, 2021) only the abstract was '
  'available to us.',
  'Verified there: complexity-penalised subset selection, solved with a two-temperature '
  'relaxation; architectures learned independently of the weights; retraining on very few points.',
  "Accuracies are on the target's test split, which nothing was chosen on.",
)


def make(
  config: Any,
  task: task_lib.Task,
  workdir: str,
  rows: Sequence[Mapping[str, Any]],
  learned: Mapping[str, dapt.Architecture],
  stages: Sequence[Mapping[str, Any]] = (),
) -> pathlib.Path:
  """Writes the page.

  Returns:
    Its path.
  """
  data = report_data.ReportData(
    title=config.title,
    command=shlex.join([pathlib.Path(sys.executable).name, *sys.orig_argv[1:]]),
    created=datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
    versions=outputs.versions(),
    machine=f'{platform.machine()}, {platform.system()}, {jax.local_device_count()} '
    f'{jax.default_backend()} device(s)',
    data_sources=task.data_sources,
    stages=stages,
    notes=NOTES if config.search.criterion == 'gates' else _classical_notes(config),
    searches=[describe(task, workdir, name, arch) for name, arch in learned.items()],
    results=rows,
    latency=latency.measure(config, task, candidates.make(config, task, workdir, learned)),
    first_weights=first_weights.read(config.get('first_weights'), workdir),
  )
  path = pathlib.Path(workdir) / 'report.html'
  page.build(data, path)
  return path


def _classical_notes(config: Any) -> tuple[str, ...]:
  """What a reader must know where 'learned' stands for a classical criterion."""
  said = (
    "Structures called 'learned' on this page are not learned by gates: they are cut out of the "
    f'network trained on the source, by the criterion {config.search.criterion!r} in '
    f'{config.search.rounds} round(s).'
  )
  return (said, NOTES[-1])


def describe(
  task: task_lib.Task, workdir: str, name: str, arch: dapt.Architecture
) -> dict[str, Any]:
  """One search as the report wants it."""
  metrics = pathlib.Path(workdir) / 'search' / name / 'metrics.jsonl'
  records = writers.read_jsonl(metrics) if metrics.is_file() else []  # none of a criterion
  decision, settings = arch.provenance['decision'], arch.provenance['settings']
  curves = ('step', 'loss', 'cost', 'multiplier')
  gates = [k for k in records[0] if k.startswith('gate/')] if records else []
  out: dict[str, Any] = {
    'name': name,
    'seed': settings['seed'],
    'unit': decision['unit'],
    'budget': decision['budget'],
    'history': {c: [r[c] for r in records] for c in curves},
    'gate_history': {
      'step': [r['step'] for r in records],
      'probabilities': {g.removeprefix('gate/'): [r[g] for r in records] for g in gates},
    },
    'layers': [_layer(task.graph, n, arch) for n in arch.kept],
    'final': {
      'macs_share': arch.costs['macs']['share'],
      'params_share': arch.costs['params']['share'],
      'missed_by': decision['missed_by'],
    },
    'picture': task.graph.picture(arch).svg,
  }
  picture = _input_picture(task, records[-1] if records else {})
  return out | ({'input_gates': picture} if picture is not None else {})


def _layer(graph: dapt.ChannelGraph, name: str, arch: dapt.Architecture) -> dict[str, Any]:
  kind = graph.groups[name].kind
  path = name.removeprefix('branch:').split('/')
  operator = {'operator': path[1]} if kind == 'branch' and len(path) > 1 else {}
  return {
    'group': name,
    'kind': kind,
    'layer': path[0],
    'width': arch.widths[name],
    'kept': len(arch.kept[name]),
    **operator,
  }


def _input_picture(task: task_lib.Task, record: Mapping[str, Any]) -> Any:
  """Gates of single pixels as a picture, where the network reads pixels one by one."""
  height, width, channels = task.source.image_shape
  for name, group in task.graph.gated_groups.items():
    if group.kind == 'input' and group.width == height * width * channels:
      values = record.get(f'gate/{name}')
      if values is not None:
        return np.asarray(values).reshape(height, width, channels).mean(-1)
  return None


def main(config: Any, workdir: str, overwrite: bool) -> None:
  """Reads, or makes, the results and writes the page."""
  del overwrite  # the page is made anew in any case
  task = task_lib.load(config)
  transfer.check(config, task, workdir)
  learned = prune.run_all(config, task, workdir)
  rows = transfer.run(config, task, workdir, learned)
  print(f'report: {make(config, task, workdir, rows, learned).resolve()}')


if __name__ == '__main__':
  flags.run(main)
