"""From the features of a few images to a condition: encoders of sets (Flax Linen).

A task is a sequence of sets: the images of a class have no order, the classes have one, since row k
of a classifier belongs to label k. Both encoders ignore the first order and keep the second; with
`slots=False` they ignore both, which is the ablation and what the public code of D2NWG (Soro et
al., 2025) does in its Set Transformer: tasks with exchanged labels then look alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dapt_jax.models import attention, blocks, layers
from dapt_jax.tasks import conditions
from dapt_jax.types import Params, PRNGKey


class Condition(NamedTuple):
  """What a generator is told of a task.

  Attributes:
    vector: f32[B, C], for denoisers of vectors.
    tokens: f32[B, classes, D], one for each class, for `diffusion.dit.DiT`. With slots the
      values say which class a token is of.
  """

  vector: jax.Array
  tokens: jax.Array


class Moments(nn.Module):
  """Mean and standard deviation of every class, optionally through one dense layer.

  Without `width` it has no parameters: `vector` is f32[B, classes 2 F] and a token is
  f32[2 F + classes], the moments and a one-hot label. Without slots the vector is the mean over
  classes and tokens have no label.

  Attributes:
    num_classes: of a task.
    width: D of a class, out of a dense layer; None means the moments themselves.
    slots: whether the order of the classes counts.
  """

  num_classes: int
  width: int | None = None
  slots: bool = True

  @nn.compact
  def __call__(self, features: jax.Array, mask: jax.Array | None = None) -> Condition:
    """Encodes f32[B, classes, k, F]; `mask` bool[B, classes or 1, k] says which images count.

    Raises:
      ValueError: for features or a mask of another shape.
    """
    check(features, mask, self.num_classes)
    tokens = conditions.moments(features, mask)
    if self.width is not None:
      tokens = nn.Dense(self.width, name='dense')(tokens)
    if not self.slots:
      return Condition(tokens.mean(1), tokens)
    labels = jnp.broadcast_to(jnp.eye(self.num_classes), (len(tokens), *[self.num_classes] * 2))
    labelled = jnp.concatenate([tokens, labels], axis=-1)
    return Condition(tokens.reshape(len(tokens), -1), labelled)


class SetTransformer(nn.Module):
  """Attention among the images of a class, then among the classes (Lee et al., 2019).

  Inside a class: `depth` blocks of induced attention (ISAB, equation 9 there) and pooling with one
  learned query (PMA, equation 11). A learned vector for each slot is added to what comes out, and
  blocks of self-attention (SAB) run over the classes. The same parameters serve any number of
  images. Ours: the slots, LayerNorm before each part and not after it, and the small sizes: with
  ten images a class most of the time of an update goes into the ISABs.

  Attributes:
    num_classes: of a task.
    size: C, entries of the vector.
    width: D, of all tokens.
    heads: number of attention heads, a divisor of `width`.
    depth: number of ISABs, and of SABs over the classes.
    inducing: number of inducing points of an ISAB.
    slots: whether the order of the classes counts; otherwise they are averaged.
  """

  num_classes: int
  size: int = 128
  width: int = 64
  heads: int = 2
  depth: int = 1
  inducing: int = 4
  slots: bool = True

  @nn.compact
  def __call__(self, features: jax.Array, mask: jax.Array | None = None) -> Condition:
    """Encodes f32[B, classes, k, F]; `mask` bool[B, classes or 1, k] says which images count.

    Raises:
      ValueError: for features or a mask of another shape, or heads that do not divide the width.
    """
    attention.check(self.width, self.heads, None)
    check(features, mask, self.num_classes)
    x = nn.Dense(self.width, name='input')(features)
    # Over heads and queries, as attention wants it: bool[B, classes or 1, 1, 1, k].
    mask = None if mask is None else mask[:, :, None, None]
    for i in range(1, self.depth + 1):
      points = _Queries(self.inducing, self.heads, name=f'induce{i}')(x, mask)
      x = _Attend(self.heads, name=f'image{i}')(x, points)
    tokens = _Queries(1, self.heads, name='pool')(x, mask)[..., 0, :]
    if self.slots:
      tokens += self.param('slots', layers.table_normal, (self.num_classes, self.width))
    for i in range(1, self.depth + 1):
      tokens = blocks.Block(self.heads, 2 * self.width, name=f'class{i}')(tokens)
    tokens = nn.LayerNorm(name='norm')(tokens)
    whole = tokens.reshape(len(tokens), -1) if self.slots else tokens.mean(1)
    return Condition(nn.Dense(self.size, name='output')(whole), tokens)


def functions(
  module: nn.Module, shape: Sequence[int]
) -> tuple[Callable[[PRNGKey], Params], Callable[..., Condition]]:
  """The pure functions of an encoder, to be trained alone or inside a generator.

  Args:
    module: `Moments` or `SetTransformer`.
    shape: (classes, k, F) of one task; other k may follow.

  Returns:
    (`init(key) -> params`, `encode(params, features, mask=None) -> Condition`).
  """
  example = jnp.zeros((1, *shape))

  def init(key: PRNGKey) -> Params:
    return jax.jit(module.init)(key, example)

  def encode(params: Params, features: jax.Array, mask: jax.Array | None = None) -> Condition:
    vector, tokens = module.apply(params, features, mask)
    return Condition(jnp.asarray(vector), jnp.asarray(tokens))

  return init, encode


def check(features: jax.Array, mask: jax.Array | None, num_classes: int) -> None:
  """Checks what an encoder is given.

  Raises:
    ValueError: naming the shape and the rule.
  """
  if features.ndim != 4 or features.shape[1] != num_classes or not features.shape[2]:
    raise ValueError(
      f'features have shape {features.shape}: this encoder takes [batch, {num_classes} classes, k '
      'images, F]; a task with another number of classes needs an encoder made for it'
    )
  if mask is not None:
    batch, classes, k, _ = features.shape
    if mask.shape not in ((batch, classes, k), (batch, 1, k)):
      raise ValueError(
        f'mask has shape {mask.shape}: give ({batch}, {classes} or 1, {k}), one entry an image'
      )


class _Attend(nn.Module):
  """x reads from a memory: MAB (Lee et al., 2019, equation 6), normalised before each part."""

  heads: int

  @nn.compact
  def __call__(self, x: jax.Array, memory: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Maps f32[..., T, D] and f32[..., S, D] to f32[..., T, D]; mask bool[..., 1, 1, S]."""
    query, kept = nn.LayerNorm(name='norm1')(x), nn.LayerNorm(name='norm_memory')(memory)
    attend = nn.MultiHeadDotProductAttention(self.heads, name='attention')
    x = x + attend(query, kept, mask=mask)
    return x + blocks.Feedforward(x.shape[-1], name='mlp')(nn.LayerNorm(name='norm2')(x))


class _Queries(nn.Module):
  """Learned queries that read from a set: inducing points, or the seed of a pooling."""

  count: int
  heads: int

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Maps f32[..., T, D] to f32[..., count, D]."""
    queries = self.param('queries', nn.initializers.normal(1.0), (self.count, x.shape[-1]))
    queries = jnp.broadcast_to(queries, (*x.shape[:-2], *queries.shape))
    return _Attend(self.heads, name='attend')(queries, x, mask)
