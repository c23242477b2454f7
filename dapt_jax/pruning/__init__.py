"""Architecture search: gates, a graph and a population of weights make an `Architecture`."""

from dapt_jax.pruning import baselines, losses, weights
from dapt_jax.pruning.search import (
  STATE_AXES,
  Population,
  Search,
  SearchState,
  Settings,
  Shared,
  make_search,
)

__all__ = [
  'STATE_AXES',
  'Population',
  'Search',
  'SearchState',
  'Settings',
  'Shared',
  'baselines',
  'losses',
  'make_search',
  'weights',
]
