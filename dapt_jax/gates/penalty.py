"""A term that pushes gates to 0 or 1, and a certificate for rounding them.

A small hard temperature alone does not binarise: it only re-parametrises the open cube, and the
optimum of a convex objective over the cube is often fractional.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.gates import base
from dapt_jax.types import ArrayTree


def concave_per_gate(gates: ArrayTree, mu: float | jax.Array | ArrayTree) -> ArrayTree:
  """`mu a (1 - a)` for every gate: zero at 0 and 1, `mu / 4` at 1/2.

  Args:
    gates: Array or pytree of values in [0, 1].
    mu: Weight, not negative: one scalar, or a tree shaped as the gates. With
      `mu_i >= max d2Phi/da_i^2 / 2` the sum with Phi is concave in each gate, so that coordinate
      by coordinate its minimum is at 0 or 1.

  Returns:
    Values with the structure, shapes and dtypes of `gates`.

  Raises:
    ValueError: If a known weight is negative or not finite.
  """
  weights = mu
  if not base.same_structure(mu, gates):
    if not jax.tree_util.treedef_is_leaf(jax.tree.structure(mu)):
      raise ValueError(
        f'mu has the structure {jax.tree.structure(mu)} and the gates '
        f'{jax.tree.structure(gates)}; they must agree: pass one scalar or a tree like the gates.'
      )
    weights = jax.tree.map(lambda _: mu, gates)

  def leaf(a: jax.Array, w: jax.Array) -> jax.Array:
    if not isinstance(w, jax.core.Tracer):
      known = np.asarray(jax.device_get(w))
      if not np.all((known >= 0) & np.isfinite(known)):
        raise ValueError(
          f'mu has the smallest value {known.min()}; weights must be finite and not negative, a '
          'negative one would push gates towards 1/2: use 0 to switch the term off.'
        )
    return jnp.asarray(w, a.dtype) * a * (1 - a)

  return jax.tree.map(leaf, gates, weights)


def concave(gates: ArrayTree, mu: float | jax.Array | ArrayTree) -> jax.Array:
  """`sum_i mu_i a_i (1 - a_i)`, the term to add to an objective so that gates end at 0 or 1.

  Args:
    gates: Array or pytree of values in [0, 1].
    mu: Weight, not negative: one scalar, or a tree shaped as the gates.

  Returns:
    f[] sum over all gates.

  Raises:
    ValueError: If a known weight is negative or not finite.
  """
  terms = jax.tree.leaves(concave_per_gate(gates, mu))
  return jnp.asarray(sum(jnp.sum(term) for term in terms))


class Certificate(NamedTuple):
  """How far rounded gates can be from the best binary ones.

  Attributes:
    rounded: The gates 1[a > 1/2], with the structure of the gates.
    bound: f[], upper bound of `Phi(rounded) - min over {0,1}^d of Phi`, for convex Phi.
  """

  rounded: ArrayTree
  bound: jax.Array


def certificate(
  phi: Callable[[ArrayTree], jax.Array], gates: ArrayTree, gradient_bound: float | jax.Array
) -> Certificate:
  """Certificate of theorem T5 (iii) for **convex** objectives, at any point of the cube.

  bound = sum_i ([d_i Phi]_+ a_i + [d_i Phi]_- (1 - a_i)) + G ||a - 1[a > 1/2]||_1.

  Args:
    phi: Convex differentiable function of the gates, returns a scalar.
    gates: Array or pytree of values in [0, 1].
    gradient_bound: G >= |d_i Phi| for all i on the cube.

  Returns:
    The rounded gates and the bound, which is never negative.

  Raises:
    ValueError: If a known `gradient_bound` is negative or not finite.
  """
  if not isinstance(gradient_bound, jax.core.Tracer):
    known = float(jax.device_get(gradient_bound))
    if not 0 <= known < float('inf'):
      raise ValueError(
        f'gradient_bound is {known}; it must be finite and not negative: pass the largest '
        '|d Phi / d a_i| over the cube.'
      )
  rounded = jax.tree.map(lambda a: (a > 0.5).astype(a.dtype), gates)

  def gap(a: jax.Array, derivative: jax.Array, r: jax.Array) -> jax.Array:
    first_order = jnp.maximum(derivative, 0) * a + jnp.maximum(-derivative, 0) * (1 - a)
    return jnp.sum(first_order) + jnp.asarray(gradient_bound, a.dtype) * jnp.sum(jnp.abs(a - r))

  gaps = jax.tree.leaves(jax.tree.map(gap, gates, jax.grad(phi)(gates), rounded))
  return Certificate(rounded, jnp.asarray(sum(gaps)))
