"""Puts a pure step function on one device or on many, of one process or of several.

The only file that knows pmap. A step function is written once, `update(state, batch,
axis_name=None)`, and synchronises with `jax.lax.pmean(..., axis_name)` where `axis_name` is not
None. Gradients of replicated parts are averaged *after* `jax.grad`: the gradient of an averaged
loss, or an update without average, differs from device to device without any error from JAX.

Three ways lead to the same numbers. 'pmap' and 'shard_map' run `update` once a device, on its rows,
with `axis_name`. 'jit' runs it once, on whole arrays and with `axis_name=None`, and leaves the
division of labour to the compiler.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from dapt_jax import types
from dapt_jax.training import hosts, layout, placement

Kind = Literal['auto', 'jit', 'pmap', 'shard_map']


class ReplicationError(RuntimeError):
  """A part of the state declared replicated differs between devices."""


class Placed(NamedTuple):
  """A batch that is on its devices already, from `Mapped.put_batch`."""

  batch: Any


class Mapped:
  """A step function on its devices, made by `make_update`.

  Outside, states have one layout whatever the number of devices and processes: a population is `[K,
  ...]`, and every process holds the whole. Of a sharded part of a batch a process gives its own
  rows (`hosts.index()` of `hosts.count()` equal shares), of a replicated part the whole. `place`
  brings a state to the devices, `gather` brings it back; calls take and return placed states.

  Attributes:
    kind: 'jit', 'pmap' or 'shard_map'.
    num_devices: of all processes.
  """

  def __init__(
    self,
    step: Callable[[Any, Any], tuple[Any, Any]],
    kind: str,
    where: placement.Placement | jax.Device | None,
    state_axes: layout.Axes,
    batch_axes: layout.Axes,
  ):
    """Use `make_update`."""
    self._step, self.kind = step, kind
    self._where = where if isinstance(where, placement.Placement) else None
    self._device = None if isinstance(where, placement.Placement) else where
    self._state_axes, self._batch_axes = state_axes, batch_axes
    devices = self._where.devices if self._where else [None]
    self.num_devices = len(devices)
    # The CPU backend runs every device of a process on one thread pool. Steps sent ahead can fill
    # it with halves of different collectives that wait for each other for ever, so there each step
    # is awaited.
    self._await = self._where is not None and self._where.devices[0].platform == 'cpu'

  def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
    """One step: `(placed state, batch) -> (placed state, metrics)`.

    Raises:
      ValueError: a sharded part of the batch does not divide by the number of devices.
    """
    placed = batch if isinstance(batch, Placed) else self.put_batch(batch)
    out = self._step(state, placed.batch)
    return jax.block_until_ready(out) if self._await else out

  def put_batch(self, batch: Any) -> Placed:
    """Sends a batch to the devices, so that a later call finds it there.

    Raises:
      ValueError: a sharded part does not divide by the number of devices.
    """
    if self._where is None:
      return Placed(jax.device_put(batch, self._device))
    return Placed(self._where.put(batch, self._batch_axes, 'batch'))

  def place(self, state: types.ArrayTree) -> types.ArrayTree:
    """Copies a state to the devices. The argument stays valid though steps donate what they are
    given.

    Raises:
      ValueError: a sharded part does not divide by the number of devices.
    """
    arrays = layout.as_arrays(state)
    if self._where is None:
      return arrays if self._device is None else jax.device_put(arrays, self._device)
    # Placed as steps return it: from another layout the second step would compile anew.
    return self._where.put_whole(arrays, self._state_axes, 'state')

  def gather(self, state: types.ArrayTree, *, check: bool = True) -> types.ArrayTree:
    """A placed state in the outside layout, as arrays of the default device.

    All processes must call it together.

    Args:
      state: what `place` or a step returned.
      check: compare the copies of replicated parts.

    Raises:
      ReplicationError: copies of a replicated part differ, so a step forgot to synchronise.
    """
    if self._where is None:
      return state
    if check:
      self.check_replicated(state)
    return self._where.get(state, self._state_axes)

  def check_replicated(self, state: types.ArrayTree, metrics: types.ArrayTree = None) -> None:
    """Raises ReplicationError where copies of replicated state, or of metrics, differ."""
    if self._where is None:
      return
    found = [f'state{path}' for path in _differing(state, self._state_axes)]
    if found:
      raise ReplicationError(
        f'declared replicated but different from device to device: {", ".join(found)}. Average '
        'gradients with jax.lax.pmean(grad, axis_name) after jax.grad, or declare the part '
        'sharded (0) in state_axes'
      )
    found = [f'metrics{path}' for path in _differing(metrics, None)]
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
    update: `update(state, batch, axis_name=None) -> (state, metrics)`. Under pmap and shard_map it
      sees `[K/D, ...]` of each sharded part, is given `axis_name`, and must leave replicated parts
      and metrics equal on all devices.
    kind: 'jit', 'pmap', 'shard_map', or 'auto': shard_map where there are several devices and
      something is sharded. 'jit' with nothing sharded uses the first device.
    axis_name: the name `update` averages over.
    state_axes: prefix pytree of the state: None for replicated parts, 0 for parts sharded along
      axis 0.
    batch_axes: the same for the batch.
    metric_axes: the same for the metrics; sharded ones `[K/D, ...]` are returned whole, `[K, ...]`.
    devices: which devices; all of all processes if None.
    donate: reuse the buffers of the state a call is given, which must not be used afterwards.

  Returns:
    The mapped step.

  Raises:
    ValueError: `kind` is unknown, or an axis is neither None nor 0.
  """
  if kind not in get_args(Kind):
    raise ValueError(f'kind must be one of {list(get_args(Kind))}, got {kind!r}')
  axes = jax.tree.leaves((state_axes, batch_axes, metric_axes))
  if any(axis != 0 for axis in axes):
    raise ValueError(f'axes must be None (replicated) or 0 (sharded), got {axes}')
  chosen = list(devices or jax.devices())
  several = len(chosen) > 1 and bool(jax.tree.leaves((state_axes, batch_axes)))
  kind = ('shard_map' if several else 'jit') if kind == 'auto' else kind
  jit = functools.partial(jax.jit, donate_argnums=(0,) if donate else ())
  whole = functools.partial(_strong_step, update)
  if kind == 'jit' and not several:
    here = [d for d in chosen if d.process_index == jax.process_index()]
    device = None if devices is None else here[0]
    return Mapped(jit(whole), kind, device, state_axes, batch_axes)
  where = placement.Placement(chosen, axis_name, stacked=kind == 'pmap')
  own = functools.partial(_device_step, update, axis_name, metric_axes)
  if kind == 'jit':
    out = where.shardings(state_axes), where.shardings(None)
    step = jit(whole, out_shardings=out)
  elif kind == 'shard_map':
    specs = where.specs((state_axes, batch_axes))
    out = where.specs(state_axes), PartitionSpec()
    step = jit(jax.shard_map(own, mesh=where.mesh, in_specs=specs, out_specs=out, check_vma=False))
  else:
    step = _pmapped(own, axis_name, state_axes, batch_axes, where.devices, donate)
  return Mapped(step, kind, where, state_axes, batch_axes)


def _device_step(update, axis_name, metric_axes, state, batch):
  """The step of one device: its rows of the state, and metrics of all devices."""
  after, metrics = _strong_step(functools.partial(update, axis_name=axis_name), state, batch)
  gather = lambda x: jax.lax.all_gather(x, axis_name, tiled=True)
  whole = lambda axis, part: part if axis is None else jax.tree.map(gather, part)
  return after, jax.tree.map(whole, metric_axes, metrics, is_leaf=layout.is_axis)


def _pmapped(own, axis_name, state_axes, batch_axes, devices, donate):
  """`own` under pmap."""

  def flat(state, batch):
    after, metrics = own(state, batch)
    layout.check_same_structure(state, after)
    replicated, sharded = layout.partition(after, state_axes)
    return (replicated, metrics), sharded

  # Over several processes pmap wants out_axes that can be hashed, which prefix dictionaries cannot.
  mapped = jax.pmap(
    flat,
    axis_name=axis_name,
    in_axes=(state_axes, batch_axes),
    out_axes=(None, 0),
    devices=devices,
    donate_argnums=(0,) if donate else (),
  )

  def step(state, batch):
    (replicated, metrics), sharded = mapped(state, batch)
    return layout.join(replicated, sharded, state_axes, state), metrics

  return step


def _differing(tree: Any, axes: layout.Axes) -> list[str]:
  """Paths of replicated leaves whose copies differ, on the devices of any process."""
  found = layout.differing_replicas(tree, axes)
  if hosts.count() > 1:
    paths, own = layout.fingerprints(tree, axes)
    every = hosts.gather(own)
    same = np.isclose(every, every[:1], rtol=1e-4, atol=1e-6, equal_nan=True).all((0, 2))
    found += [path for path, equal in zip(paths, same) if not equal and path not in found]
  return found


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
