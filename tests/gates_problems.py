"""Random objectives on the cube, and the gate dynamics of the tests, in float64 and vectorised."""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dapt_jax import gates


@contextlib.contextmanager
def float64():
  """64-bit arithmetic under old and new versions of JAX."""
  if hasattr(jax, 'enable_x64'):
    with jax.enable_x64(True):
      yield
  else:
    with jax.experimental.enable_x64():
      yield


def phi(a, problem):
  """The quadratic a'Qa/2 + h'a; `problem` is (Q, h)."""
  Q, h = problem
  return 0.5 * a @ Q @ a + h @ a


def quadratics(rng, kind, count, d):
  """`count` random quadratics: 'convex', 'indefinite' or 'multilinear' (zero diagonal)."""
  A = rng.normal(size=(count, d, d))
  if kind == 'convex':
    Q = A @ A.transpose(0, 2, 1) / d
  else:
    Q = (A + A.transpose(0, 2, 1)) / np.sqrt(2 * d)
  if kind == 'multilinear':
    Q = Q * (1 - np.eye(d))
  return Q, rng.normal(size=(count, d))


def least_squares(rng, count, d, penalty=0.0):
  """|| X(a * w) - y ||^2 / 2n + penalty mean(a): pruning features, as convex quadratics."""
  n = 2 * d
  X = rng.normal(size=(count, n, d))
  w = rng.normal(size=(count, 1, d))
  XW = X * w
  # Half of the features made y, so neither all nor none is best.
  y = (XW * (rng.random((count, 1, d)) < 0.5)).sum(-1) + rng.normal(size=(count, n))
  Q = XW.transpose(0, 2, 1) @ XW / n
  return Q, -np.einsum('bnd,bn->bd', XW, y) / n + penalty / d


def with_known_minimum(rng, count, d, vertex=False, strict=0.05):
  """Convex quadratics with minimum over the cube at a known point, by the KKT conditions.

  Returns:
    The problems, the minimisers and the minima.
  """
  Q, _ = quadratics(rng, 'convex', count, d)
  kind = rng.integers(0, 2 if vertex else 3, size=(count, d))
  best = np.where(kind == 2, rng.uniform(0.05, 0.95, (count, d)), kind)
  multiplier = rng.uniform(strict, 1, (count, d))
  gradient = np.where(kind == 2, 0, np.where(kind == 1, -multiplier, multiplier))
  h = gradient - np.einsum('bij,bj->bi', Q, best)
  value = 0.5 * np.einsum('bi,bij,bj->b', best, Q, best) + (h * best).sum(1)
  return (Q, h), best, value


def lipschitz(Q):
  return np.abs(np.linalg.eigvalsh(Q)).max(-1)


def gradient_bound(Q, h):
  """The largest |d_i Phi| over the cube, exact for quadratics."""
  high = h + np.clip(Q, 0, None).sum(-1)
  low = h + np.clip(Q, None, 0).sum(-1)
  return np.maximum(np.abs(high), np.abs(low)).max(-1)


def corners(d):
  return np.array(list(itertools.product([0.0, 1.0], repeat=d)))


def corner_values(Q, h):
  """Phi at all corners: f64[count, 2^d], in the order of `corners`."""
  c = corners(h.shape[-1])
  return 0.5 * np.einsum('ki,bij,kj->bk', c, Q, c) + h @ c.T


def corner_index(bits):
  """Position of binary rows in `corners`."""
  return (bits @ (2 ** np.arange(bits.shape[-1])[::-1])).astype(int)


def direction(theta, problem, hard, soft, objective=phi):
  """The two-temperature gradient of the code under test."""
  return jax.grad(lambda t: objective(gates.two_temperature(t, hard, soft), problem))(theta)


def descend(theta, problem, hard, soft, rate, steps, mirror=False, objective=phi):
  """Variant A (`optax.sgd`) or M (`gates.mirror_descent`) on one problem; maps with vmap.

  Returns:
    theta of every step, f64[steps + 1, d].
  """
  optimiser = gates.mirror_descent(rate, soft) if mirror else optax.sgd(rate)

  def step(carry, _):
    theta, state = carry
    updates, state = optimiser.update(
      direction(theta, problem, hard, soft, objective), state, theta
    )
    return (optax.apply_updates(theta, updates), state), theta

  (last, _), path = jax.lax.scan(step, (theta, optimiser.init(theta)), None, length=steps)
  return jnp.concatenate([path, last[None]])


def descend_with_noise(theta, noise, problem, soft, rate, estimator):
  """Variant N with Bernoulli gates ('trapezoid', or 'raw' in the limit hard -> 0).

  Logistic noise f64[steps, d] comes from NumPy: generating it in the loop costs seconds to compile.

  Returns:
    The last theta.
  """
  hard = soft if estimator == 'trapezoid' else 1e-6 * soft

  def step(theta, eps):
    sample = lambda t: phi(gates.noisy_gates(t, eps, hard, soft, estimator), problem)
    return theta - rate * jax.grad(sample)(theta), None

  return jax.lax.scan(step, theta, noise)[0]
