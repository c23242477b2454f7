"""Where the weights of the search come from (W0 to W5 of `docs/gates.md`).

The structure is learned independently of the weights attached to it by averaging over many draws
of weights. How they are drawn, and whether they are trained between two draws, is a `WeightSource`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dapt_jax.types import Params, PRNGKey

InitFn = Callable[[PRNGKey], Params]
NAMES = ('fresh', 'random_features', 'ones', 'given', 'fixed', 'every_step')


class WeightSource(NamedTuple):
  """How a population of networks gets its weights.

  Attributes:
    name: for provenance.
    init: `init(key) -> params` of one network.
    lifetime: updates between two draws; 0 keeps the first draw for ever.
    inner_steps: weight updates per gate update; 0 leaves the weights as drawn.
  """

  name: str
  init: InitFn
  lifetime: int
  inner_steps: int


def fresh(init: InitFn, lifetime: int = 100, inner_steps: int = 1) -> WeightSource:
  """W1, the main variant: drawn anew every `lifetime` updates and trained in between."""
  _check('lifetime', lifetime, 1)
  _check('inner_steps', inner_steps, 1)
  return WeightSource('fresh', init, lifetime, inner_steps)


def random_features(init: InitFn, lifetime: int = 1) -> WeightSource:
  """W2: random weights, never trained; use it with `losses.ridge`, whose readout is refitted."""
  _check('lifetime', lifetime, 1)
  return WeightSource('random_features', init, lifetime, 0)


def ones(init: InitFn) -> WeightSource:
  """W3: every weight is 1 (a weight-free network); use it with gates on single links."""

  def all_ones(key: PRNGKey) -> Params:
    return jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), jax.eval_shape(init, key))

  return WeightSource('ones', all_ones, 0, 0)


def given(params: Params, inner_steps: int = 0) -> WeightSource:
  """W0: one given network, frozen (`inner_steps=0`) or trained along: pruning as usual."""
  _check('inner_steps', inner_steps, 0)
  return WeightSource('given', lambda key: params, 0, inner_steps)


def fixed(init: InitFn) -> WeightSource:
  """W4: one random draw for the whole search, never trained; a baseline."""
  return WeightSource('fixed', init, 0, 0)


def every_step(init: InitFn) -> WeightSource:
  """W5, a negative control: zero-mean weights anew at every update, readout included.

  The expected loss is then smallest with everything pruned (proposition D), whatever the labels.
  """
  return WeightSource('every_step', init, 1, 0)


def make(
  name: str,
  init: InitFn,
  *,
  lifetime: int = 100,
  inner_steps: int = 1,
  params: Params | None = None,
) -> WeightSource:
  """A source by name, for configurations.

  Raises:
    ValueError: for an unknown name, or 'given' without `params`.
  """
  if name == 'fresh':
    return fresh(init, lifetime, inner_steps)
  if name == 'random_features':
    return random_features(init, lifetime)
  if name == 'given':
    if params is None:
      raise ValueError("weights 'given' needs the params of a trained network; train one first")
    return given(params, inner_steps)
  simple = {'ones': ones, 'fixed': fixed, 'every_step': every_step}
  if name not in simple:
    raise ValueError(f'weights is {name!r}; allowed are {list(NAMES)}')
  return simple[name](init)


def _check(field: str, value: int, least: int) -> None:
  if value < least:
    raise ValueError(f'{field} is {value}; it must be at least {least}')
