"""A configuration that runs in seconds, from scikit-learn's digits alone."""

from experiments import schema


def get_config(model='multibranch'):
  """`model`: 'multibranch', or 'mlp', which compiles in a fraction of the time."""
  c = schema.default()
  c.title = 'Tiny'
  c.devices = 1
  c.workers = 1
  c.data.update(
    {'source': 'digits', 'targets': ('digits',), 'image_size': 8, 'limit': 300, 'test_limit': 60}
  )
  c.model.name = model
  c.model.options = {'widths': (8, 6), 'batch_norm': True}
  if model == 'multibranch':
    c.model.options = {
      'cells': 2,
      'widths': (4, 4),
      'reductions': (2,),
      'operators': ('conv3x3', 'skip'),
    }
  c.search.update(
    {
      'seeds': (0,),
      'budgets': (0.4,),
      'steps': 6,
      'population': 2,
      'batch_size': 16,
      'shots': 2,
      'lifetime': 4,
      'warmup': 1,
      'hold': 1,
      'log_every': 2,
    }
  )
  c.transfer.update(
    {
      'shots': (1, 2),
      'draws': 2,
      'random_architectures': 1,
      'steps': 4,
      'chunk': 2,
      'batch_size': 8,
      'source_steps': 4,
      'baselines': ('random',),
    }
  )
  c.latency.update({'batch_sizes': (2,), 'repeats': 3})
  return c
