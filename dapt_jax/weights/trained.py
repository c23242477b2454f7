"""A trained generator on disk: what it takes to draw weights, in two files, no pickle."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from dapt_jax import files
from dapt_jax.training import config as config_lib
from dapt_jax.training import writers
from dapt_jax.types import Params

_FILES = files.Pair(
  format='dapt_jax.generator',
  version=1,
  what='a generator of weights',
  suffix='.safetensors',
  required=('settings',),
  head_suffix='.json',
)


@dataclasses.dataclass(frozen=True)
class Arrays:
  """The numbers of a generator, apart from its codec (which is an artefact of its own).

  Attributes:
    settings: JSON-ready: what autoencoder, generator and hypernetwork are made of, the model, the
      split, k images a class, figures of the gate.
    coder: parameters of the autoencoder.
    latent_mean: f32[L].
    latent_std: f32[L].
    generator: parameters that are sampled with (the moving average).
    hypernetwork: {variant: parameters of a hypernetwork}.
    features: what features of images are computed with; empty for pixels, and in older files.
  """

  settings: Mapping[str, Any]
  coder: Params
  latent_mean: np.ndarray
  latent_std: np.ndarray
  generator: Params
  hypernetwork: Mapping[str, Params]
  features: Params = dataclasses.field(default_factory=dict)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes `path` (JSON) and, beside it, the arrays as `.safetensors`."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    tree = {k: v for k, v in fields.items() if k != 'settings'}
    tree['hypernetwork'] = dict(self.hypernetwork)
    flat = traverse_util.flatten_dict(tree, sep='|')
    payload = safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in flat.items()})
    _FILES.save(path, {'settings': dict(self.settings)}, payload)

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Arrays:
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError: if one of the two files is missing.
      ValueError: for a foreign or damaged file.
    """
    head, payload = _FILES.load(path)
    flat = {k: jnp.asarray(v) for k, v in safetensors.numpy.load(payload).items()}
    empty: dict[str, Any] = {
      'hypernetwork': {},
      'features': {},
    }  # of which a flat file shows nothing
    tree = {**empty, **traverse_util.unflatten_dict(flat, sep='|')}
    wanted = {f.name for f in dataclasses.fields(cls)} - {'settings'}
    if set(tree) != wanted:
      raise ValueError(
        f'{path} has {sorted(tree)}; a generator has {sorted(wanted)}: train it again'
      )
    return cls(settings=head['settings'], **tree)

  def require(
    self, config: Mapping[str, Any], free: Sequence[str], added: Mapping[str, Any] | None = None
  ) -> None:
    """Refuses a configuration that describes another generator.

    Args:
      config: what the generator is to be used with.
      free: sections and dotted fields that may differ from `settings['config']`.
      added: sections that files of an earlier version lack, with what they stand for there.

    Raises:
      ValueError: the message names every field that differs, with both values.
    """
    plain = lambda tree: config_lib.flatten(json.loads(json.dumps(writers.jsonable(tree))))
    here, now = plain({**(added or {}), **self.settings['config']}), plain(config)
    counts = lambda name: not any(name == f or name.startswith(f'{f}.') for f in free)
    differing = [n for n in {**here, **now} if counts(n) and here.get(n) != now.get(n)]
    if differing:
      said = '; '.join(f'{n}: {here.get(n)!r}, not {now.get(n)!r}' for n in differing)
      raise ValueError(
        f'the generator was trained with another configuration ({said}); take that configuration, '
        'or train a generator in another directory'
      )

  def parameters(self) -> int:
    """Number of parameters of the generator and its decoder."""
    return sum(int(np.prod(a.shape)) for a in jax.tree.leaves(self.generator))
