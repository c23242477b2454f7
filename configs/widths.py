"""The widths study: how many channels every layer of a plain ConvNet needs, learned on the source.

Channels of one layer are exchangeable before training, so a learned choice of widths is judged
against uniform and random widths of equal MACs, not against other channels of the same layers
(`same_counts` and `shuffled` tie by construction).
Argument: SOURCE-TARGET as in configs/study.py, `fashion_mnist-mnist` by default. Six layers of
their own width, budgets 20 and 10% of the MACs, three search seeds, ten draws.
Expected: at 5 shots and 20 / 10% of the MACs .54 / .49 on MNIST (uniform widths .53 / .38, random
ones .49 / .37, the whole network .68).
Cost: 25 minutes of two cores.
Command: make study-widths (data: python -m dapt_jax.data.fetch fashion_mnist mnist)
"""

from configs import study


def get_config(pair='fashion_mnist-mnist'):
  """The configuration of one source-target pair."""
  c = study.get_config(pair)
  c.title = c.title.replace('Study', 'Widths')
  c.model.name = 'convnet'
  c.model.options = {'stages': ((16, 16), (32, 32), (32, 32)), 'flatten': True}
  c.search.levels = ('channel',)
  c.transfer.baselines = ('dense', 'random', 'uniform', 'same_counts', 'magnitude_l2')
  return c
