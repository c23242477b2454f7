"""From metrics on the device to checked records in the writers, without stalling the device."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax import types
from dapt_jax.training import layout, writers

#: Steps sent to the device ahead of the one it works on: enough to keep it busy, and few enough
#: that Ctrl-C is obeyed soon and batches do not pile up.
IN_FLIGHT = 16


class NonFiniteError(FloatingPointError):
  """A metric or the state became NaN or infinite.

  Attributes:
    what: the metric or the leaf of the state.
    step: the first step known to be affected.
  """

  def __init__(self, what: str, value: str, step: int, last_good: str):
    super().__init__(
      f'{what} is {value} at step {step}. {last_good} Lower the learning rate, clip gradients '
      '(optax.clip_by_global_norm) or look for log(0) and division by 0 (JAX_DEBUG_NANS=1 finds '
      'the place); '
      'a changed configuration needs another work directory.'
    )
    self.what, self.step = what, step


class Recorder:
  """Collects the metrics of each step, and fetches, checks and writes those asked for."""

  def __init__(
    self,
    sinks: Sequence[writers.Writer],
    *,
    done: int,
    finite: Collection[str] | None,
    last_good: Callable[[], str],
  ):
    """Prepares the writers.

    Args:
      sinks: the writers; they forget what an earlier process wrote after step `done`.
      done: steps done before.
      finite: metrics to check; None for all.
      last_good: describes the last checkpoint, for error messages.
    """
    self._sinks, self._finite, self._last_good = sinks, finite, last_good
    self._pending: list[tuple[int, dict[str, Any]]] = []
    self.last: dict[str, Any] = {}
    for sink in sinks:
      sink.truncate(done + 1)

  def push(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Takes the metrics of a step as device values; waits only for a step long past."""
    # Large arrays are left to `fetch`: kept for every step they could fill the memory.
    small = {name: value for name, value in metrics.items() if np.size(value) == 1}
    self._pending.append((step, small))
    if len(self._pending) > IN_FLIGHT:
      jax.block_until_ready(self._pending[-IN_FLIGHT][1])

  def fetch(self, step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Brings metrics to the host.

    Raises:
      NonFiniteError: one of them is not finite; names the first step since the last fetch where one
        was not.
    """
    host = jax.device_get(dict(metrics))
    if self._bad(host) is not None:
      for earlier, values in [*jax.device_get(self._pending), (step, host)]:
        bad = self._bad(values)
        if bad is not None:
          value = str(np.asarray(values[bad])) if np.size(values[bad]) == 1 else 'not finite'
          raise NonFiniteError(f'metric {bad!r}', value, earlier, self._last_good())
    self._pending.clear()
    return host

  def write(self, step: int, record: dict[str, Any]) -> None:
    """Hands a record to every writer."""
    for sink in self._sinks:
      sink.write(step, record)
    self.last = record

  def _bad(self, metrics: Mapping[str, Any]) -> str | None:
    """The first checked metric that is not finite."""
    for name, value in metrics.items():
      if (self._finite is None or name in self._finite) and not _is_finite(np.asarray(value)):
        return name
    return None


def check_state(
  state: types.ArrayTree, step: int, exempt: Collection[str], last_good: Callable[[], str]
) -> None:
  """Refuses a state that must not become a checkpoint.

  Args:
    state: any pytree of arrays.
    step: updates done.
    exempt: leaves (as `infinite_leaves` names them) that may hold infinities.
    last_good: describes the last checkpoint.

  Raises:
    NonFiniteError: a leaf holds NaN, or an infinity where none is allowed.
  """
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    where = jax.tree_util.keystr(path)
    if layout.is_key(leaf):
      continue
    array = np.asarray(leaf)
    if not _is_finite(array, allow_inf=where in exempt):
      raise NonFiniteError(f'state{where}', 'not finite', step, last_good())


def infinite_leaves(state: types.ArrayTree) -> set[str]:
  """Leaves that hold infinities on purpose in a fresh state (a best loss of `inf`, say)."""
  return {
    jax.tree_util.keystr(path)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    if not layout.is_key(leaf) and not _is_finite(np.asarray(leaf))
  }


def last_record(path: pathlib.Path) -> dict[str, Any]:
  """The last record of a metrics file without its step; empty where there is none."""
  records = writers.read_jsonl(path) if path.exists() else []
  return {k: v for k, v in records[-1].items() if k != 'step'} if records else {}


def _is_finite(array: np.ndarray, *, allow_inf: bool = False) -> bool:
  if not jnp.issubdtype(array.dtype, jnp.inexact):
    return True
  if array.dtype.kind not in 'fc':
    array = array.astype(np.float64)  # numpy's own checks do not know bfloat16
  return not (np.isnan(array).any() if allow_inf else (~np.isfinite(array)).any())
