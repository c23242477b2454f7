"""The weight codec: networks as standardised vectors or tokens, and back."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from dapt_jax import files
from dapt_jax.types import Params
from dapt_jax.weights import layout as layout_lib
from dapt_jax.weights import moments
from dapt_jax.weights import tokens as tokens_lib

MODES = ('vector', 'tokens')
SCALES = ('weight', 'leaf')
_FILES = files.Pair(
  format='dapt_jax.weight_codec',
  version=1,
  what='a weight codec',
  suffix='.safetensors',
  required=('leaves', 'chunk', 'scale', 'networks'),
)


@dataclasses.dataclass(frozen=True)
class Codec:
  """Networks as vectors f32[D] or tokens f32[tokens, chunk], standardised over a zoo.

  Everything under `params['params']` is encoded (all of `params` where there is no such entry).
  Statistics of normalisation are not: `decode` fills in their means over the zoo, and
  `recalibrate` takes them from images.

  Attributes:
    layout: the order of the weights.
    tokens: how they are cut into tokens; None for vectors.
    scale: `'weight'` or `'leaf'`, see `fit`.
    mean: f32[D].
    std: f32[D], positive.
    rest: f32[R], means of what is not encoded.
    networks: how many it was fitted to.
  """

  layout: layout_lib.Layout
  tokens: tokens_lib.Tokens | None
  scale: str
  mean: np.ndarray
  std: np.ndarray
  rest: np.ndarray
  networks: int

  @classmethod
  def fit(
    cls,
    *stacks: Params,
    mode: str = 'vector',
    chunk: int | None = None,
    scale: str = 'weight',
  ) -> Codec:
    """Takes layout, means and deviations from trained networks.

    Args:
      *stacks: parameters with a leading axis N; one stack for every set of widths. A narrower
        network fills the leading entries of every axis; None leaves (branches that were cut) are
        padding as a whole.
      mode: `'vector'` or `'tokens'`.
      chunk: length of a token, see `Tokens.of`.
      scale: `'weight'`: every weight has its own mean and deviation (networks with one
        initialisation, or aligned); `'leaf'`: all entries of a leaf share them (independent seeds).

    Raises:
      TypeError: for something else than nested dicts of real arrays.
      ValueError: for networks that do not fit each other, that are not finite, or are too few.
    """
    for what, value, known in (('mode', mode, MODES), ('scale', scale, SCALES)):
      if value not in known:
        raise ValueError(f'{what} is {value!r}; choose one of {known}')
    if chunk is not None and mode == 'vector':
      raise ValueError(f"chunk={chunk!r} is for mode 'tokens'; a vector is not cut")
    zoo = moments.Zoo.of(stacks)
    if zoo.networks < 2:
      raise ValueError(f'{zoo.networks} networks have no deviations; fit the codec to two or more')
    tokens = tokens_lib.Tokens.of(zoo.layout, chunk) if mode == 'tokens' else None
    mean, std = zoo.standard(scale == 'leaf')
    return cls(zoo.layout, tokens, scale, mean, std, zoo.rest(), zoo.networks)

  @property
  def mode(self) -> str:
    """`'vector'` or `'tokens'`."""
    return 'vector' if self.tokens is None else 'tokens'

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the code of one network: `(D,)` or `(tokens, chunk)`."""
    return self.tokens.shape if self.tokens else (self.layout.size,)

  def mask(self, params: Params = None) -> np.ndarray:
    """Where a code holds weights, bool of `shape`.

    Args:
      params: parameters (or `jax.ShapeDtypeStruct`) of one network, cut or narrower perhaps; what
        it lacks is False. None: a network of the largest widths.
    """
    size = self.layout.size
    there = np.ones(size, bool) if params is None else self.layout.mask(params)
    if self.tokens is None:
      return there
    return np.append(there, False)[self.tokens.source].reshape(self.shape)

  def encode(self, params: Params) -> jax.Array:
    """The code of a network: standardised weights, zero where `mask` is False.

    Args:
      params: parameters; leading axes that all leaves share are kept. `batch_stats` are ignored.

    Returns:
      f32[..., *shape].

    Raises:
      TypeError: for something else than nested dicts of real arrays.
      ValueError: for parameters that do not fit; the message names the leaf.
    """
    vector = (self.layout.flatten(params) - self.mean) / self.std
    vector = vector * self.layout.mask(self.layout.single(params))
    return self.tokens.pack(vector) if self.tokens else vector

  def decode(self, code: jax.Array, like: Params = None) -> Params:
    """The network of a code, the inverse of `encode` up to rounding.

    Args:
      code: f32[..., *shape].
      like: parameters (or shapes) of a network whose widths and branches are wanted; None: the
        largest.

    Returns:
      Parameters with the leading axes of the code, and statistics of normalisation that are means
      over the zoo.

    Raises:
      ValueError: for a code of another shape, or widths that do not fit.
    """
    code = jnp.asarray(code)
    if code.shape[code.ndim - len(self.shape) :] != self.shape:
      raise ValueError(
        f'the code has shape {code.shape}; this codec has codes of shape (..., '
        f'{", ".join(map(str, self.shape))})'
      )
    vector = self.tokens.unpack(code) if self.tokens else code
    return self.layout.unflatten(vector * self.std + self.mean, self.rest, like)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes `path` (JSON) and, beside it, the numbers as `.safetensors`."""
    head = {
      'leaves': [dataclasses.asdict(leaf) for leaf in self.layout.leaves],
      'chunk': self.tokens.chunk if self.tokens else None,
      'scale': self.scale,
      'networks': self.networks,
    }
    arrays = {'mean': self.mean, 'std': self.std, 'rest': self.rest}
    _FILES.save(path, head, safetensors.numpy.save(arrays))

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Codec:
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError: if one of the two files is missing.
      ValueError: for a foreign or damaged file; the message says which and what to do.
    """
    head, data = _FILES.load(path)
    try:
      layout = layout_lib.Layout(tuple(_leaf(**entry) for entry in head['leaves']))
      tokens = None if head['chunk'] is None else tokens_lib.Tokens.of(layout, head['chunk'])
      arrays = safetensors.numpy.load(data)
      out = cls(layout, tokens, head['scale'], **arrays, networks=int(head['networks']))
      if out.mean.shape != (layout.size,) or out.std.shape != out.mean.shape:
        raise ValueError(f'{layout.size} weights, but {out.mean.shape} means')
    except (TypeError, ValueError, KeyError, safetensors.SafetensorError) as error:
      raise ValueError(f'{path} is damaged: {error}; save the codec again') from error
    return out


def _leaf(path: list[str], shape: list[int] | None, **fields: Any) -> layout_lib.Leaf:
  return layout_lib.Leaf(tuple(path), None if shape is None else tuple(shape), **fields)
