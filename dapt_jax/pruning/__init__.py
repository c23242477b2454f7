"""Architecture search: gates, a graph and a population of weights make an `Architecture`.

Beside it the classical criteria on the same groups: `criteria`, `schedule`.
"""

from dapt_jax.pruning import baselines, criteria, losses, schedule, weights
from dapt_jax.pruning.search import Search, make_search
from dapt_jax.pruning.settings import Settings
from dapt_jax.pruning.state import STATE_AXES, Population, SearchState, Shared, age

__all__ = [
  'STATE_AXES',
  'Population',
  'Search',
  'SearchState',
  'Settings',
  'Shared',
  'age',
  'baselines',
  'criteria',
  'losses',
  'make_search',
  'schedule',
  'weights',
]
