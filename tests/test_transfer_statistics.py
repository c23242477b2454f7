import math

import numpy as np
import pytest
from scipy import stats

from dapt_jax.transfer import results, statistics


def row(**changes):
  base = {
    'source': 'fashion',
    'target': 'mnist',
    'unit': 'macs',
    'budget': 0.25,
    'method': 'learned',
    'architecture': 'a',
    'search_seed': 0,
    'shots': 5,
    'draw': 0,
    'weights': 'fresh',
    'accuracy': 0.5,
    'macs_share': 0.25,
    'params_share': 0.3,
    'macs': 1000,
    'params': 100,
    'steps': 50,
  }
  return {**base, **changes}


def table(accuracy, method='learned', prefix='', **changes):
  return [
    row(method=method, architecture=f'{prefix}{a}', draw=d, accuracy=float(value), **changes)
    for a, line in enumerate(accuracy)
    for d, value in enumerate(line)
  ]


def t95(freedom):
  return stats.t.ppf(0.975, freedom)


def test_one_architecture_is_the_textbook_interval():
  values = [0.5, 0.6, 0.7, 0.4]
  (out,) = statistics.summarise(table([values]))
  assert out['mean'] == pytest.approx(0.55)
  assert out['half_width'] == pytest.approx(t95(3) * np.std(values, ddof=1) / 2)
  assert (out['draws'], out['architectures'], out['macs']) == (4, 1, 1000)


def test_one_draw_is_the_textbook_interval_over_architectures():
  values = [0.5, 0.6, 0.9]
  (out,) = statistics.summarise(table([[v] for v in values]))
  assert out['half_width'] == pytest.approx(t95(2) * np.std(values, ddof=1) / math.sqrt(3))
  assert (out['worst'], out['best']) == (0.5, 0.9)
  (single,) = statistics.summarise(table([[0.5]]))
  assert math.isnan(single['half_width'])


def test_equal_architectures_do_not_narrow_the_interval():
  line = [0.5, 0.6, 0.7, 0.4, 0.8]
  (one,) = statistics.summarise(table([line]))
  (many,) = statistics.summarise(table([line] * 12))
  assert many['half_width'] == pytest.approx(one['half_width'])


def test_additive_table_adds_both_variances():
  architecture, draw = np.array([0.0, 0.1, 0.3]), np.array([0.3, 0.4, 0.6, 0.35])
  (out,) = statistics.summarise(table(architecture[:, None] + draw))
  va, vd = np.var(architecture, ddof=1) / 3, np.var(draw, ddof=1) / 4
  freedom = (va + vd) ** 2 / (va**2 / 2 + vd**2 / 3)
  assert out['half_width'] == pytest.approx(t95(freedom) * math.sqrt(va + vd))
  assert (out['worst'], out['best']) == (pytest.approx(0.4125), pytest.approx(0.7125))


@pytest.mark.parametrize(
  'spread_a, spread_d, spread_rest', [(0, 1, 0.3), (1, 0.5, 0.5), (0, 0, 1), (1, 0, 0.2)]
)
def test_interval_covers_the_truth_in_repeated_experiments(spread_a, spread_d, spread_rest):
  rng = np.random.default_rng(0)
  architectures, draws, times = 5, 8, 600
  hits = 0
  for _ in range(times):
    y = spread_a * rng.normal(size=(architectures, 1)) + spread_d * rng.normal(size=(1, draws))
    y = y + spread_rest * rng.normal(size=(architectures, draws))
    hits += abs(y.mean()) <= statistics.half_width([y])
  assert hits / times > 0.93


def test_pairing_removes_what_a_draw_does_to_both():
  difficulty = np.array([0.0, 0.3, 0.1, 0.25])
  gain = np.array([0.10, 0.12, 0.08, 0.10])
  rows = table([0.4 + difficulty + gain]) + table([0.4 + difficulty], 'dense', 'w', budget=1.0)
  (out,) = statistics.compare(rows, 'learned', 'dense')
  assert out['difference'] == pytest.approx(0.1)
  assert out['half_width'] == pytest.approx(t95(3) * np.std(gain, ddof=1) / 2)
  assert out['verdict'] == 'win' and (out['beats'], out['references']) == (1, 1)
  (back,) = statistics.compare(
    [{**r, 'budget': 0.25} for r in rows], method='dense', reference='learned'
  )
  assert back['verdict'] == 'loss' and back['beats'] == 0


def test_beats_counts_architecture_means():
  learned = table([[0.5, 0.7]])
  random = table([[0.4, 0.6], [0.5, 0.7], [0.6, 0.9], [0.0, 0.1]], 'random', 'r')
  (out,) = statistics.compare(learned + random, 'learned', 'random')
  assert (out['beats'], out['references']) == (2, 4)
  # the spread between reference architectures belongs to the interval
  means = np.array([0.5, 0.6, 0.75, 0.05])
  assert out['half_width'] >= t95(3) * np.std(means, ddof=1) / 2 - 1e-12


def test_same_architectures_are_paired_too():
  base = np.array([[0.2, 0.3, 0.35], [0.6, 0.7, 0.72]])
  fresh = table(base)
  inherited = table(base + 0.1, 'inherited', weights='inherited')
  (out,) = statistics.compare(inherited + fresh, 'inherited', 'learned')
  assert out['difference'] == pytest.approx(0.1)
  assert out['half_width'] == pytest.approx(0.0, abs=1e-9)


def test_searches_that_end_alike_are_two_repetitions():
  rows = [row(search_seed=s, draw=d, accuracy=0.5 + 0.1 * s) for s in (0, 1) for d in (0, 1)]
  (out,) = statistics.summarise(rows)
  assert out['architectures'] == 2 and out['best'] == pytest.approx(0.6)


def test_conditions_stay_apart():
  rows = [r for s in (1, 5) for b in (0.1, 0.25) for r in table([[0.4, 0.5]], shots=s, budget=b)]
  assert len(statistics.summarise(rows)) == 4
  rows += table([[0.3, 0.4]], 'dense', budget=1.0, shots=5, unit='params')
  found = statistics.compare(rows, 'learned', 'dense')
  assert [(r['shots'], r['budget'], r['unit']) for r in found] == [
    (5, 0.1, 'macs'),
    (5, 0.25, 'macs'),
  ]


@pytest.mark.parametrize(
  'difference, width, expected',
  [(0.1, 0.1, 'tie'), (0.2, 0.1, 'win'), (-0.2, 0.1, 'loss'), (0.2, math.nan, 'unknown')],
)
def test_verdict(difference, width, expected):
  assert statistics.verdict(difference, width) == expected


def test_errors_name_the_trouble():
  with pytest.raises(ValueError, match='no result rows'):
    statistics.summarise([])
  short = row()
  del short['draw'], short['shots']
  with pytest.raises(ValueError, match=r'row 2 lacks the column\(s\) shots, draw'):
    statistics.summarise([row(), short])
  with pytest.raises(ValueError, match='rows 1 and 2 are the same network on the same draw'):
    statistics.summarise([row(), row(accuracy=0.6)])
  with pytest.raises(ValueError, match=r'unpaired draw.*no row for draw 1'):
    statistics.summarise(table([[0.1, 0.2], [0.3, 0.4]])[:3])
  with pytest.raises(ValueError, match=r'unpaired draw\(s\) \[2\]'):
    statistics.compare(
      table([[0.1, 0.2]]) + table([[0.1, 0.2, 0.3]], 'random'), 'learned', 'random'
    )
  with pytest.raises(ValueError, match="no rows of method 'random'; there are rows of learned"):
    statistics.compare([row()], 'learned', 'random')
  with pytest.raises(ValueError, match='share no source'):
    statistics.compare([row(), row(method='random', target='letters')], 'learned', 'random')
  with pytest.raises(ValueError, match='fresh and inherited'):
    statistics.compare([row(), row(weights='inherited')], 'learned', 'learned')


@pytest.mark.parametrize(
  'change, message',
  [
    ({'accuracy': 71.0}, 'not in'),
    ({'accuracy': math.nan}, 'not in'),
    ({'draw': 1.5}, 'column draw'),
    ({'shots': 'five'}, 'column shots'),
    ({'budget': 25}, 'budget'),
    ({'unit': 'flops'}, 'none of macs, params'),
    ({'shots': 0}, 'below 1'),
    ({'macs': math.inf}, 'column macs'),
  ],
)
def test_bad_values_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    results.check_rows([row(**change)])


def test_csv_round_trip(tmp_path):
  path = tmp_path / 'results.csv'
  rows = results.check_rows([{**r, 'note': 'x,"y"'} for r in table([[0.1, 0.2], [0.3, 0.4]])])
  statistics.write_rows(path, rows)
  assert statistics.read_rows(path) == rows
  path.write_text(path.read_text().replace('0.4,', '4.0,'))
  with pytest.raises(ValueError, match=r'results\.csv: row 4: accuracy'):
    statistics.read_rows(path)
