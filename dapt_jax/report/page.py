"""Writes the report: one HTML page that needs nothing else, and its numbers as JSON and CSV."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

from dapt_jax.report import (
  drawing,
  findings,
  gate_plots,
  latency_plots,
  markdown,
  methods,
  results_plots,
  search_plots,
  start_plots,
)
from dapt_jax.report.data import ReportData
from dapt_jax.training import writers
from dapt_jax.transfer import results, statistics

_FOLDER = pathlib.Path(__file__).parent


def build(data: ReportData, path: str | os.PathLike[str]) -> dict[str, pathlib.Path]:
  """Writes the page, and beside it the numbers it shows.

  Args:
    data: what to show. Parts without data (no latency, no input gates) leave their section out.
    path: the page, ending in '.html'; its folder is made.

  Returns:
    {'page', 'json', 'tables', 'results', 'summary', 'comparisons'[, 'latency']: path}. For a page
    report.html these are report.html, report.json (the data, `summary`, `comparisons` and
    `findings`), report_tables.md, and report_results.csv, report_summary.csv,
    report_comparisons.csv, report_latency.csv.

  Raises:
    ValueError: `path` is no HTML file; the data hold no results, or none of the method 'learned';
      bad rows, as `dapt_jax.transfer.statistics.summarise`.
  """
  target = pathlib.Path(path)
  if target.suffix != '.html':
    raise ValueError(f'the report is one HTML page, so its path must end in .html, not {target}')
  rows = _rows(data)
  summary = statistics.summarise(rows)
  compared = findings.comparisons(rows)
  sentences = findings.findings(rows)
  page = _render(data, rows, summary, compared, sentences)

  files = {'page': target, 'json': target.with_suffix('.json')}
  tables: dict[str, Sequence[Mapping[str, Any]]] = {
    'results': rows,
    'summary': summary,
    'comparisons': compared,
    'latency': data.latency,
  }
  for name, table in tables.items():
    if table:
      files[name] = target.with_name(f'{target.stem}_{name}.csv')
      writers.write_csv(files[name], table)
  everything = {
    'data': dataclasses.asdict(data),
    'summary': summary,
    'comparisons': compared,
    'findings': [dataclasses.asdict(f) for f in sentences],
  }
  writers.write_json(files['json'], everything)
  files['tables'] = target.with_name(f'{target.stem}_tables.md')
  for file, text in ((files['tables'], markdown.tables(rows)), (target, page)):
    with writers.atomic(file) as handle:
      handle.write(text)
  return files


def _rows(data: ReportData) -> list[dict[str, Any]]:
  """The checked rows, with one kind of first weights per method."""
  command = 'python -m experiments.transfer (or make demo for the whole chain)'
  if not data.results:
    raise ValueError(
      f'the report {data.title!r} has no transfer results (ReportData.results is empty); they are '
      f'made by {command}'
    )
  rows = methods.split_by_weights(results.check_rows(data.results))
  found = methods.ordered(rows)
  if 'learned' not in found:
    raise ValueError(
      f"the report {data.title!r} has no results of the method 'learned', only of "
      f'{", ".join(found)}; they are made by {command} from a finished search'
    )
  return rows


def _render(
  data: ReportData,
  rows: Sequence[Mapping[str, Any]],
  summary: Sequence[Mapping[str, Any]],
  compared: Sequence[Mapping[str, Any]],
  sentences: Sequence[findings.Finding],
) -> str:
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters.update(
    share=findings.percent, pm=findings.plus_minus, num=findings.number, svg=markupsafe.Markup
  )
  names = methods.ordered(rows)
  singles = results_plots.architecture_means(rows)
  return environment.get_template('page.html').render(
    data=data,
    counts=[f for f in sentences if f.verdict == 'count'],
    findings=_by_task(sentences),
    legends={where: _legend(names, where) for where in ('cost', 'few-shot')},
    label={name: methods.look(name, names).label for name in names},
    unit_name=findings.unit_name,
    cost=results_plots.accuracy_against_cost(summary, singles),
    shots=results_plots.few_shot_curves(summary),
    tables=[_method_table(task, names) for task in _tasks(summary)],
    differences=[_difference_table(task) for task in _tasks(compared)],
    courses=search_plots.courses(data.searches),
    operators=search_plots.operators(data.searches),
    widths=search_plots.widths(data.searches),
    pictures=search_plots.pictures(data.searches),
    histograms=gate_plots.gate_histograms(data.searches),
    inputs=gate_plots.input_gates(data.searches),
    latency=latency_plots.latency(data.latency),
    starts=[_starts(part, data.first_weights) for part in data.first_weights.get('parts', ())],
    seeds=_seeds(data, rows),
    duration=duration,
    signed=findings.signed,
  )


def _by_task(sentences: Sequence[findings.Finding]) -> dict[str, list[findings.Finding]]:
  out: dict[str, list[findings.Finding]] = {}
  for finding in sentences:
    if finding.task:
      out.setdefault(finding.task, []).append(finding)
  return out


def _legend(names: Sequence[str], where: str) -> list[dict[str, str]]:
  looks = [methods.look(name, names) for name in names]
  return [
    {'label': k.label, 'svg': drawing.swatch(k.colour, k.marker, k.line, where)} for k in looks
  ]


def _tasks(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
  return list(results_plots.groups(rows, 'source', 'target').values())


def _method_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
  """One task's summary: a line per (unit, budget, method), a cell per number of shots."""
  shots = sorted({r['shots'] for r in rows})
  lines = results_plots.groups(rows, 'unit', 'budget', 'method')
  order = sorted(lines, key=lambda key: (key[0], key[1], names.index(key[2])))
  best = {s: max(r['mean'] for r in rows if r['shots'] == s) for s in shots}
  return {
    'task': findings.task_name(rows[0]),
    'shots': shots,
    'best': best,
    'lines': [
      {
        'unit': key[0],
        'budget': key[1],
        'method': key[2],
        'first': lines[key][0],
        'cells': [next((r for r in lines[key] if r['shots'] == s), None) for s in shots],
      }
      for key in order
    ],
  }


def _difference_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """One task's paired differences: a line per (unit, budget, reference), a cell per shots."""
  shots = sorted({r['shots'] for r in rows})
  lines = results_plots.groups(rows, 'unit', 'budget', 'reference')
  return {
    'task': findings.task_name(rows[0]),
    'shots': shots,
    'lines': [
      {
        'unit': unit,
        'budget': budget,
        'reference': reference,
        'cells': [next((r for r in own if r['shots'] == s), None) for s in shots],
      }
      for (unit, budget, reference), own in sorted(lines.items(), key=lambda item: item[0][:2])
    ],
  }


def _starts(part: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
  """One part of the tasks that first weights are compared on."""
  shown = (whole['steps'], whole['chance'], whole['candidates'])
  return {
    'title': start_plots.title_of(part),
    'panels': start_plots.panels(part, *shown),
    'legend': [
      {'label': name, 'svg': drawing.swatch(*look, part['part'])}
      for name, look in start_plots.looks(part).items()
    ],
    'rows': part['rows'],
    'tasks': part['tasks'],
  }


def _seeds(data: ReportData, rows: Sequence[Mapping[str, Any]]) -> str:
  """Which seeds the numbers rest on."""
  searched = sorted({s['seed'] for s in data.searches} | {r['search_seed'] for r in rows} - {-1})
  draws = sorted({r['draw'] for r in rows})
  parts = []
  if searched:
    parts.append(f'search seeds {", ".join(map(str, searched))}')
  consecutive = draws == list(range(draws[0], draws[-1] + 1)) and len(draws) > 2
  listed = f'{draws[0]} to {draws[-1]}' if consecutive else ', '.join(map(str, draws))
  parts.append(f'few-shot draws {listed}')
  return '; '.join(parts)


def duration(seconds: float) -> str:
  """'4.2 s', '3 min 20 s', '2 h 05 min'."""
  if seconds < 60:
    return f'{seconds:.3g} s'
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f'{minutes} min {rest:02d} s'
  return f'{minutes // 60} h {minutes % 60:02d} min'
