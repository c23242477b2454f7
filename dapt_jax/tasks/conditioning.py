"""How a generator is told of a task: features of a few images, and an encoder of them.

Three steps, so that each is done where it is cheapest: *features* of images, with nothing that is
trained (once for all stored images, or inside a program where images are distorted); what is *told*
of a task, one array a task, made of them; and, where the encoder has parameters, the *rows* of the
condition, one a class, inside the program that trains the generator. Plain moments need no
parameters, so what is told are the rows already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dapt_jax.tasks import conditions, set_encoder
from dapt_jax.types import Params, PRNGKey

#: Encoders that `make` knows.
ENCODERS = ('moments', 'set_transformer')


class Encoder(NamedTuple):
  """An encoder with parameters, which are trained along with what reads the condition.

  Attributes:
    init: `init(key, told) -> params`.
    encode: `encode(params, told, mask=None) -> set_encoder.Condition`; its tokens are the rows
      f32[B, classes, D] of the condition. Which images count is told, so there is no other mask.
  """

  init: Callable[[PRNGKey, jax.Array], Params]
  encode: Callable[..., set_encoder.Condition]


class Conditioning(NamedTuple):
  """The way from images to a condition.

  Attributes:
    tell: `tell(features f32[B, classes, k, F], mask bool[B, 1, k] or None) -> f32[B, classes,
      ...]`, what is told of tasks.
    look: `look(pictures f32[..., H, W, C]) -> f32[..., F]`, features inside a compiled program;
      None where that costs too much, and only stored images have features.
    known: `known(images f32[n, H, W, C]) -> f32[n, F]`, features of stored images, to be called
      once; None where they are not worth storing.
    encoder: makes rows of what is told; None where it is rows.
  """

  tell: Callable[[jax.Array, jax.Array | None], jax.Array]
  look: Callable[[jax.Array], jax.Array] | None
  known: Callable[[Any], jax.Array] | None = None
  encoder: Encoder | None = None

  def of(self, images: jax.Array, rows: jax.Array, known: jax.Array | None = None) -> jax.Array:
    """What is told of tasks by images that all count.

    Args:
      images: f32[n, H, W, C].
      rows: i32[B, classes, k], rows of them; any k.
      known: f32[n, F], their features, where they are stored.
    """
    return self.tell(self.features(images, rows, known), None)

  def features(
    self, images: jax.Array, rows: jax.Array, known: jax.Array | None = None
  ) -> jax.Array:
    """Features f32[B, classes, k, F] of rows of images, stored ones or computed here."""
    if known is not None:
      return known[rows]
    assert self.look is not None
    return self.look(images[rows])


def pixels(pictures: jax.Array) -> jax.Array:
  """The pixels f32[..., H W C] of pictures f32[..., H, W, C]."""
  return pictures.reshape(*pictures.shape[:-3], -1)


def make(
  encoder: str,
  num_classes: int,
  *,
  width: int = 64,
  slots: bool = True,
  look: Callable[[jax.Array], jax.Array] | None = pixels,
  known: Callable[[Any], jax.Array] | None = None,
) -> Conditioning:
  """Makes a way from images to a condition.

  Args:
    encoder: one of `ENCODERS`.
    num_classes: of a task.
    width: D of the set transformer.
    slots: whether the order of the classes counts; otherwise every row is the mean of the rows, and
      nothing that reads them can follow labels (the ablation).
    look: see `Conditioning`.
    known: see `Conditioning`.

  Raises:
    ValueError: for an unknown encoder.
  """
  if encoder not in ENCODERS:
    raise ValueError(f'encoder {encoder!r}: choose one of {list(ENCODERS)}')
  if encoder == 'set_transformer':
    module = set_encoder.SetTransformer(num_classes, width=width, slots=slots)
    return Conditioning(_marked, look, known, _encoder(module))

  def tell(features: jax.Array, mask: jax.Array | None) -> jax.Array:
    rows = conditions.moments(features, mask)
    return rows if slots else _alike(rows)

  return Conditioning(tell, look, known)


#: Moments of pixels, a row for every class.
PIXELS = make('moments', 0)


def rows_like(encoder: Encoder | None, told: jax.Array) -> jax.Array:
  """Zeros f32[B, classes, D] in the shape of the rows that what is told becomes."""
  if encoder is None:
    return jnp.zeros(told.shape)
  params = jax.eval_shape(encoder.init, jax.random.key(0), told)
  rows = jax.eval_shape(encoder.encode, params, told).tokens
  return jnp.zeros(rows.shape)


def check(told: jax.Array, shape: tuple[int, ...]) -> None:
  """Checks what a generator is told; of sets of images the number is free.

  Args:
    told: f32[B, classes, ...].
    shape: of one task in its training.

  Raises:
    ValueError: for other classes or entries.
  """
  ends = lambda s: (len(s), s[0], s[-1])
  if told.ndim < 3 or ends(told.shape[1:]) != ends(shape):
    sizes = [*map(str, shape[:1]), *(['k'] if len(shape) > 2 else []), str(shape[-1])]
    raise ValueError(
      f'the condition has shape {told.shape}; this generator takes (B, {", ".join(sizes)}): as '
      'many classes, and images as large, as it was trained with'
    )


def _encoder(module: set_encoder.SetTransformer) -> Encoder:
  def init(key: PRNGKey, told: jax.Array) -> Params:
    return jax.jit(module.init)(key, told[:1, ..., 1:])

  def encode(
    params: Params, told: jax.Array, mask: jax.Array | None = None
  ) -> set_encoder.Condition:
    del mask
    vector, tokens = module.apply(params, told[..., 1:], told[..., 0] > 0)
    tokens = jnp.asarray(tokens)
    return set_encoder.Condition(jnp.asarray(vector), tokens if module.slots else _alike(tokens))

  return Encoder(init, encode)


def _marked(features: jax.Array, mask: jax.Array | None) -> jax.Array:
  """Features of images, before them 1 for an image that counts, else 0; f32[B, classes, k, 1 + F].

  One array, which can be cut, repeated and permuted by tasks and classes like any condition.
  """
  counts = jnp.ones(features.shape[:-1]) if mask is None else mask
  counts = jnp.broadcast_to(counts, features.shape[:-1]).astype(features.dtype)
  return jnp.concatenate([counts[..., None], features], axis=-1)


def _alike(rows: jax.Array) -> jax.Array:
  """Every row the mean of all rows, f32[B, classes, D]."""
  return jnp.broadcast_to(rows.mean(1, keepdims=True), rows.shape)
