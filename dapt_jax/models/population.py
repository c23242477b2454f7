"""One function over a population of networks that have their own weights.

On the CPU backend a population runs as a loop (`lax.map`): one network's activations stay in cache,
and convolutions lowered to matrix products (`create(..., in_loop=True)`) run in a loop body at the
speed they have outside. `vmap` turns them into batched products of thin matrices, and `lax.conv`
into grouped convolutions, both slower there. An accelerator wants the population side by side
(`vmap`): its matrix units are idle on one small network. Figures: docs/conv.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

METHODS = ('auto', 'loop', 'vmap')


def map_population(
  fn: Callable[..., Any], in_axes: Any = 0, *, method: str = 'auto'
) -> Callable[..., Any]:
  """Maps `fn` over a leading population axis in the way that is fastest on the backend.

  The result is `jax.vmap(fn, in_axes)` up to rounding, whatever the method.

  Args:
    fn: `fn(*args) -> outputs`, of one member.
    in_axes: 0 (mapped over the leading axis) or None (shared) for all arguments, or a tuple with
      one entry for every argument, each 0, None or a pytree prefix of them.
    method: `'auto'`, `'loop'` (`lax.map`, members one after the other) or `'vmap'`.

  Returns:
    A function of the same arguments whose outputs carry a leading population axis.

  Raises:
    ValueError: for an unknown method or an axis other than 0 and None; from the returned function
      when the mapped arguments disagree about the size of the population or none is mapped.
  """
  if method not in METHODS:
    raise ValueError(f'method={method!r}: choose one of {METHODS}')
  axes_given = jax.tree.leaves(in_axes, is_leaf=lambda axis: axis is None)
  if any(axis is not None and axis != 0 for axis in axes_given):
    raise ValueError(f'in_axes={in_axes!r}: the population axis is 0 (or None where shared)')

  def mapped(*args: Any) -> Any:
    flat, treedef = jax.tree.flatten(args)
    prefix = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
    is_mapped = [axis == 0 for axis in _axis_of_leaves(prefix, args)]
    _check_sizes([leaf for leaf, m in zip(flat, is_mapped) if m])
    if _resolve(method) == 'vmap':
      return jax.vmap(fn, prefix)(*args)

    def member(slices: list[Any]) -> Any:
      given = iter(slices)
      leaves = [next(given) if m else leaf for leaf, m in zip(flat, is_mapped)]
      return fn(*jax.tree.unflatten(treedef, leaves))

    return lax.map(member, [leaf for leaf, m in zip(flat, is_mapped) if m])

  return mapped


def _resolve(method: str) -> str:
  """Resolves 'auto' by the backend."""
  if method != 'auto':
    return method
  return 'loop' if jax.default_backend() == 'cpu' else 'vmap'


def _axis_of_leaves(prefix: tuple[Any, ...], args: tuple[Any, ...]) -> list[int | None]:
  """The axis of every leaf of `args`, from a pytree prefix of axes."""
  if len(prefix) != len(args):
    raise ValueError(f'in_axes={prefix!r} has {len(prefix)} entries for {len(args)} arguments')
  axes: list[int | None] = []
  jax.tree.map(
    lambda axis, tree: axes.extend([axis] * len(jax.tree.leaves(tree))),
    prefix,
    args,
    is_leaf=lambda node: node is None,
  )
  return axes


def _check_sizes(mapped: list[Any]) -> None:
  """Checks that the mapped leaves agree about the size of the population."""
  if not mapped:
    raise ValueError('no argument is mapped: give in_axes=0 to at least one')
  shapes = [np.shape(leaf) for leaf in mapped]
  if len({shape[:1] for shape in shapes}) != 1 or shapes[0] == ():
    raise ValueError(
      f'mapped arguments have shapes {shapes[:8]}: give every mapped leaf the same leading '
      'population axis, or in_axes=None where it is shared'
    )
