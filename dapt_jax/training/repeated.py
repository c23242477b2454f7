"""Several updates in one compiled call, on batches drawn on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dapt_jax.types import PRNGKey

#: What the key of a step is folded with for its batch; updates fold in other numbers.
_BATCH = 0x62617463


Update = Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]


def repeated(
  update: Update, draw: Callable[[Any, PRNGKey], Any], num_steps: int
) -> Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]:
  """Makes one function of several updates. For one device.

  Small networks take less time for an update than Python for a call. With `training.loop.run` one
  of its steps is then `num_steps` updates, and `batches` returns the same data at every step.

  Args:
    update: `update(state, batch) -> (state, metrics)`; the state has `key` and `step`.
    draw: `draw(data, key) -> batch`; every update has a key of its own, by the state's.
    num_steps: updates a call, at least 1.

  Returns:
    `run(state, data) -> (state, metrics)`, metrics being means over the updates.

  Raises:
    ValueError: for fewer than one update.
  """
  if num_steps < 1:
    raise ValueError(f'num_steps={num_steps}: a call needs at least 1 update')

  def run(state: Any, data: Any) -> tuple[Any, dict[str, jax.Array]]:
    def one(state: Any, _: None) -> tuple[Any, dict[str, jax.Array]]:
      key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), _BATCH)
      return update(state, draw(data, key))

    state, metrics = lax.scan(one, state, length=num_steps)
    return state, jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)

  return run
