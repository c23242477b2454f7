import math

import pytest
import report_synthetic

from dapt_jax.report import findings, markdown, methods
from dapt_jax.transfer import statistics


def row(
  method, accuracy, draw, architecture='a', budget=0.25, shots=5, share=None, weights='fresh'
):
  return {
    'source': 's', 'target': 't', 'unit': 'macs', 'budget': budget, 'method': method,
    'architecture': architecture, 'search_seed': -1, 'shots': shots, 'draw': draw,
    'weights': weights, 'accuracy': accuracy, 'macs_share': share or budget,
    'params_share': budget, 'macs': 1.0, 'params': 1.0, 'steps': 1.0,
  }  # fmt: skip


def line(method, accuracies, **changes):
  return [row(method, value, draw, **changes) for draw, value in enumerate(accuracies)]


def words(text):
  return text.replace('\u00a0', ' ')


LEARNED = line('learned', [0.68, 0.70, 0.71, 0.69])
RANDOM = [
  r
  for i, shift in enumerate((-0.02, 0.0, 0.02))
  for r in line('random', [v + shift for v in (0.5, 0.52, 0.53, 0.51)], architecture=f'r{i}')
]


def headlines(rows):
  return [f for f in findings.findings(rows) if f.verdict != 'count']


def test_a_win_in_full():
  (found,) = headlines(LEARNED + RANDOM)
  ours, theirs = statistics.summarise(LEARNED + RANDOM)
  (pair,) = statistics.compare(LEARNED + RANDOM, 'learned', 'random')
  assert found.verdict == 'win' and found.task == 's → t'
  assert words(found.text) == (
    'At 5 shots and 25 % of the MACs, the learned architecture reached '
    f'.695 ± {findings.number(ours["half_width"])}, against '
    f'.515 ± {findings.number(theirs["half_width"])} for the mean of 3 random architectures of '
    f'equal MACs (paired difference +.180 ± {findings.number(pair["half_width"])}) '
    'and beats 3 of 3.'
  )


def test_a_tie_and_a_loss_say_so():
  noisy = line('dense', [0.60, 0.78, 0.66, 0.75], budget=1.0)
  (tie,) = headlines(LEARNED + noisy)
  assert tie.verdict == 'tie' and tie.text.endswith('a tie, the interval contains 0.')
  assert 'the whole network from scratch (paired' in tie.text
  better = line('dense', [0.78, 0.80, 0.81, 0.79], budget=1.0)
  (loss,) = headlines(LEARNED + better)
  assert loss.verdict == 'loss' and loss.text.endswith(': it loses.')
  assert '−.100' in loss.text and '+' not in loss.text
  (count,) = [f for f in findings.findings(LEARNED + better) if f.verdict == 'count']
  assert words(count.text).startswith(
    'Against whole network: 0 wins, 0 ties, 1 loss in 1 paired comparison. '
    'Losses: t at 25 % of the MACs (5 shots); the largest is −.100 ± '
  )


def test_nothing_repeated_is_no_win():
  (found,) = headlines(line('learned', [0.9], shots=1) + line('dense', [0.1], budget=1.0, shots=1))
  assert found.verdict == 'unknown' and 'nothing was repeated' in found.text
  assert found.text.startswith('At 1 shot and')


def test_unequal_cost_is_named():
  (found,) = headlines(LEARNED + line('random', [0.5, 0.52, 0.53, 0.51], share=0.4))
  assert 'with 40 % of the MACs' in words(found.text) and 'equal' not in found.text


def test_fewest_and_most_shots_and_one_count_per_reference():
  rows = report_synthetic.report_data().results
  found = findings.findings(rows)
  counts = [f for f in found if f.verdict == 'count']
  assert len(counts) == 10 and all('16 paired comparisons' in f.text for f in counts)
  rest = [f for f in found if f.verdict != 'count']
  assert len(rest) == 2 * 2 * 2 * 2  # targets, budgets, shots, references
  assert all(f.text.startswith(('At 1 shot ', 'At 20 shots ')) for f in rest)


@pytest.mark.parametrize(
  'value, text', [(0.6958, '.696'), (1.0, '1.000'), (-0.02, '−.020'), (-0.0001, '.000')]
)
def test_numbers(value, text):
  assert findings.number(value) == text


def test_number_without_interval():
  assert findings.plus_minus(0.5, math.nan) == '.500' and findings.number(math.nan) == '–'
  assert [findings.signed(v) for v in (0.1, -0.1, 0.0)] == ['+.100', '−.100', '+.000']
  assert words(findings.percent(0.125)) == '12.5 %'


def test_methods_differ_in_colour_and_marker():
  known = list(methods.METHODS.values())
  assert len({m.colour for m in known}) == len({m.marker for m in known}) == len(known)
  new = [methods.look(n, ('one', 'two')) for n in ('one', 'two')]
  assert new[0].colour != new[1].colour and not {n.colour for n in new} & {m.colour for m in known}


def test_first_weights_split_a_method():
  rows = LEARNED + [{**r, 'weights': 'sampled', 'accuracy': 0.8} for r in LEARNED]
  assert {r['method'] for r in methods.split_by_weights(rows)} == {'learned', 'learned (sampled)'}
  only = [{**r, 'weights': 'sampled'} for r in LEARNED]
  assert {r['method'] for r in methods.split_by_weights(only)} == {'learned'}


def test_markdown_tables_say_who_wins():
  worse = line('dense', [0.78, 0.80, 0.81, 0.79], budget=1.0)
  later = [{**r, 'shots': 20, 'accuracy': r['accuracy'] + 0.1} for r in LEARNED + RANDOM]
  text = words(markdown.tables(LEARNED + RANDOM + later + worse))
  lines = text.splitlines()
  assert lines[0] == '**s → t, 25 % of the MACs**'
  assert lines[2] == '| | 5 shots | 20 shots | macs | params |'
  learned, random, dense = (l.split(' | ') for l in lines[4:7])
  assert learned[0] == '| learned' and learned[1].startswith('.695 ± ')
  assert not learned[1].endswith(')') and learned[3:] == ['25.0%', '25.0% |']
  assert random[0] == '| random (3)' and random[1].endswith(' (+) 3/3')
  assert random[1].startswith('.515 ± ') and random[2].startswith('.615 ± ')
  assert dense[0] == '| whole network' and dense[1].endswith(' (-)') and dense[-2] == '100.0%'
  assert len(lines) == 7
