"""The variants of `experiments.study_generator`: what changes in the configuration."""

from __future__ import annotations

from typing import Any

import ml_collections

from experiments import studies

_SETS = {'condition.encoder': 'set_transformer'}
_MANY = {'condition.images': (1, 5, 10, 20)}

#: {group: {variant: what changes in the configuration}}
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
  'encoder': {
    'moments, order-invariant': {'condition.slots': False},
    'moments of a trained network': {'condition.features': 'network'},
    'set transformer': _SETS,
    'set transformer, order-invariant': {**_SETS, 'condition.slots': False},
    'set transformer, trained network': {**_SETS, 'condition.features': 'network'},
    'set transformer, info_nce': {**_SETS, 'condition.align': 'info_nce'},
    'set transformer, soft targets': {**_SETS, 'condition.align': 'soft_target'},
  },
  'images': {
    **{f'trained with 10, shown {k}': {'sample.support': k} for k in (1, 5, 20)},
    **{
      f'trained with {k}, shown {k}': {'condition.images': (k,), 'sample.support': k}
      for k in (1, 5, 20)
    },
    **{f'trained with 1 to 20, shown {k}': {**_MANY, 'sample.support': k} for k in (1, 5, 10, 20)},
    **{
      f'set transformer, trained with 1 to 20, shown {k}': {**_SETS, **_MANY, 'sample.support': k}
      for k in (1, 5, 10, 20)
    },
  },
  'zoo': {f'{size} networks': {'zoo.size': size} for size in (500, 1000, 2000)},
  'latent': {
    f'latent of {whole} and {own} a class': {
      **{'autoencoder.latent': whole, 'autoencoder.per_class': own}
    }
    for whole, own in ((28, 4), (56, 8), (224, 32))
  },
  'losses': {
    'no probe term': {'autoencoder.probe': 0.0},
    'no task term': {'generator.task': 0.0},
    'no fresh tasks': {'fresh.tasks': 0},
    'neither task term nor fresh tasks': {'generator.task': 0.0, 'fresh.tasks': 0},
    'fresh tasks as they are': {'fresh.mixed': 0.0, 'fresh.warped': 0.0},
  },
  'guidance': {f'guidance {w}': {'sample.guidance': w} for w in (0.0, 1.0, 1.5, 3.0, 4.0)},
  'solver': {
    f'{method}, {n} steps': {'sample.method': method, 'sample.steps': n}
    for method, n in (('ddim', 10), ('ddim', 50), ('ddpm', 50), ('heun', 10), ('dpm_solver', 30))
  },
  'objective': {
    'flow matching': {'generator.objective': 'flow'},
    'data predicted': {'generator.objective': 'sample'},
    'v, cosine schedule': {'generator.schedule': 'cosine'},
  },
}
#: The row that every group begins with.
BASE = 'as configured'


def changed(config: Any, variant: str) -> ml_collections.ConfigDict:
  """The configuration of a variant.

  Raises:
    ValueError: for a variant that is not known.
  """
  known = {BASE: {}, **{name: c for group in GROUPS.values() for name, c in group.items()}}
  if variant not in known:
    raise ValueError(f'{variant!r} is no variant of the study; choose one of {list(known)}')
  return studies.changed(config, known[variant])
