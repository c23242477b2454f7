"""A variational autoencoder of network weights, with an optional term in function space.

The weights of a network are a vector, standardised entry by entry over the zoo. The loss is

    mean (x - x^)^2  +  kl * KL(q(z|x) || N(0, I)) / D  +  probe * mean (f(x; p) - f(x^; p))^2,

where f(x; p) are the logits of the network with weights x on probe images p of its own data set,
divided by their standard deviation: what a network computes matters, not its weights (the term is
ours; so are the noise on the input and the squared error alone). `make` reads the whole vector
through dense layers and class slots, `token_autoencoder.make` token by token; the loss is one.
Source: the two-stage design of D2NWG (Soro et al., 2025); sizes for small networks are ours.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.models import slots
from dapt_jax.training import learner
from dapt_jax.types import Params, PRNGKey
from dapt_jax.weights import partition

#: Logits of standardised weights f32[D] on probe images f32[p, H, W, C], see `batches.ask`.
Outputs = Callable[[jax.Array, Any], jax.Array]
Pair = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Settings:
  """What an autoencoder is made of.

  Attributes:
    latent: entries of a latent that describe what all classes share; of slots.
    per_class: entries that describe the weights of one class; of slots.
    width: inside, of shared vector and slots (`models.slots`) or tokens (`models.segments`).
    blocks: of the encoder, and of the decoder.
    per_token: entries for every token; of tokens.
    noise: standard deviation of the noise on the standardised input.
    latent_noise: of the noise on the latent, on top of the posterior's.
    kl: weight of the divergence.
    probe: weight of the term in function space; 0 leaves it out.
    learning_rate: peak of a cosine schedule over `steps`.
    steps: updates.
  """

  latent: int = 112
  per_class: int = 16
  width: int = 256
  blocks: int = 2
  per_token: int = 16
  noise: float = 0.02
  latent_noise: float = 0.0
  kl: float = 1e-4
  probe: float = 0.0
  learning_rate: float = 1e-3
  steps: int = 4000


class Autoencoder(NamedTuple):
  """An autoencoder as pure functions.

  Attributes:
    size: L, entries of a latent: first what is shared, then class after class.
    shared: how many are shared.
    init: `init(key) -> State`.
    update: `update(state, batch, axis_name=None) -> (state, metrics)`; a batch is
      `(x f32[B, D], probes f32[B, p, H, W, C] or None)`.
    encode: `encode(params, x f32[B, D]) -> (mean, log variance)`, f32[B, L] each.
    decode: `decode(params, z f32[B, L]) -> f32[B, D]`.
    owners: f32[N, S], one-hot: a latent is N tokens of equal length, and this is the class that a
      token belongs to, zeros for none. None: its parts are no tokens.
  """

  size: int
  shared: int
  init: Callable[[PRNGKey], learner.State]
  update: Callable[..., tuple[learner.State, dict[str, jax.Array]]]
  encode: Callable[[Params, jax.Array], tuple[jax.Array, jax.Array]]
  decode: Callable[[Params, jax.Array], jax.Array]
  owners: np.ndarray | None = None


def make(
  settings: Settings, parts: partition.Partition, outputs: Outputs | None = None
) -> Autoencoder:
  """Makes an autoencoder.

  Args:
    settings: see `Settings`.
    parts: which of the D standardised weights belong to a class.
    outputs: logits of a network from standardised weights; needed where `probe` is not 0.

  Raises:
    ValueError: if `probe` is set without `outputs`.
  """
  classes, per_class = parts.slots.shape
  network = functools.partial(slots.Slots, settings.width, settings.blocks)
  encoder = network(2 * settings.latent, 2 * settings.per_class)
  decoder = network(parts.shared.size, per_class)
  inner = partition.consecutive(settings.latent, classes, settings.per_class)

  def init(first: PRNGKey, second: PRNGKey) -> Params:
    return {
      'encoder': encoder.init(first, *parts.split(jnp.zeros((1, parts.size)))),
      'decoder': decoder.init(second, *inner.split(jnp.zeros((1, inner.size)))),
    }

  def encode(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    found = cast(Pair, encoder.apply(params['encoder'], *parts.split(x)))
    halves = [jnp.split(part, 2, axis=-1) for part in found]
    mean, log_variance = (inner.join(a, b) for a, b in zip(*halves))
    return mean, log_variance

  def decode(params: Params, z: jax.Array) -> jax.Array:
    return parts.join(*cast(Pair, decoder.apply(params['decoder'], *inner.split(z))))

  return assemble(settings, Networks(inner.size, settings.latent, init, encode, decode), outputs)


class Networks(NamedTuple):
  """Encoder and decoder, of whatever kind; entries as of `Autoencoder`, but for `init`.

  Attributes:
    size: L.
    shared: how many entries are shared.
    init: `init(key, key) -> params`, of encoder and decoder.
    encode: as there; log variances of any size.
    decode: as there.
    owners: as there.
  """

  size: int
  shared: int
  init: Callable[[PRNGKey, PRNGKey], Params]
  encode: Callable[[Params, jax.Array], tuple[jax.Array, jax.Array]]
  decode: Callable[[Params, jax.Array], jax.Array]
  owners: np.ndarray | None = None


def assemble(settings: Settings, networks: Networks, outputs: Outputs | None = None) -> Autoencoder:
  """The autoencoder that encoder and decoder make with the loss of this module.

  Args:
    settings: see `Settings`; what describes networks is not read.
    networks: encoder and decoder.
    outputs: logits of a network from standardised weights; needed where `probe` is not 0.

  Raises:
    ValueError: if `probe` is set without `outputs`.
  """
  if settings.probe and outputs is None:
    raise ValueError(f'probe is {settings.probe}, but no outputs are given; set probe to 0')
  optimizer = learner.adam(settings.learning_rate, settings.steps)

  def init(key: PRNGKey) -> learner.State:
    first, second, noise = jax.random.split(key, 3)
    return learner.begin(networks.init(first, second), optimizer, noise)

  def encode(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, log_variance = networks.encode(params, x)
    return mean, jnp.clip(log_variance, -20.0, 4.0)

  def loss(
    params: Params, batch: tuple, key: PRNGKey, axis_name: str | None
  ) -> tuple[jax.Array, learner.Metrics]:
    del axis_name  # every example has a loss of its own
    x, probes = batch
    keys = jax.random.split(key, 3)
    mean, log_variance = encode(params, x + settings.noise * jax.random.normal(keys[0], x.shape))
    spread = jnp.exp(0.5 * log_variance) * jax.random.normal(keys[1], mean.shape)
    wobble = settings.latent_noise * jax.random.normal(keys[2], mean.shape)
    found = networks.decode(params, mean + spread + wobble)
    error = jnp.square(found - x).mean()
    divergence = 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance).sum(-1)
    total = error + settings.kl * divergence.mean() / x.shape[1]
    metrics = {'error': error, 'kl': divergence.mean()}
    if outputs is not None and settings.probe:
      wanted = jax.vmap(outputs)(x, probes)
      apart = jnp.square(jax.vmap(outputs)(found, probes) - wanted).mean((1, 2))
      metrics['probe'] = (apart / wanted.var((1, 2))).mean()
      total += settings.probe * metrics['probe']
    return total, {'loss': total, **metrics}

  return Autoencoder(
    networks.size,
    networks.shared,
    init,
    learner.make_update(loss, optimizer),
    encode,
    networks.decode,
    networks.owners,
  )
