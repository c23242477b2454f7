"""An autoencoder of weights that reads and writes a network token by token: for larger networks.

Encoder and decoder are transformers (`models.segments`) over pieces of layers, as in Schuerholt et
al., "SANE", 2024, but over the whole network at once. Parameters grow with the number of tokens and
with their length instead of with the number of weights times the width. A latent is a few numbers
for every token: first those of the tokens that no class owns, then class after class.
The loss is that of `autoencoder`; it is taken of weights, so that padding never counts.
"""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.models import segments
from dapt_jax.types import Params, PRNGKey
from dapt_jax.weights import autoencoder, partition
from dapt_jax.weights import tokens as tokens_lib


def make(
  settings: autoencoder.Settings,
  parts: partition.Partition,
  tokens: tokens_lib.Tokens,
  outputs: autoencoder.Outputs | None = None,
) -> autoencoder.Autoencoder:
  """Makes an autoencoder; its latents are tokens, `per_token` numbers each.

  Args:
    settings: see `autoencoder.Settings`; `latent` and `per_class` are not read.
    parts: which of the D standardised weights belong to a class.
    tokens: of the D weights.
    outputs: logits of a network from standardised weights; needed where `probe` is not 0.

  Raises:
    ValueError: if `probe` is set without `outputs`, for tokens of another network, and for classes
      without tokens of their own.
  """
  owner, order = _owners(parts, tokens)
  count, length = tokens.shape
  network = lambda out: segments.Segments(tokens.sizes, settings.width, settings.blocks, out)
  encoder, decoder = network(2 * settings.per_token), network(length)
  back = np.argsort(order)

  def init(first: PRNGKey, second: PRNGKey) -> Params:
    return {
      'encoder': encoder.init(first, jnp.zeros((1, count, length))),
      'decoder': decoder.init(second, jnp.zeros((1, count, settings.per_token))),
    }

  def encode(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    found = cast(jax.Array, encoder.apply(params['encoder'], tokens.pack(x)))
    mean, log_variance = jnp.split(found[:, order], 2, axis=-1)
    return mean.reshape(len(x), -1), log_variance.reshape(len(x), -1)

  def decode(params: Params, z: jax.Array) -> jax.Array:
    latents = z.reshape(len(z), count, settings.per_token)[:, back]
    return tokens.unpack(cast(jax.Array, decoder.apply(params['decoder'], latents)))

  owned = np.asarray(jax.nn.one_hot(owner[order], len(parts.slots)))
  networks = autoencoder.Networks(
    count * settings.per_token,
    int((owner < 0).sum()) * settings.per_token,
    init,
    encode,
    decode,
    owned,
  )
  return autoencoder.assemble(settings, networks, outputs)


def _owners(parts: partition.Partition, tokens: tokens_lib.Tokens) -> tuple[np.ndarray, np.ndarray]:
  """(class of every token, -1 for none; the tokens without a class first, then class by class)."""
  if tokens.size != parts.size:
    raise ValueError(
      f'the tokens hold {tokens.size} weights, the partition has {parts.size}; make both from one '
      'codec'
    )
  owner = tokens.owners(parts.owners)
  counts = np.bincount(owner[owner >= 0], minlength=len(parts.slots))
  if not counts[0] or len(set(counts.tolist())) > 1:
    raise ValueError(
      f'the classes have {counts.tolist()} tokens of their own; cut tokens with '
      'Tokens.of(layout, chunk, parts.owners), which keeps units of classes apart'
    )
  return owner, np.argsort(owner, kind='stable')
