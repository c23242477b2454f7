"""Gradient accumulation: a batch that does not fit at once, taken a part after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

#: `loss(params, batch) -> (f32[], further means)`, means over the examples of the batch.
Loss = Callable[[Any, Any], tuple[jax.Array, Any]]


def in_parts(loss_fn: Loss, parts: int) -> Loss:
  """The same loss, computed over equal parts of the batch one after the other.

  Value and gradient are the means over the parts, which for a mean over examples are those of the
  whole batch; the memory for activations is that of one part. What a network computes over a batch
  it computes over a part: BatchNorm normalises with the statistics of the part.

  Args:
    loss_fn: what to compute; its gradient may be taken for `params` only, and once.
    parts: how many; 1 gives `loss_fn` itself.

  Returns:
    The loss. It raises a ValueError for a batch that does not divide.

  Raises:
    ValueError: for less than one part.
  """
  if parts < 1:
    raise ValueError(f'accumulate is {parts}; a batch has at least one part')
  if parts == 1:
    return loss_fn

  def split(batch: Any) -> Any:
    sizes = {x.shape[0] for x in jax.tree.leaves(batch)}
    if any(size % parts for size in sizes):
      raise ValueError(
        f'a batch of {max(sizes)} does not divide into accumulate={parts} equal parts; make one a '
        'multiple of the other'
      )
    return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

  def mean(function: Callable[[Any], Any], batch: Any) -> Any:
    split_batch = split(batch)
    part = lambda i: jax.tree.map(lambda x: x[i], split_batch)
    add = lambda i, total: jax.tree.map(jnp.add, total, function(part(i)))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, part(0)))
    return jax.tree.map(lambda x: x / parts, lax.fori_loop(0, parts, add, zeros))

  @jax.custom_vjp
  def whole(params: Any, batch: Any) -> tuple[jax.Array, Any]:
    return mean(lambda part: loss_fn(params, part), batch)

  def forward(params: Any, batch: Any) -> tuple[tuple[jax.Array, Any], Any]:
    return mean(lambda p: jax.value_and_grad(loss_fn, has_aux=True)(params, p), batch)

  def backward(gradient: Any, cotangent: tuple[jax.Array, Any]) -> tuple[Any, None]:
    return jax.tree.map(lambda g: cotangent[0] * g, gradient), None

  whole.defvjp(forward, backward)
  return whole
