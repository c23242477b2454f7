"""Drawing from a trained denoiser, in few steps and with guidance.

All methods but Heun's are one rule with other coefficients. From time t to time s < t,

  x_s = keep x_t + pull D + spread z,    keep = sqrt(sigma_s^2 - spread^2) / sigma_t,
  pull = alpha_s - keep alpha_t,         D = x_0(t) + slope (x_0(t) - x_0 of the step before).

DDIM (Song et al., 2021, equation 12) has slope 0 and spread = eta times the deviation of the exact
q(x_s | x_t, x_0); eta = 1 is the ancestral sampler of Ho et al. (2020, algorithm 2, with their
smaller variance). DPM-Solver++(2M) (Lu et al., 2022, algorithm 2) has spread 0 and
slope = h / (2 h_before), h being the step in ln(alpha / sigma).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dapt_jax.diffusion import objective as objective_lib
from dapt_jax.diffusion import schedule as schedule_lib
from dapt_jax.types import ArrayTree, PRNGKey

#: `denoiser(x_t f32[B, ...], t f32[B], condition, drop bool[B]) -> prediction f32[B, ...]`.
Denoiser = Callable[[jax.Array, jax.Array, ArrayTree, jax.Array], jax.Array]
_Estimate = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

#: The methods `sample` knows.
METHODS = ('ddim', 'ddpm', 'dpm_solver', 'heun')


class _Moves(NamedTuple):
  """Coefficients of the rule for every move, [num_steps] each; NumPy's until they are scanned."""

  t: Any
  keep: Any
  pull: Any
  spread: Any
  slope: Any


def sample(
  denoiser: Denoiser,
  objective: objective_lib.Objective,
  condition: ArrayTree,
  shape: Sequence[int],
  key: PRNGKey,
  *,
  method: str = 'ddim',
  num_steps: int = 30,
  guidance: jax.Array | float | None = None,
  eta: float = 0.0,
) -> jax.Array:
  """Draws one example for every row of the condition. Pure, to be called inside `jax.jit`.

  Args:
    denoiser: the trained network with its parameters bound; what it says is what `objective` asks.
    objective: the one it was trained with.
    condition: pytree of arrays [B, ...] as the denoiser takes it. Encode it once, before this call;
      repeat rows to draw several examples under one condition.
    shape: of one example, `(L,)` or `(N, D)`.
    key: PRNG key.
    method: one of `METHODS`. 'ddim' is Euler's method along the straight path of 'flow'. 'heun'
      is of second order and calls the denoiser 2 num_steps - 1 times, the others num_steps times.
    num_steps: moves from noise to data.
    guidance: weight w f32[] or f32[B] of classifier-free guidance, unconditional + w (conditional -
      unconditional) (Ho and Salimans, 2022, whose w is ours less 1); 1 changes nothing. Each call
      of the denoiser then has 2B rows. None leaves guidance, and its cost, out.
    eta: noise of 'ddim', from 0 (deterministic) to 1 ('ddpm').

  Returns:
    f32[B, *shape].

  Raises:
    ValueError: for an unknown method, a number of steps or an `eta` out of range, `eta` with
      another method, condition arrays that do not share a leading axis, or a denoiser that changes
      the shape.
  """
  size = _check(method, condition, guidance, eta)
  guided = _guided(denoiser, condition, size, guidance)

  def estimate(x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    prediction = guided(x, t)
    if prediction.shape != x.shape:
      raise ValueError(
        f'the denoiser turned states of shape {x.shape} into {prediction.shape}: a prediction has '
        f'the shape of the state; shape={tuple(shape)} must be what it was trained on'
      )
    return objective.recover(x, t, prediction)

  of_start, of_moves = jax.random.split(key)
  start = jax.random.normal(of_start, (size, *shape))
  nodes = objective.process.nodes(num_steps)
  if method == 'heun':
    return _heun(estimate, nodes, start)
  amount = 1.0 if method == 'ddpm' else eta
  moves = _plan(nodes, amount, method == 'dpm_solver')
  return _multistep(estimate, moves, start, of_moves if amount else None)


def _plan(nodes: schedule_lib.Nodes, eta: float, second_order: bool) -> _Moves:
  """The coefficients, see the top of this file."""
  alpha_t, alpha_s, sigma_t, sigma_s = (part for a in nodes[1:] for part in (a[:-1], a[1:]))
  added = np.square(sigma_t) - np.square(alpha_t / alpha_s * sigma_s)  # variance from s to t
  spread = eta * sigma_s / sigma_t * np.sqrt(added)
  keep = np.sqrt(np.square(sigma_s) - np.square(spread)) / sigma_t
  slope = np.zeros_like(keep)
  if second_order and len(slope) > 2:
    # The first move has none before it; the last has no end in ln(alpha / sigma), nor has the
    # first of the straight path a beginning, and h of the second is nothing beside it.
    with np.errstate(divide='ignore'):
      h = np.diff(np.log(nodes.alpha[:-1] / nodes.sigma[:-1]))
    slope[1:-1] = h[1:] / (2.0 * h[:-1])
  return _Moves(nodes.t[:-1], keep, alpha_s - keep * alpha_t, spread, slope)


def _multistep(
  estimate: _Estimate, moves: _Moves, start: jax.Array, key: PRNGKey | None
) -> jax.Array:
  """Follows the rule; without a key nothing random is drawn."""

  def move(carry: tuple[jax.Array, jax.Array], now: tuple[_Moves, jax.Array]):
    (x, before), (at, number) = carry, now
    x0, _ = estimate(x, at.t)
    x = at.keep * x + at.pull * (x0 + at.slope * (x0 - before))
    if key is not None:
      x = x + at.spread * jax.random.normal(jax.random.fold_in(key, number), x.shape)
    return (x, x0), None

  scanned = _Moves(*(jnp.asarray(a, jnp.float32) for a in moves))
  numbers = jnp.arange(len(moves.t))
  (x, _), _ = lax.scan(move, (start, jnp.zeros_like(start)), (scanned, numbers))
  return x


def _heun(estimate: _Estimate, nodes: schedule_lib.Nodes, start: jax.Array) -> jax.Array:
  """Heun's second-order method on the straightened path.

  u = x / (alpha + sigma) moves along du/dr = epsilon - x_0 with r = sigma / (alpha + sigma): the
  straight path, whatever the process. The last move, to r = 0, goes straight to the data.
  """
  scale = nodes.alpha + nodes.sigma
  place = nodes.sigma / scale

  def velocity(x: jax.Array, t: jax.Array) -> jax.Array:
    x0, epsilon = estimate(x, t)
    return epsilon - x0

  def move(x: jax.Array, ends: tuple[jax.Array, ...]):
    times, scales, places = ends
    along = lambda v: scales[1] * (x / scales[0] + (places[1] - places[0]) * v)
    first = velocity(x, times[0])
    return along(0.5 * (first + velocity(along(first), times[1]))), None

  ends = (np.stack([a[:-2], a[1:-1]], axis=1) for a in (nodes.t, scale, place))
  x, _ = lax.scan(move, start, tuple(jnp.asarray(pair, jnp.float32) for pair in ends))
  return estimate(x, jnp.asarray(nodes.t[-2], jnp.float32))[0]


def _guided(
  denoiser: Denoiser, condition: ArrayTree, size: int, guidance: jax.Array | float | None
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """`(x, t f32[]) -> prediction`, guided where a weight is given."""
  if guidance is None:
    keep = jnp.zeros(size, bool)
    return lambda x, t: denoiser(x, jnp.full(size, t), condition, keep)
  weight = jnp.asarray(guidance, jnp.float32)
  # One call with twice the rows: one copy of the network to compile.
  twice = jax.tree.map(lambda c: jnp.concatenate([c, c]), condition)
  drop = jnp.arange(2 * size) >= size

  def guided(x: jax.Array, t: jax.Array) -> jax.Array:
    both = denoiser(jnp.concatenate([x, x]), jnp.full(2 * size, t), twice, drop)
    with_it, without = jnp.split(both, 2)
    return without + weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim)) * (
      with_it - without
    )

  return guided


def _check(
  method: str,
  condition: ArrayTree,
  guidance: jax.Array | float | None,
  eta: float,
) -> int:
  """Checks the arguments; the number of rows B."""
  if method not in METHODS:
    raise ValueError(
      f"unknown method {method!r}: choose one of {', '.join(METHODS)} (Euler's method is 'ddim')"
    )
  if eta and method != 'ddim':
    raise ValueError(f"eta={eta} belongs to method 'ddim': leave it out for {method!r}")
  if not 0 <= eta <= 1:
    raise ValueError(f'eta={eta} must be from 0 (no noise) to 1 (ancestral)')
  shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(condition)]
  sizes = {shape[:1] for shape in shapes}
  if len(sizes) != 1 or () in sizes:
    raise ValueError(
      f'the arrays of the condition have shapes {shapes[:8]}: give at least one, and all with the '
      'same leading axis, a row for every example to draw'
    )
  size = shapes[0][0]
  if guidance is not None and jnp.shape(guidance) not in ((), (size,)):
    raise ValueError(
      f'guidance has shape {jnp.shape(guidance)}: give one weight, or one for each of the {size} '
      'rows of the condition'
    )
  return size
