"""Puts a pure step function on one device (`jax.jit`) or on several (`jax.pmap`).

The only file that knows pmap. A step function is written once, `update(state, batch,
axis_name=None)`, and synchronises with `jax.lax.pmean(..., axis_name)` where `axis_name` is not
None. Gradients of replicated parts are averaged *after* `jax.grad`: the gradient of an averaged
loss, or an update without average, differs from device to device without any error from JAX.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax import types
from dapt_jax.training import layout

Kind = Literal['auto', 'jit', 'pmap']


class ReplicationError(RuntimeError):
  """A part of the state declared replicated differs between devices."""


class Mapped:
  """A step function on its devices, made by `make_update`.

  Outside, states and batches have one layout whatever the number of devices: a population is `[K,
  ...]`. `place` brings a state to the devices (`[D, K/D, ...]` under pmap), `gather` brings it
  back; calls take and return placed states.

  Attributes:
    kind: 'jit' or 'pmap'.
    num_devices: D.
  """

  def __init__(
    self,
    step: Callable[[Any, Any], tuple[Any, Any]],
    kind: str,
    devices: Sequence[jax.Device] | None,
    state_axes: layout.Axes,
    batch_axes: layout.Axes,
  ):
    """Use `make_update`."""
    self.kind, self.num_devices = kind, len(devices or (None,))
    self._step, self._device = step, devices[0] if devices else None
    self._state_axes, self._batch_axes = state_axes, batch_axes
    self._mesh = jax.sharding.Mesh(np.array(devices), ('devices',)) if kind == 'pmap' else None
    # The CPU backend runs every device of a process on one thread pool. Steps sent ahead can fill
    # it with halves of different collectives that wait for each other for ever, so there each step
    # is awaited.
    self._await = self._device is not None and kind == 'pmap' and self._device.platform == 'cpu'

  def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
    """One step: `(placed state, batch) -> (placed state, metrics)`.

    Raises:
      ValueError: a sharded part of the batch does not divide by the number of devices.
    """
    if self.kind == 'pmap':
      batch = layout.split(batch, self._batch_axes, self.num_devices, 'batch')
    out = self._step(state, batch)
    return jax.block_until_ready(out) if self._await else out

  def place(self, state: types.ArrayTree) -> types.ArrayTree:
    """Copies a state to the devices. The argument stays valid though steps donate what they are
    given.

    Raises:
      ValueError: a sharded part does not divide by the number of devices.
    """
    if self.kind == 'jit':
      arrays = layout.as_arrays(state)
      return arrays if self._device is None else jax.device_put(arrays, self._device)
    parts = layout.split(layout.as_arrays(state), self._state_axes, self.num_devices, 'state')
    # Placed as steps return it: from another layout the second step would compile anew.
    return jax.tree.map(self._put, self._state_axes, parts, is_leaf=layout.is_axis)

  def _put(self, axis: int | None, part: Any) -> Any:
    spec = jax.sharding.PartitionSpec(*(() if axis is None else ('devices',)))
    assert self._mesh is not None
    return jax.device_put(part, jax.sharding.NamedSharding(self._mesh, spec))

  def gather(self, state: types.ArrayTree, *, check: bool = True) -> types.ArrayTree:
    """A placed state in the outside layout, as arrays of the default device.

    Args:
      state: what `place` or a step returned.
      check: compare the copies of replicated parts.

    Raises:
      ReplicationError: copies of a replicated part differ, so a step forgot to synchronise.
    """
    if self.kind == 'jit':
      return state
    if check:
      self.check_replicated(state)
    # Through the host: the result shall not stay tied to this set of devices. numpy cannot hold
    # keys.
    host = jax.tree.map(lambda x: x if layout.is_key(x) else np.asarray(x), state)
    return layout.as_arrays(layout.merge(host, self._state_axes))

  def check_replicated(self, state: types.ArrayTree, metrics: types.ArrayTree = None) -> None:
    """Raises ReplicationError where copies of replicated state, or of metrics, differ."""
    if self.kind == 'jit':
      return
    found = [f'state{path}' for path in layout.differing_replicas(state, self._state_axes)]
    if found:
      raise ReplicationError(
        f'declared replicated but different from device to device: {", ".join(found)}. Average '
        'gradients with jax.lax.pmean(grad, axis_name) after jax.grad, or declare the part '
        'sharded (0) in state_axes'
      )
    found = [f'metrics{path}' for path in layout.differing_replicas(metrics, None)]
    if found:
      raise ReplicationError(
        f'different from device to device: {", ".join(found)}. Return jax.lax.pmean(metric, '
        'axis_name), or declare the metric sharded (0) in metric_axes'
      )


def make_update(
  update: Callable[..., tuple[Any, Any]],
  *,
  kind: Kind = 'auto',
  axis_name: str = 'devices',
  state_axes: layout.Axes = None,
  batch_axes: layout.Axes = None,
  metric_axes: layout.Axes = None,
  devices: Sequence[jax.Device] | None = None,
  donate: bool = True,
) -> Mapped:
  """Compiles a pure step function for one device or several.

  Args:
    update: `update(state, batch, axis_name=None) -> (state, metrics)`. Under pmap it sees `[K/D,
      ...]` of each sharded part, is given `axis_name`, and must leave replicated parts and metrics
      equal on all devices.
    kind: 'jit', 'pmap', or 'auto': pmap where there are several devices and something is sharded.
    axis_name: the name `update` averages over.
    state_axes: prefix pytree of the state: None for replicated parts, 0 for parts sharded along
      axis 0.
    batch_axes: the same for the batch.
    metric_axes: the same for the metrics; sharded ones `[K/D, ...]` are returned whole, `[K, ...]`.
    devices: which devices; all local ones if None ('jit' uses the first).
    donate: reuse the buffers of the state a call is given, which must not be used afterwards.

  Returns:
    The mapped step.

  Raises:
    ValueError: `kind` is unknown, or an axis is neither None nor 0.
  """
  if kind not in ('auto', 'jit', 'pmap'):
    raise ValueError(f"kind must be 'auto', 'jit' or 'pmap', got {kind!r}")
  axes = jax.tree.leaves((state_axes, batch_axes, metric_axes))
  if any(axis != 0 for axis in axes):
    raise ValueError(f'axes must be None (replicated) or 0 (sharded), got {axes}')
  chosen = list(devices or jax.local_devices())
  if kind == 'auto':
    sharded = jax.tree.leaves((state_axes, batch_axes))
    kind = 'pmap' if len(chosen) > 1 and sharded else 'jit'
  donated = (0,) if donate else ()
  if kind == 'jit':
    step = jax.jit(functools.partial(_strong_step, update), donate_argnums=donated)
    return Mapped(step, kind, devices and chosen[:1], state_axes, batch_axes)

  def per_device(state, batch):
    state, metrics = _strong_step(functools.partial(update, axis_name=axis_name), state, batch)
    whole = lambda axis, part: part if axis is None else _all_gather(part, axis_name)
    return state, jax.tree.map(whole, metric_axes, metrics, is_leaf=layout.is_axis)

  step = jax.pmap(
    per_device,
    axis_name=axis_name,
    in_axes=(state_axes, batch_axes),
    out_axes=(state_axes, None),
    devices=chosen,
    donate_argnums=donated,
  )
  return Mapped(step, kind, chosen, state_axes, batch_axes)


def host_devices(num: int) -> None:
  """Makes JAX show the CPU as `num` devices; call it before anything touches JAX's devices.

  Equivalent to starting the process with `XLA_FLAGS=--xla_force_host_platform_device_count=<num>`;
  without effect on accelerators. XLA's convolutions use one core backwards, so a device per core is
  how a CPU works in full.

  Args:
    num: at least 1; more devices than cores only cost time.

  Raises:
    ValueError: `num` is below 1.
    RuntimeError: JAX has started with another number of CPU devices.
  """
  if num < 1:
    raise ValueError(f'the number of host devices must be at least 1, got {num}')
  try:
    jax.config.update('jax_num_cpu_devices', num)
  except RuntimeError as error:
    have = len(jax.devices('cpu'))
    if have != num:
      raise RuntimeError(
        f'JAX already runs with {have} CPU device(s), so {num} come too late: call host_devices '
        'before the first JAX computation, or set '
        f'XLA_FLAGS=--xla_force_host_platform_device_count={num}'
      ) from error


def _strong_step(update, state, batch):
  """Calls `update` and gives the state it returns definite (not weak) types."""
  state, metrics = update(state, batch)
  strong = lambda x: x if layout.is_key(x) else jax.lax.convert_element_type(x, jnp.result_type(x))
  return jax.tree.map(strong, state), metrics


def _all_gather(part, axis_name):
  return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), part)
