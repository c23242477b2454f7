import csv
import dataclasses
import html.parser
import json
import math
import re

import numpy as np
import pytest
import report_synthetic

from dapt_jax.report import data, page, search_plots

SECTIONS = [
  'findings', 'cost', 'few-shot', 'methods', 'search', 'structure', 'gates', 'inputs', 'latency',
  'provenance',
]  # fmt: skip


class Reader(html.parser.HTMLParser):
  """Collects what the tests ask of a page."""

  def __init__(self, text):
    super().__init__()
    self.sections, self.loads, self.ids, self.targets, self.alts = [], [], [], [], []
    self.open, self.text = [], ''
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    if tag not in ('meta', 'br', 'link', 'img'):
      self.open.append(tag)
    if tag == 'section':
      self.sections.append(attrs['id'])
    self.ids += [attrs['id']] if 'id' in attrs else []
    self.loads += [v for k, v in attrs.items() if k in ('src', 'href', 'xlink:href', 'action')]
    self.loads += ['<script>'] * (tag in ('script', 'link', 'iframe'))
    self.targets += re.findall(r'url\(#([^)]*)\)', ' '.join(v or '' for v in attrs.values()))
    if tag == 'svg' and 'aria-hidden' not in attrs:
      self.alts.append(attrs.get('aria-label', ''))

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    if self.open and self.open[-1] == tag:
      self.open.pop()

  def handle_endtag(self, tag):
    assert self.open.pop() == tag  # well nested

  def handle_data(self, text):
    self.text += text if self.open and self.open[-1] != 'style' else ''


def render(tmp_path, **changes):
  """The page of small data with `changes`, without plots where possible."""
  files = page.build(report_synthetic.report_data(small=True, **changes), tmp_path / 'r.html')
  return files['page'].read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  made = report_synthetic.report_data(small=True)
  files = page.build(made, tmp_path_factory.mktemp('report') / 'new' / 'report.html')
  return made, files, files['page'].read_text(encoding='utf-8')


def test_every_section_in_order_and_every_picture_described(built):
  reader = Reader(built[2])
  assert reader.sections == SECTIONS and not reader.open
  assert len(reader.alts) >= 10 and all(len(alt) > 30 for alt in reader.alts)
  assert built[2].count('class="look"') >= len(SECTIONS)
  assert 'name="viewport"' in built[2]


def test_nothing_is_loaded_from_elsewhere(built):
  reader = Reader(built[2])
  assert reader.loads and all(v.startswith(('#', 'data:image/png;base64,')) for v in reader.loads)
  assert 'http' not in built[2].replace('http-equiv', '')
  assert not re.search(r'@import|url\((?!#)', built[2])


def test_ids_and_references_fit_together(built):
  reader = Reader(built[2])
  assert len(set(reader.ids)) == len(reader.ids)
  links = [v[1:] for v in reader.loads if v.startswith('#')]
  assert links and set(links) | set(reader.targets) <= set(reader.ids)


def test_the_numbers_lie_beside_the_page(built):
  made, files, text = built
  assert {p.name for p in files.values()} == {
    'report.html', 'report.json', 'report_tables.md', 'report_results.csv', 'report_summary.csv',
    'report_comparisons.csv', 'report_latency.csv',
  }  # fmt: skip
  content = json.loads(files['json'].read_text())
  assert data.ReportData(**content['data']) == made
  assert len(content['data']['searches'][0]['gate_history']['step']) == 61
  with files['summary'].open() as handle:
    summary = list(csv.DictReader(handle))
  assert [float(r['mean']) for r in summary] == [r['mean'] for r in content['summary']]
  for sentence in content['findings']:
    assert sentence['text'] in Reader(text).text


def test_equal_data_give_equal_pages(built, tmp_path):
  assert page.build(built[0], tmp_path / 'r.html')['page'].read_text() == built[2]


def test_first_weights_have_a_section_of_their_own(tmp_path):
  given = report_synthetic.first_weights()
  text = render(tmp_path, searches=[], latency=[], first_weights=given)
  reader = Reader(text)
  assert reader.sections[-2:] == ['first-weights', 'provenance'] and not reader.open
  assert len(set(reader.ids)) == len(reader.ids)
  assert reader.text.count('hypernetwork, both') == 4  # a legend and a table, of two parts
  assert any('generator .910' in alt for alt in reader.alts)
  assert any('generator from .637 to .900' in alt for alt in reader.alts)
  given['parts'][1]['rows'][0]['curve'] = [0.2]
  with pytest.raises(ValueError, match=r"parts\[1\]: the curve of 'random' has 1 entries for 4"):
    report_synthetic.report_data(small=True, first_weights=given)


def test_missing_parts_are_left_out(tmp_path):
  text = render(tmp_path, searches=[], latency=[], notes=[], stages=[], data_sources=[])
  assert Reader(text).sections == ['findings', 'cost', 'few-shot', 'methods', 'provenance']
  assert not (tmp_path / 'r_latency.csv').exists()
  for word in ('Learned input gates', 'Latency', 'Verified and reconstructed'):
    assert word not in text
  search = report_synthetic.search(np.random.default_rng(0), channels=False)
  del search['history']
  sections = Reader(render(tmp_path, searches=[search], latency=[])).sections
  assert sections == ['findings', 'cost', 'few-shot', 'methods', 'structure', 'gates', 'provenance']


def test_pictures_of_the_cut_networks_are_part_of_the_page(built, tmp_path):
  svg = '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="all layers"><path/></svg>'
  drawn = {**report_synthetic.search(np.random.default_rng(0)), 'picture': svg}
  text = render(tmp_path, searches=[drawn, {**drawn, 'seed': 1}], latency=[])
  assert text.count('<path/></svg></div></details>') == 2 and text.count('<details open>') == 1
  assert 'all layers' in Reader(text).alts and 'http' not in text.replace('http-equiv', '')
  assert '<details' not in built[2]  # searches without pictures


def test_names_are_escaped(tmp_path):
  bad = '<script>alert("$x_1$ & y")</script>'
  made = report_synthetic.report_data(small=True)
  rows = [{**r, 'target': bad, 'method': r['method'].replace('same_counts', bad)}
          for r in made.results]  # fmt: skip
  latency = [{**r, 'name': bad} for r in made.latency]
  searches = [{**s, 'name': bad} for s in made.searches]
  text = render(tmp_path, results=rows, latency=latency, searches=searches, title=bad, notes=[bad],
                machine=bad, command=bad)  # fmt: skip
  assert '<script' not in text and '&lt;script&gt;' in text
  reader = Reader(text)
  assert not reader.open and bad in reader.text and all('<script>' in a for a in reader.alts[:1])


def test_one_run_without_any_repetition(tmp_path):
  made = report_synthetic.report_data(small=True)
  rows = [r for r in made.results if r['draw'] == 0 and r['shots'] == 5]
  rows = [r for r in rows if r['method'] == 'dense' or r['architecture'] == 'learned-0']
  text = render(tmp_path, results=rows, searches=[], latency=[])
  assert 'nothing was repeated' in text and not re.search(r'\bnan\b', Reader(text).text)


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'no transfer results.*python -m experiments\.transfer'):
    render(tmp_path, results=[])
  rows = report_synthetic.report_data(small=True).results
  with pytest.raises(ValueError, match="no results of the method 'learned', only of random"):
    render(tmp_path, results=[r for r in rows if r['method'] == 'random'])
  with pytest.raises(ValueError, match=r'must end in \.html'):
    page.build(report_synthetic.report_data(small=True), tmp_path / 'report')
  assert not list(tmp_path.iterdir())


def test_data_round_trip(tmp_path):
  made = report_synthetic.report_data(small=True)
  search = dict(made.searches[0])
  search['history'] = {**search['history'], 'loss': [math.nan, *search['history']['loss'][1:]]}
  made = dataclasses.replace(made, searches=[search])
  made.save(tmp_path / 'data.json')
  again = data.ReportData.load(tmp_path / 'data.json')
  assert again == made
  loss = data.floats(again.searches[0]['history']['loss'])
  assert math.isnan(loss[0]) and np.isfinite(loss[1:]).all()
  (tmp_path / 'data.json').write_text('{"title": "x"}')
  with pytest.raises(ValueError, match=r'data\.json holds no report data'):
    data.ReportData.load(tmp_path / 'data.json')


@pytest.mark.parametrize(
  'change, message',
  [
    ({'kind': 'neuron'}, "kind 'neuron' is none of"),
    ({'kept': 2}, 'not between 0 and its width'),
    (
      {'history': {'step': [1], 'loss': [1, 2], 'cost': [1], 'multiplier': [1]}},
      'differ in length',
    ),
    ({'gate_history': {'step': [1], 'probabilities': {'g': []}}}, '0 records for 1 steps'),
  ],
)
def test_bad_searches_are_refused(change, message):
  search = report_synthetic.search(np.random.default_rng(0), channels=False)
  layer = {k: v for k, v in change.items() if k in search['layers'][0]}
  search = {**search, **change, 'layers': [{**search['layers'][0], **layer}]}
  with pytest.raises(ValueError, match=message):
    report_synthetic.report_data(small=True, searches=[search])
  with pytest.raises(ValueError, match=r'latency\[0\] lacks spread'):
    report_synthetic.report_data(small=True, latency=[
      {'name': 'a', 'batch': 1, 'macs_share': 1, 'milliseconds': 1}])  # fmt: skip


@pytest.mark.parametrize(
  'group, layer, name',
  [
    ('branch:params/cell1/conv3x3/bn', 'cell1', 'conv3x3'),
    ('branch:params.cell1.skip', 'cell1', 'skip'),
    ('residual', 'cell1', 'residual'),
  ],
)
def test_operator_names(group, layer, name):
  assert search_plots.operator({'group': group, 'layer': layer}) == name
  assert search_plots.operator({'group': group, 'layer': layer, 'operator': 'x'}) == 'x'


def test_durations():
  texts = [page.duration(s) for s in (4.21, 200, 7500)]
  assert texts == ['4.21 s', '3 min 20 s', '2 h 05 min']
