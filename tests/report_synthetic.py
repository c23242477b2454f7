"""Made-up but plausible report data, for the tests of the report and for looking at its page."""

import numpy as np

from dapt_jax.report import data

OPERATORS = (
  'conv1x1', 'conv3x3', 'conv5x5', 'sep3x3', 'dil3x3', 'avg_pool', 'max_pool', 'skip',
)  # fmt: skip
#: Gain over the random mean at few shots, and how fast the method grows with shots.
_GAINS = {
  'learned': 0.13, 'uniform': 0.03, 'same_counts': 0.01, 'shuffled': 0.10, 'magnitude_l2': 0.05,
  'one_temperature': 0.09, 'fixed_weights': 0.04, 'random': 0.0,
}  # fmt: skip
_WHOLE = {'dense': 0.06, 'pretrained_finetune': 0.10, 'pretrained_readout': 0.13}


def result_rows(
  rng,
  targets=('mnist', 'kmnist'),
  budgets=(0.16, 0.3),
  shots=(1, 5, 10, 20),
  draws=10,
  searches=3,
  randoms=12,
  gains=None,
):
  """Transfer rows: several learned and random architectures, one of every other method."""
  gains = _GAINS if gains is None else gains
  rows = []
  for index, target in enumerate(targets):
    for shot in shots:
      level = 0.33 + 0.17 * np.log(shot) / np.log(5) - 0.12 * index
      hard = 0.03 * rng.normal(size=draws)
      for budget in budgets:
        for method, gain in gains.items():
          count = {'learned': searches, 'random': randoms}.get(method, 1)
          spread = 0.05 if method == 'random' else 0.012
          for a in range(count):
            mean = level + gain + 0.08 * (budget - 0.16) + spread * rng.normal()
            share = budget * (1 + 0.004 * rng.normal())
            seed = a if method == 'learned' else -1
            key = (method, f'{method}-{a}', seed, budget, share)
            rows += _rows(rng, target, shot, key, mean + hard)
      for method, gain in _WHOLE.items():
        mean = level + gain + 0.05 * np.log(shot) - (0.03 if method == 'pretrained_readout' else 0)
        rows += _rows(rng, target, shot, (method, 'whole', -1, 1.0, 1.0), mean + hard)
  return rows


def _rows(rng, target, shots, key, means):
  method, architecture, seed, budget, share = key
  return [
    {
      'source': 'fashion_mnist',
      'target': target,
      'unit': 'macs',
      'budget': budget,
      'method': method,
      'architecture': architecture,
      'search_seed': seed,
      'shots': shots,
      'draw': draw,
      'weights': 'fresh',
      'accuracy': float(np.clip(mean + 0.012 * rng.normal(), 0.02, 0.99)),
      'macs_share': share,
      'params_share': 0.9 * share if share < 1 else 1.0,
      'macs': round(3.1e6 * share),
      'params': round(41_000 * share),
      'steps': 300,
    }
    for draw, mean in enumerate(means)
  ]


def search(rng, seed=0, budget=0.16, steps=600, channels=True, inputs=False):
  """One search of 3 cells x 8 operators, with channel gates inside the kept convolutions."""
  time = np.linspace(0, steps, 61)
  ease = 1 / (1 + np.exp(-(time - 0.35 * steps) / (0.06 * steps)))
  layers, probabilities = [], {}
  for cell in range(1, 4):
    keep = {'conv3x3', 'max_pool'} if cell < 3 else {'sep3x3', 'skip', 'conv5x5'}
    if budget > 0.2:
      keep = keep | {'dil3x3'}
    if seed == 2 and cell == 3:
      keep = keep ^ {'conv5x5', 'conv1x1'}
    for name in OPERATORS:
      group, kept = f'branch:params/cell{cell}/{name}/bn', int(name in keep)
      layers.append(_layer(group, 'branch', f'cell{cell}', 1, kept))
      probabilities[group] = _course(rng, ease, np.array([kept]))
      if channels and 'conv' in name:
        inner, width = f'params/cell{cell}/{name}/inner', 16
        mask = rng.random(width) < (0.6 if kept else 0.0)
        layers.append(_layer(inner, 'channel', f'cell{cell}', width, int(mask.sum())))
        probabilities[inner] = _course(rng, ease, mask)
  cost = budget + (1 - budget) * np.exp(-time / (0.12 * steps)) + 0.004 * rng.normal(size=61)
  out = {
    'name': 'learned',
    'seed': seed,
    'unit': 'macs',
    'budget': budget,
    'history': {
      'step': time,
      'loss': 0.75 + 1.5 * np.exp(-time / (0.2 * steps)) + 0.05 * rng.normal(size=61),
      'cost': cost,
      'multiplier': 1.8 * ease + 0.03 * rng.normal(size=61),
    },
    'gate_history': {'step': time, 'probabilities': probabilities},
    'layers': layers,
    'final': {'macs_share': budget - 0.002, 'params_share': 0.9 * budget, 'missed_by': 0.002},
  }
  if inputs:
    y, x = np.mgrid[:14, :14] - 6.5
    out['input_gates'] = ((x**2 + y**2 < 30) & (rng.random((14, 14)) < 0.9)).astype(float)
  return out


def _layer(group, kind, layer, width, kept):
  return {'group': group, 'kind': kind, 'layer': layer, 'width': width, 'kept': kept}


def _course(rng, ease, mask):
  """Probabilities f[time, width] that leave the middle for 0 or 1."""
  noise = 0.06 * rng.normal(size=len(mask))
  end = np.where(mask, 0.975, 0.02)
  path = (0.5 + noise) * (1 - ease[:, None]) + end * ease[:, None]
  return np.clip(path + 0.01 * rng.normal(size=path.shape), 0, 1)


def first_weights(parts=('new_classes', 'new_both')):
  """What the stage of first weights leaves, for tasks near the zoo and further from it."""
  levels = {'random': 0.2, 'nearest': 0.7, 'best of the zoo': 0.73, 'zoo mean': 0.21}
  levels |= {'hypernetwork, both': 0.88, 'generator': 0.91}
  around = lambda mean: {'mean': mean, 'low': mean - 0.02, 'high': mean + 0.02}
  rng, out = np.random.default_rng(0), []
  for number, part in enumerate(parts):
    scale = 1.0 - 0.3 * number
    rows = [
      {
        'method': method,
        'one': around(scale * (level - 0.02)),
        'best': around(scale * level),
        'ensemble': around(scale * level),
        'curve': [scale * level + share * (0.9 - scale * level) for share in (0, 0.1, 0.5, 1)],
      }
      for method, level in levels.items()
    ]
    shown = {'task': 'digits/rot0/3-1-4', 'images': rng.uniform(size=(24, 80))}
    out.append({'part': part, 'tasks': 30, 'shown': shown, 'rows': rows})
  fields = {'text': '1,000 networks.', 'steps': [0, 1, 10, 100], 'chance': 0.2, 'candidates': 20}
  return {**fields, 'parts': out}


def report_data(seed=0, small=False, **changes):
  """A whole `ReportData`; `small` keeps tests fast."""
  rng = np.random.default_rng(seed)
  if small:
    few = {'learned': 0.13, 'random': 0.0, 'same_counts': 0.125}
    rows = result_rows(rng, ('mnist',), (0.16,), (1, 5), draws=5, randoms=4, searches=2, gains=few)
    searches = [search(rng, inputs=True)]
  else:
    rows = result_rows(rng)
    searches = [search(rng, s, b, inputs=s == 0) for b in (0.16, 0.3) for s in range(3)]
  fields = {
    'title': 'Operators learned on Fashion-MNIST, retrained on few examples',
    'command': 'python -m experiments.pipeline --config=configs/demo.py --workdir=runs/demo',
    'created': '2025-11-21 22:30 UTC',
    'versions': {'dapt_jax': '0.1.0', 'jax': '0.10.2', 'flax': '0.12.8', 'python': '3.11.2'},
    'machine': '2 x86_64 cores, Linux',
    'data_sources': [
      'fashion_mnist: Debian package dataset-fashion-mnist, MIT licence',
      'mnist: embedded sample of 2,000 pictures',
    ],
    'stages': [
      {'name': 'search', 'seconds': 812.4},
      {'name': 'transfer', 'seconds': 4210.0},
      {'name': 'latency', 'seconds': 12.31},
    ],
    'notes': [
      'Verified in the abstract of the paper: structure is learned apart from its weights, by a '
      'two-temperature relaxation of complexity-penalised subset selection, and then retrained.',
      'Reconstruction: the inner training of weights, the budget control, data sets and baselines.',
    ],
    'searches': searches,
    'results': rows,
    'latency': [
      {'name': name, 'batch': batch, 'macs_share': share, 'milliseconds': t, 'spread': s}
      for batch, times in ((1, (2.1, 0.9, 0.62)), (64, (48.0, 16.3, 9.4)))
      for name, share, t, s in zip(
        ('whole', 'learned, 30 %', 'learned, 16 %'), (1.0, 0.298, 0.158), times, (0.1, 0.06, 0.05)
      )
    ],
  }
  return data.ReportData(**{**fields, **changes})
