"""Networks of a shared vector and slots, one a class: what is learned for one holds for all.

Sums over the slots are the only way from one to another, so exchanging slots exchanges results
(Zaheer et al., "Deep Sets", 2017, theorem 2), but for what the layers `places` and `ordered` add:
networks of one initialisation have a last layer whose rows differed before any data were seen.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from dapt_jax.models import layers


class Exchange(nn.Module):
  """Residual block: the shared vector looks at all slots, then every slot looks at it.

  Attributes:
    width: of both, W; also of the hidden layers.
  """

  width: int

  @nn.compact
  def __call__(
    self, shared: jax.Array, slots: jax.Array, film: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Maps shared f32[B, W] and slots f32[B, S, W] to the same shapes.

    Args:
      shared: what all slots have in common.
      slots: the slots.
      film: f32[B, W], scales and shifts the normalised shared vector and slots (Perez et al.,
        2018), as time does in diffusion; None: nothing does.
    """
    # A smooth maximum: the slope of a hard one compares numbers, which compilers recompute.
    pooled = jnp.concatenate([slots.mean(1), jax.nn.logsumexp(slots, axis=1)], -1)
    hidden = self._norm('shared', shared, film)
    hidden = nn.gelu(self._dense('up_shared')(hidden) + self._dense('pooled')(pooled))
    shared = shared + self._dense('down_shared')(hidden)
    hidden = self._dense('up')(self._norm('slots', slots, film))
    hidden = nn.gelu(hidden + self._dense('told')(shared)[:, None])
    return shared, slots + self._dense('down')(hidden)

  def _dense(self, name: str) -> nn.Dense:
    return nn.Dense(self.width, name=name)

  def _norm(self, name: str, x: jax.Array, film: jax.Array | None) -> jax.Array:
    if film is None:
      return nn.LayerNorm(name=f'norm_{name}')(x)
    zeros = nn.initializers.zeros
    code = nn.Dense(2 * self.width, kernel_init=zeros, name=f'film_{name}')(film)
    scale, shift = jnp.split(code if x.ndim == 2 else code[:, None], 2, axis=-1)
    plain = nn.LayerNorm(use_bias=False, use_scale=False, name=f'norm_{name}')(x)
    return plain * (1 + scale) + shift


class Slots(nn.Module):
  """Blocks of `Exchange` between a layer that reads and a layer that writes.

  Attributes:
    width: W, inside.
    blocks: number of blocks, named `block1`, `block2`, ...
    shared: entries of the shared vector that come out.
    per_slot: entries of every slot that come out.
    zero: whether the first output is zero.
  """

  width: int
  blocks: int
  shared: int
  per_slot: int
  zero: bool = False

  @nn.compact
  def __call__(
    self, shared: jax.Array | None, slots: jax.Array, film: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Maps f32[B, G] (or None) and f32[B, S, C] to f32[B, shared] and f32[B, S, per_slot].

    Every slot is read relative to the mean of the slots, and that mean beside it.
    """
    middle = slots.mean(1, keepdims=True)
    own = nn.Dense(self.width, name='own')(slots - middle)
    common = nn.Dense(self.width, name='common')(middle)
    own = own + common
    own = own + self.param('places', layers.table_normal, (slots.shape[1], self.width))
    whole = common[:, 0] + nn.Dense(self.width, name='ordered')(slots.reshape(len(slots), -1))
    if shared is not None:
      whole = whole + nn.Dense(self.width, name='shared')(shared)
    for i in range(1, self.blocks + 1):
      whole, own = Exchange(self.width, name=f'block{i}')(whole, own, film)
    init = nn.initializers.zeros if self.zero else nn.linear.default_kernel_init
    write = lambda size, name, x: nn.Dense(size, kernel_init=init, name=name)(
      nn.LayerNorm(name=f'norm_{name}')(x)
    )
    return write(self.shared, 'write_shared', whole), write(self.per_slot, 'write', own)
