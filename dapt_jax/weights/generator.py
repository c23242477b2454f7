"""A generator of weights: from images of a task and noise to latents, from those to networks.

Source: D2NWG (Soro et al., 2025) draws latents of an autoencoder of weights by diffusion given a
data set. Ours are: entries standardised one by one, guidance, class slots, and the task term: at
every step of the training the data that the denoiser predicts are decoded to a network, which is
asked to classify images of its task. The term trains decoder and denoiser together, after the
autoencoder; without it (`task=0`) the decoder stays as it was. It needs no trained network, so it
is asked for on other tasks, too (`fresh`): a zoo has thousands of tasks, its part of the split
hundreds of thousands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dapt_jax import diffusion
from dapt_jax.diffusion import denoisers, dit, objective, schedule
from dapt_jax.models import attention
from dapt_jax.tasks import conditioning
from dapt_jax.training import learner
from dapt_jax.types import Params, PRNGKey
from dapt_jax.weights import autoencoder, task_term

Outputs = autoencoder.Outputs
#: What reads weights or latents: the whole vector with class slots, or tokens of it.
NETWORKS = ('slots', 'tokens')


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the diffusion of latents is made of.

  Attributes:
    objective: what is predicted, one of `diffusion.objective.NAMES`.
    schedule: of the noise; 'flow' has none.
    network: the denoiser: 'slots' (`diffusion.denoisers.SlotMLP`), or 'tokens'
      (`diffusion.dit.DiT`) for latents that are tokens.
    width: of the denoiser.
    blocks: of the denoiser.
    task: weight of the task term.
    fresh: weight of the same loss on tasks of the zoo's part that no network was trained on: of the
      network drawn from pure noise, and of that latent noised anew and drawn again.
    drop_rate: share of the examples without condition, for guidance.
    ema_decay: of the parameters that are sampled with.
    learning_rate: peak of a cosine schedule over `steps`.
    steps: updates.
  """

  objective: str = 'v'
  schedule: str = 'linear_sqrt'
  network: str = 'slots'
  width: int = 256
  blocks: int = 3
  task: float = 3.0
  fresh: float = 3.0
  drop_rate: float = 0.1
  ema_decay: float = 0.999
  learning_rate: float = 1e-3
  steps: int = 6000


class Latents(NamedTuple):
  """Latents of a zoo, and what brings them to mean 0 and standard deviation 1.

  Attributes:
    values: f32[N, L], standardised posterior means.
    mean: f32[L].
    std: f32[L].
  """

  values: jax.Array
  mean: jax.Array
  std: jax.Array


def encode(
  coder: autoencoder.Autoencoder, params: Params, weights: jax.Array, least: float = 1e-3
) -> Latents:
  """Latents of standardised weights f32[N, D]; deviations below `least` count as that."""
  means = jax.jit(coder.encode)(params, weights)[0]
  mean, std = means.mean(0), jnp.maximum(means.std(0), least)
  return Latents((means - mean) / std, mean, std)


class Generator(NamedTuple):
  """A generator as pure functions of its parameters, {'denoiser': ..., 'decoder': ...}.

  With an encoder of tasks its parameters are among them, as 'encoder', and conditions are what it
  takes; without one they are rows f32[B, S, C].

  Attributes:
    training: the (init, update) pair; a batch is `(latents f32[B, L], {'condition': f32[B, S, ...],
      'images': f32[B, p, H, W, C], 'labels': i32[B, p]})`, images only with the task term; with
      `fresh` also 'fresh': the same three of other tasks, and 'key' [B] for their noise.
    sample: `sample(params, condition f32[B, S, ...], key, guidance, *, method, num_steps)`, one
      draw f32[D] of standardised weights for every condition, which is encoded once.
  """

  training: diffusion.Training
  sample: Callable[..., jax.Array]


def make(
  settings: Settings,
  coder: autoencoder.Autoencoder,
  coder_params: Params,
  latents: Latents,
  condition_shape: tuple[int, ...],
  outputs: Outputs | None = None,
  encoder: conditioning.Encoder | None = None,
) -> Generator:
  """Makes a generator.

  Args:
    settings: see `Settings`.
    coder: the autoencoder.
    coder_params: its trained parameters.
    latents: from `encode`.
    condition_shape: (S, C), of the condition of a task: a row for every class; with an encoder of
      what it takes, (S, k, C), other k may follow.
    outputs: logits of a network from standardised weights; needed with the task term.
    encoder: of tasks, trained along; None: conditions are rows.

  Raises:
    ValueError: if `task` or `fresh` is set without `outputs`, or `fresh` with an objective that
      says nothing of the data in pure noise; for a network of tokens where latents are none; from
      `sample` for conditions of another length.
  """
  _check(settings, outputs)
  noise = None if settings.objective == 'flow' else schedule.create(settings.schedule, 1000)
  target = objective.create(settings.objective, noise)
  size = coder.size
  told = jnp.zeros((1, *condition_shape))
  init_net, predict = _denoiser(settings, coder, conditioning.rows_like(encoder, told))
  optimizer = learner.adam(settings.learning_rate, settings.steps)

  def decode(params: Params, z: jax.Array) -> jax.Array:
    return coder.decode(params['decoder'], z * latents.std + latents.mean)

  def init(key: PRNGKey) -> Params:
    params = {'denoiser': init_net(key), 'decoder': jax.tree.map(jnp.asarray, coder_params)}
    if encoder is not None:
      params['encoder'] = encoder.init(jax.random.fold_in(key, 1), told)
    return params

  def rows(params: Params, condition: jax.Array) -> jax.Array:
    return condition if encoder is None else encoder.encode(params['encoder'], condition).tokens

  def denoise(params, x_t, t, condition, drop):
    return predict(params['denoiser'], x_t, t, rows(params, condition['condition']), drop)

  weights = settings.task, settings.fresh
  term = task_term.TaskTerm(*weights, target, predict, decode, rows, outputs, size)
  training = diffusion.make_training(
    init,
    denoise,
    target,
    optimizer,
    ema_decay=settings.ema_decay,
    drop_rate=settings.drop_rate,
    penalty=term if any(weights) else None,
  )

  def draw(params: Params, condition: jax.Array, key: PRNGKey, **options: Any) -> jax.Array:
    given = rows(params, condition)
    bound = lambda x, t, c, drop: predict(params['denoiser'], x, t, c, drop)
    return decode(params, diffusion.sample(bound, target, given, (size,), key, **options))

  return Generator(training, _sampler(draw, condition_shape))


def _check(settings: Settings, outputs: Outputs | None) -> None:
  """Raises ValueError for terms on images that cannot be computed."""
  if (settings.task or settings.fresh) and outputs is None:
    raise ValueError(
      f'task is {settings.task} and fresh {settings.fresh}, but no outputs are given; set both to 0'
    )
  if settings.fresh and settings.objective == 'epsilon':
    raise ValueError(
      "fresh draws networks from pure noise, whose data 'epsilon' cannot tell; take 'v', or set "
      'fresh to 0'
    )


def _sampler(
  draw: Callable[..., jax.Array], condition_shape: tuple[int, ...]
) -> Callable[..., jax.Array]:
  """`Generator.sample`, of conditions of this shape only."""

  def sample(
    params: Params,
    condition: jax.Array,
    key: PRNGKey,
    guidance: jax.Array | float | None = None,
    *,
    method: str = 'dpm_solver',
    num_steps: int = 20,
  ) -> jax.Array:
    conditioning.check(condition, condition_shape)
    return draw(params, condition, key, method=method, num_steps=num_steps, guidance=guidance)

  return sample


def _denoiser(
  settings: Settings, coder: autoencoder.Autoencoder, given: jax.Array
) -> tuple[Callable[[PRNGKey], Params], diffusion.train.PredictFn]:
  """Functions `init(key)` and `predict(params, x_t f32[B, L], t, condition as given, drop)`."""
  if settings.network not in NETWORKS:
    raise ValueError(f'network is {settings.network!r}; choose one of {NETWORKS}')
  some = jnp.zeros((1, coder.size))
  if settings.network == 'slots':
    net = denoisers.SlotMLP(coder.shared, settings.width, settings.blocks)
    return denoisers.functions(net, some, given)
  if coder.owners is None:
    raise ValueError(
      "network is 'tokens', but the latents of this autoencoder are none; take 'slots', or "
      'token_autoencoder.make'
    )
  cut = lambda x: x.reshape(len(x), len(coder.owners), -1)
  heads = attention.heads(settings.width)
  transformer = dit.DiT(settings.width, settings.blocks, heads, 2 * settings.width)
  init, predict = denoisers.functions(
    transformer, cut(some), dit.labelled(given), owners=jnp.asarray(coder.owners)
  )

  def predict_flat(params, x_t, t, condition, drop):
    return predict(params, cut(x_t), t, dit.labelled(condition), drop).reshape(x_t.shape)

  return init, predict_flat
