"""The demo: MNIST to digits in a few minutes on two cores, from what pip alone installs.

Expected: a structure at 20% of the MACs that reaches .85 +- .02 with 5 digits a class (three random
ones of equal MACs .76, uniform widths .74, the whole network .80) and .93 with 20.
Cost: 2 min 30 s on 2 quiet cores, much of it compilation; most of 5 minutes on busy ones.
Command: make demo
"""

from experiments import schema


def get_config():
  """The configuration."""
  c = schema.default()
  c.title = 'Demo: a structure found on MNIST, carried to few-shot digits'
  c.data.source, c.data.targets = 'mnist', ('digits',)
  c.data.origin = 'embedded'
  c.model.options = {
    'widths': (12, 12, 12),
    'reductions': (1, 3),
    'operators': ('conv1x1', 'conv3x3', 'conv5x5', 'avg_pool', 'max_pool', 'skip'),
    'readout': 'flatten',
  }
  c.search.seeds = (0,)
  c.search.steps = 300
  c.search.log_every = 10
  c.transfer.draws = 5
  c.transfer.random_architectures = 3
  c.transfer.baselines = ('dense', 'random', 'uniform')
  c.transfer.steps = 150
  return c
