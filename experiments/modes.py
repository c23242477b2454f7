"""The zoos of `experiments.study_modes`: what changes in the configuration."""

from __future__ import annotations

from typing import Any

import ml_collections

from experiments import studies

#: {zoo: what changes in the configuration}
MODES: dict[str, dict[str, Any]] = {
  'shared': {},
  'shared, flow': {'generator.objective': 'flow'},
  '3 starts': {'zoo.starts': 3},
  '3 starts, aligned': {'zoo.starts': 3, 'zoo.align': 'weights'},
  'independent': {'zoo.start': 'independent'},
  'independent, by weights': {'zoo.start': 'independent', 'zoo.align': 'weights'},
  'independent, by weights, leaf': {
    **{'zoo.start': 'independent', 'zoo.align': 'weights', 'autoencoder.scale': 'leaf'}
  },
  'independent, by activations': {'zoo.start': 'independent', 'zoo.align': 'activations'},
  'widths': {'model.narrower': ({'widths': (16,)}, {'widths': (8,)})},
}


def changed(config: Any, mode: str, loss: str = 'images') -> ml_collections.ConfigDict:
  """The configuration of one zoo.

  Args:
    config: that all have in common.
    mode: out of `MODES`.
    loss: 'weights' leaves out the generator's loss on images.

  Raises:
    ValueError: for a mode that is not known.
  """
  if mode not in MODES:
    raise ValueError(f'{mode!r} is no zoo of the study; choose one of {list(MODES)}')
  out = studies.changed(config, MODES[mode])
  if loss == 'weights':
    out.generator.task = 0.0
  return out
