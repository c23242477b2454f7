"""Mirror descent on the gates, and step sizes that guarantee descent.

The two-temperature gradient step is the Euler discretisation of a mirror flow on the cube. The
mirror variable `y(theta) = 2 soft theta + 2 soft^2 sinh(theta / soft)` has the derivative
`1 / s_soft'(theta)`, so following `dPhi/da` in y is the same flow and has a global rate for convex
objectives (theorem T4). The Euler variant itself needs no code of ours: it is `optax.sgd` on the
gradient through `relaxation.two_temperature`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax

from dapt_jax.gates import base
from dapt_jax.gates.base import Temperature
from dapt_jax.types import ArrayTree, PRNGKey

# Newton from above on a convex increasing function: 6 steps reach float64 rounding for any y.
_NEWTON_STEPS = 6


class MirrorState(NamedTuple):
  """State of `mirror_descent`.

  Attributes:
    step: i32[], number of updates so far.
    dual: The mirror variable y, with the structure of the logits. It is kept apart from them
      because y grows like exp(|theta|): recomputed from a rounded theta it would lose small steps.
  """

  step: jax.Array
  dual: ArrayTree


def _largest(soft: jax.Array) -> jax.Array:
  """Largest |y / (2 soft^2)| for which nothing in this file overflows."""
  return jnp.finfo(soft.dtype).max / (16 * jnp.maximum(1, 2 * soft * soft))


def _scaled(theta: jax.Array, soft: jax.Array) -> jax.Array:
  """The ratio theta / soft, saturated where sinh would overflow (about 86 in float32)."""
  limit = jnp.arcsinh(_largest(soft))
  return jnp.clip(theta / soft, -limit, limit)


@jax.jit
def _inverse(y: jax.Array, soft: jax.Array) -> jax.Array:
  """Solves u + sinh(u) = y / (2 soft^2) and returns soft * u."""
  limit = _largest(soft)
  v = jnp.clip(y / (2 * soft * soft), -limit, limit)
  newton = lambda _, u: u - (u + jnp.sinh(u) - v) / (1 + jnp.cosh(u))
  return soft * jax.lax.fori_loop(0, _NEWTON_STEPS, newton, jnp.arcsinh(v))


def mirror_map(theta: ArrayTree, soft: Temperature = 1.0) -> ArrayTree:
  """The mirror variable `y = 2 soft theta + 2 soft^2 sinh(theta / soft)`.

  Odd, increasing, with derivative `1 / s_soft'(theta)`. Saturates at the largest finite values
  instead of overflowing.

  Args:
    theta: Array or pytree of logits.
    soft: Positive scalar.

  Returns:
    y with the structure, shapes and dtypes of `theta`, always finite for finite input.

  Raises:
    TypeError: If logits are not floating point.
    ValueError: If a known temperature is not positive and finite.
  """
  base.check_soft(soft)

  def leaf(t: jax.Array) -> jax.Array:
    ts = jnp.asarray(soft, t.dtype)
    u = _scaled(t, ts)
    return 2 * ts * ts * (u + jnp.sinh(u))

  return base.map_gates(leaf, theta)


def mirror_inverse(dual: ArrayTree, soft: Temperature = 1.0) -> ArrayTree:
  """The logits `theta` with `mirror_map(theta, soft) = dual`, by Newton's method.

  Starts at `soft * asinh(y / (2 soft^2))`, which lies beyond the solution, and converges to it
  from there without overshooting; a fixed number of steps, so it is safe under `jit` and `vmap`.

  Args:
    dual: Array or pytree y.
    soft: Positive scalar.

  Returns:
    theta with the structure, shapes and dtypes of `dual`, accurate to rounding, finite for every y
    (|theta| / soft saturates at about 86 in float32 and 707 in float64).

  Raises:
    TypeError: If y is not floating point.
    ValueError: If a known temperature is not positive and finite.
  """
  base.check_soft(soft)

  return base.map_gates(lambda y: _inverse(y, jnp.asarray(soft, y.dtype)), dual)


def mirror_descent(
  learning_rate: float | jax.Array | optax.Schedule, soft: Temperature = 1.0
) -> optax.GradientTransformation:
  """Exact mirror step `y <- y - eta dPhi/da`, `theta = inverse(y)`, as an optax transformation.

  **It takes the gradient with respect to theta through `relaxation.two_temperature`** (or the
  'raw' noisy gates) at the same `soft`, that is `s_soft'(theta) * dPhi/da`: exactly what
  `optax.sgd` takes for the Euler variant, so that the two can be exchanged. The factor
  `s_soft'(theta)` is divided out inside. The updates it returns are `new_theta - theta`, for
  `optax.apply_updates`; it has to come last in an `optax.chain`.

  For convex objectives, theta = 0 at the start, ratio r = hard / soft < 1 and
  eta <= 16 hard soft / L, after T steps the objective is within
  `2 d hard soft (ln 2 + 1 / (1 - r^2)) / (eta T)` of its minimum over the cube.

  Args:
    learning_rate: eta > 0, a number or an optax schedule.
    soft: Positive scalar, the one given to the relaxation. The hard temperature plays no part and
      may be annealed; this one must stay fixed, since y has its meaning only with it.

  Returns:
    A `GradientTransformation` whose state is a `MirrorState` and whose update needs `params`.

  Raises:
    ValueError: If a known temperature or a constant learning rate is not positive and finite, or
      if `update` is called without `params`.

  References:
    Equation (4) and theorem T4 of `docs/gates.md` (reconstruction).
  """
  base.check_soft(soft)
  if not callable(learning_rate):
    _check_positive('learning_rate', learning_rate)

  def init(params: ArrayTree) -> MirrorState:
    return MirrorState(jnp.zeros([], jnp.int32), mirror_map(params, soft))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError(
        'mirror_descent.update got params=None; it returns new_theta - theta and divides the slope '
        'of the gates out: call update(gradient, state, theta).'
      )
    rate = learning_rate(state.step) if callable(learning_rate) else learning_rate

    def leaf(t: jax.Array, gradient: jax.Array, y: jax.Array) -> jax.Array:
      ts = jnp.asarray(soft, t.dtype)
      inverse_slope = 2 * ts * (1 + jnp.cosh(_scaled(t, ts)))
      limit = 2 * ts * ts * _largest(ts)
      moved = y - jnp.asarray(rate, t.dtype) * gradient * inverse_slope
      return jnp.clip(moved, -limit, limit)

    dual = base.map_gates(leaf, params, updates, state.dual)
    steps = jax.tree.map(lambda new, old: new - old, mirror_inverse(dual, soft), params)
    return steps, MirrorState(optax.safe_increment(state.step), dual)

  return optax.GradientTransformation(init, update)


def max_stable_learning_rate(
  hard: Temperature, soft: Temperature, lipschitz: float | jax.Array
) -> jax.Array:
  """Largest step with guaranteed descent, `16 hard soft / L` (theorems T2 and T4).

  Sharp up to a factor of 2: at twice this step an objective can increase.

  Args:
    hard: Scalar temperature of the value.
    soft: Scalar temperature of the derivative.
    lipschitz: L > 0, Lipschitz constant of the gradient with respect to the *gates* on the cube.

  Returns:
    f[] learning rate for plain gradient descent or `mirror_descent`.

  Raises:
    ValueError: If known values break `0 < hard <= soft` or `0 < lipschitz < inf`.
  """
  base.check_temperatures(hard, soft)
  _check_positive('lipschitz', lipschitz)
  return 16 * jnp.asarray(hard) * jnp.asarray(soft) / jnp.asarray(lipschitz)


def lipschitz_by_power_iteration(
  phi: Callable[[ArrayTree], jax.Array], gates: ArrayTree, key: PRNGKey, iterations: int = 30
) -> jax.Array:
  """Spectral norm of the Hessian of `phi` at `gates`, from Hessian-vector products only.

  Equal to the Lipschitz constant of the gradient where `phi` is quadratic; elsewhere a local
  estimate. It converges from below, so leave a margin when a step size depends on it.

  Args:
    phi: Twice differentiable function of the gates, returns a scalar.
    gates: Where to measure, as a rule 1/2 everywhere.
    key: Random key of the starting direction.
    iterations: Number of products, at least 1.

  Returns:
    f[] estimate, 0 for a linear objective.

  Raises:
    ValueError: If `iterations` is not positive.
  """
  if iterations < 1:
    raise ValueError(f'iterations is {iterations}; it must be at least 1: 30 is enough as a rule.')
  flat, unravel = jax.flatten_util.ravel_pytree(gates)
  gradient = jax.grad(lambda x: phi(unravel(x)))

  def step(_, carry):
    direction, _ = carry
    image = jax.jvp(gradient, (flat,), (direction,))[1]
    norm = jnp.linalg.norm(image)
    return image / jnp.where(norm > 0, norm, 1), norm

  start = jax.random.normal(key, flat.shape, flat.dtype)
  first = (start / jnp.linalg.norm(start), jnp.zeros([], flat.dtype))
  return jax.lax.fori_loop(0, iterations, step, first)[1]


def _check_positive(name: str, value: float | jax.Array) -> None:
  if isinstance(value, jax.core.Tracer):
    return
  number = float(jax.device_get(value))
  if not 0 < number < float('inf'):
    raise ValueError(
      f'{name} is {number}; it must be positive and finite: '
      'see max_stable_learning_rate and lipschitz_by_power_iteration for values to start from.'
    )
