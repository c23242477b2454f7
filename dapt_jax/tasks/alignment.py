"""An optional stage before a generator: conditions are drawn towards the latents of their networks.

Both losses compare every condition of a batch with every latent. `info_nce` is that of CLIP
(Radford et al., 2021): unit vectors, a learned temperature, each row has one right partner.
`soft_target` follows the public code of D2NWG (Soro et al., 2025): plain inner products, fixed
temperature, and partners are right as far as they resemble each other. Latents are data here: the
autoencoder stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from dapt_jax.tasks import set_encoder
from dapt_jax.training import learner
from dapt_jax.types import Params, PRNGKey

LOSSES = ('info_nce', 'soft_target')
#: Below this a batch of unit vectors is told apart by rounding (Radford et al., 2021).
_LEAST_TEMPERATURE = 0.01


def info_nce(
  conditions: jax.Array, latents: jax.Array, temperature: jax.Array | float
) -> jax.Array:
  """Symmetric cross-entropy with one right partner (van den Oord et al., 2018; Radford et al.).

  Args:
    conditions: f32[B, E], unit vectors; row n belongs to row n of the latents.
    latents: f32[B, E], unit vectors.
    temperature: f32[], divides the inner products.

  Returns:
    f32[]; log B where nothing is told apart.
  """
  return _symmetric(latents @ conditions.T / temperature, jnp.eye(len(latents)))


def soft_target(
  conditions: jax.Array, latents: jax.Array, temperature: jax.Array | float = 1.0
) -> jax.Array:
  """Symmetric cross-entropy to the mean resemblance within conditions and within latents.

  Targets are softmax((D D' + W W') / 2 * temperature). Ours: no gradient flows into them, and both
  directions have targets that sum to one.

  Args:
    conditions: f32[B, E], D above; not normalised.
    latents: f32[B, E], W above.
    temperature: f32[], divides the inner products between the two.

  Returns:
    f32[].
  """
  alike = (conditions @ conditions.T + latents @ latents.T) / 2 * temperature
  targets = lax.stop_gradient(jax.nn.softmax(alike, axis=-1))
  return _symmetric(latents @ conditions.T / temperature, targets)


def retrieval(conditions: jax.Array, latents: jax.Array) -> jax.Array:
  """Share of the conditions that point most nearly in the direction of their own latent (top-1).

  By the cosine and not the inner product, where a long latent would be found for many.

  Args:
    conditions: f32[B, E]; row n belongs to row n of the latents.
    latents: f32[B, E].

  Returns:
    f32[].
  """
  found = jnp.argmax(_unit(conditions) @ _unit(latents).T, axis=-1)
  return jnp.mean(found == jnp.arange(len(latents)))


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the stage is made of.

  Attributes:
    latent: L, entries of a latent.
    loss: one of `LOSSES`.
    width: E of 'info_nce', which projects both sides; 'soft_target' projects conditions to L.
    temperature: where 'info_nce' starts, and what 'soft_target' keeps.
    learning_rate: peak of a cosine schedule over `steps`.
    steps: updates.
  """

  latent: int
  loss: str = 'info_nce'
  width: int = 64
  temperature: float = 0.1
  learning_rate: float = 1e-3
  steps: int = 2000

  def __post_init__(self) -> None:
    if self.loss not in LOSSES:
      raise ValueError(f'loss {self.loss!r}: choose one of {list(LOSSES)}')
    if self.temperature <= 0:
      raise ValueError(f'temperature is {self.temperature}; it must be positive')


class Alignment(NamedTuple):
  """The stage as pure functions.

  Attributes:
    init: `init(key, features) -> learner.State`, features being those of a batch.
    update: `update(state, (features f32[B, classes, k, F], mask or None, latents f32[B, L]),
      axis_name=None) -> (state, metrics)`; no task twice in a batch (`resample.support`). Devices
      compare their rows with those of all.
    embed: `embed(params, features, mask, latents) -> (conditions, latents)`, f32[B, E] each, for
      `retrieval`.
  """

  init: Callable[[PRNGKey, jax.Array], learner.State]
  update: Callable[..., tuple[learner.State, dict[str, jax.Array]]]
  embed: Callable[..., tuple[jax.Array, jax.Array]]


def make(
  settings: Settings,
  encoder: tuple[Callable[[PRNGKey], Params], Callable[..., set_encoder.Condition]],
) -> Alignment:
  """Makes the stage.

  Args:
    settings: see `Settings`.
    encoder: (init, encode) of `set_encoder.functions`.
  """
  init_encoder, encode = encoder
  unit = settings.loss == 'info_nce'
  head = nn.Dense(settings.width if unit else settings.latent)
  optimizer = learner.adam(settings.learning_rate, settings.steps)

  def init(key: PRNGKey, features: jax.Array) -> learner.State:
    of_encoder, of_conditions, of_latents, of_run = jax.random.split(key, 4)
    params = {'encoder': init_encoder(of_encoder)}
    shape = jax.eval_shape(encode, params['encoder'], features[:1]).vector.shape
    params['conditions'] = head.init(of_conditions, jnp.zeros(shape))
    if unit:
      params['latents'] = head.init(of_latents, jnp.zeros((1, settings.latent)))
      params['log_temperature'] = jnp.log(jnp.float32(settings.temperature))
    return learner.begin(params, optimizer, of_run)

  def embed(
    params: Params, features: jax.Array, mask: jax.Array | None, latents: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    vector = encode(params['encoder'], features, mask).vector
    conditions = jnp.asarray(head.apply(params['conditions'], vector))
    if not unit:
      return conditions, latents
    projected = jnp.asarray(head.apply(params['latents'], latents))
    return _unit(conditions), _unit(projected)

  def loss(
    params: Params, batch: tuple, key: PRNGKey, axis_name: str | None
  ) -> tuple[jax.Array, learner.Metrics]:
    del key  # nothing is drawn
    pair = embed(params, *batch)
    if axis_name is not None:
      # Every device has the loss of all rows; the gather's derivative adds what each says of a row.
      pair = lax.all_gather(pair, axis_name, tiled=True)
    if unit:
      temperature = jnp.maximum(jnp.exp(params['log_temperature']), _LEAST_TEMPERATURE)
      total = info_nce(*pair, temperature)
    else:
      total = soft_target(*pair, settings.temperature)
    return total, {'loss': total, 'retrieval': retrieval(*pair)}

  return Alignment(init, learner.make_update(loss, optimizer), embed)


def _unit(x: jax.Array) -> jax.Array:
  """Rows of length 1; a row of zeros stays, and has a finite gradient."""
  return x * lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def _symmetric(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Mean cross-entropy of the rows and of the columns, f32[]."""
  both = jnp.stack([logits, logits.T])
  return optax.softmax_cross_entropy(both, targets).mean()
