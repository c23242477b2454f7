"""Recurrent classifiers of token ids: LSTM (Hochreiter and Schmidhuber, 1997), GRU (Cho, 2014)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from dapt_jax.models import blocks

#: Kinds of cells; both compute every gate by its own dense layers.
CELLS = {'lstm': nn.LSTMCell, 'gru': nn.GRUCell}


class Recurrent(nn.Module):
  """Embedding, one recurrent layer under `lax.scan`, a dense head on the last state.

  Token id 0 is padding and stands at the end: the state read is the one after the last token that
  is not padding.

  Attributes:
    num_classes: number of logits.
    cell: 'lstm' or 'gru'.
    vocabulary: number of token ids, padding included.
    embedding: width of the embedding.
    width: width of the state.
  """

  num_classes: int
  cell: str = 'lstm'
  vocabulary: int = 1000
  embedding: int = 64
  width: int = 128
  init_gain = 1.0
  reads_tokens = True

  @nn.compact
  def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
    """Maps `i32[N, T]` to logits `f32[N, num_classes]`."""
    x = nn.Embed(self.vocabulary, self.embedding, name='token')(tokens)
    # An example of nothing but padding is read after its first position.
    lengths = jnp.maximum(jnp.sum(tokens != blocks.PADDING, axis=1), 1)
    cell = CELLS[self.cell](self.width, name='cell')
    # In the precision of the parameters, which cells do not ask for by themselves.
    zeros = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
    zeros = jax.tree.map(lambda c: c.astype(x.dtype), zeros)
    layer = nn.RNN(cell, return_carry=True, name='layer')
    carry, _ = layer(x, initial_carry=zeros, seq_lengths=lengths)
    x = carry[1] if self.cell == 'lstm' else carry
    self.sow('intermediates', 'features', x)
    return nn.Dense(self.num_classes, name='head')(x)
