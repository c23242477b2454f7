"""One training of the apps that generate weights, in a directory of its own."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from dapt_jax.training import loop, repeated
from dapt_jax.training import workdir as workdir_lib
from experiments import generation

#: Kinds of trainings that read conditions.
_TOLD = ('condition', 'generator', 'hypernetwork')


def described(config: Any, kind: str) -> dict[str, Any]:
  """All that a training depends on: what its directory must have been made with to be resumed."""
  sections = ('seed', 'data', 'model', 'zoo', 'autoencoder', 'training', kind)
  out = {name: config[name] for name in sections}
  if kind == 'autoencoder':  # which sees no conditions
    return out
  out |= {'fresh': config.fresh, 'support': config.sample.support}
  if kind in _TOLD and not generation.is_default(config, 'condition'):
    out['condition'] = config.condition
  if kind in _TOLD and config.condition.features == 'network':
    out['joint'] = config.joint
  if kind in _TOLD and config.condition.images:
    del out['support']
  return out


def fit(
  config: Any,
  path: pathlib.Path,
  kind: str,
  update: Callable[..., Any],
  state: Any,
  draw: Callable[..., Any],
  data: Any,
  steps: int,
) -> Any:
  """Runs one training; goes on where an earlier call was stopped."""
  t = config.training
  run = jax.jit(repeated.repeated(update, draw, t.repeat), donate_argnums=0)
  with workdir_lib.open_workdir(path, described(config, kind), kind=kind) as opened:
    done = loop.run(
      run,
      state,
      lambda _: data,
      prefetch=0,
      num_steps=max(steps // t.repeat, 1),
      workdir=opened,
      checkpoint_every=t.checkpoint_every,
      keep=1,
      log_every=max(t.checkpoint_every // 4, 1),
      shown=('loss', 'error', 'penalty'),
      name=kind,
    )
  return done.state
