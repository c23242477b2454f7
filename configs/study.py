"""The study: a structure found on one data set, carried to few-shot draws of another.

Argument: SOURCE-TARGET, e.g. `--config=configs/study.py:fashion_mnist-mnist` (the default) or
`--config=configs/study.py:mnist-digits`. Budgets 20 and 10% of the MACs, three search seeds, ten
draws, every baseline.
Expected: at 5 shots and 20 / 10% of the MACs .65 / .67 on MNIST (random .52 / .50, whole network
.58) and .84 / .83 on digits (random .76 / .72, whole network .80); docs/results.md has all of it.
Cost: half an hour of two cores per pair.
Command: make study-fashion, make study-mnist (data: python -m dapt_jax.data.fetch fashion_mnist
mnist)
"""

from experiments import schema


def get_config(pair='fashion_mnist-mnist'):
  """The configuration of one source-target pair."""
  source, _, target = pair.partition('-')
  if not target:
    raise ValueError(f'study.py:{pair} names no pair; write SOURCE-TARGET, e.g. mnist-digits')
  c = schema.default()
  c.title = f'Study: from {source} to few-shot {target}'
  c.data.source, c.data.targets = source, (target,)
  c.data.test_limit = 1000
  c.model.options = {
    'widths': (12, 12, 12),
    'reductions': (1, 3),
    'operators': ('conv1x1', 'conv3x3', 'conv5x5', 'avg_pool', 'max_pool', 'skip'),
    'readout': 'flatten',
  }
  c.search.budgets = (0.2, 0.1)
  c.transfer.steps = 200
  c.transfer.stop_loss = 0.02
  return c
