"""The demo: MNIST to digits in a few minutes on two cores, from what pip alone installs.

Two stages. The search finds a structure on MNIST, which is retrained on few-shot digits beside
baselines; a zoo of small perceptrons on MNIST trains a generator that writes first weights for sets
of classes, and for digits, that the zoo never saw. `configs/demo.py:search` is the first alone.
Expected: a structure at 20% of the MACs that reaches .85 +- .02 with 5 digits a class (three random
ones of equal MACs .76, uniform widths .74, the whole network .80) and .93 with 20.
Cost: 2 min 30 s on 2 quiet cores, much of it compilation; most of 5 minutes on busy ones.
Command: make demo
"""

from experiments import generation, schema


def get_config(stages='all'):
  """The configuration; `stages`: 'all', or 'search' without first weights."""
  if stages not in ('all', 'search'):
    raise ValueError(f"stages is {stages!r}; choose 'all' or 'search'")
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
  if stages == 'all':
    c.first_weights = _first_weights()
  return c


def _first_weights():
  """A small generator: a quarter of the zoo of configs/generate.py, a fifth of its updates."""
  c = generation.default()
  c.title = 'Demo: first weights for unseen digits'
  c.data.transforms = ('rot0',)
  c.data.held_views = ('digits/*',)
  c.zoo.size = 1000
  c.autoencoder.update({'latent': 64, 'per_class': 8, 'width': 96, 'steps': 600, 'gate': 0.8})
  c.generator.update({'width': 128, 'blocks': 2, 'shown': 16, 'steps': 1400, 'ema_decay': 0.995})
  c.fresh.tasks = 5000
  c.hypernetwork.update({'width': 96, 'blocks': 1, 'variants': ('both',), 'steps': 600})
  c.training.update({'batch_size': 32, 'checkpoint_every': 8})
  c.compare.update(
    {'tasks': 30, 'parts': ('new_classes', 'new_both'), 'steps': (0, 1, 3, 10, 30, 100)}
  )
  c.compare.update({'baselines': (), 'trained': 2})
  return c
