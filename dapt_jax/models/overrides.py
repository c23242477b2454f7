"""Primitives of a traced network, replayed with the lowering that is fast where it will run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from dapt_jax.models import conv, pooling


def replay(in_loop: bool = True) -> dict[str, Callable[..., Any]]:
  """Overrides for `graph.shrink`, for networks of this room traced with `lowering='lax'`.

  Args:
    in_loop: the small network will run in a loop body or over a population.

  Returns:
    `{primitive name: function(*operands, **parameters)}`.
  """
  return {
    'conv_general_dilated': functools.partial(conv.conv_general_dilated, in_loop=in_loop),
    'reduce_window_max': functools.partial(_window, pooling.max_pool, lax.reduce_window_max_p),
    'reduce_window_sum': functools.partial(_window, pooling.sum_pool, lax.reduce_window_sum_p),
  }


def _window(pool: Any, primitive: Any, x: jax.Array, **params: Any) -> jax.Array:
  """A pooling primitive through `pool` where its window is spatial, as it is elsewhere."""
  window, strides = params['window_dimensions'], params['window_strides']
  spatial = len(window) == 4 and window[0] == window[3] == strides[0] == strides[3] == 1
  plain = not any(d != 1 for d in (*params['base_dilation'], *params['window_dilation']))
  if not (spatial and plain and params['padding'][0] == params['padding'][3] == (0, 0)):
    return primitive.bind(x, **params)
  return pool(x, window=window[1:3], strides=strides[1:3], padding=params['padding'][1:3])
