"""Brings trees of arrays to the devices of a job, and back.

Outside, a population is `[K, ...]` whatever the number of devices. On the devices of a mesh it is
one array split along its first axis; for pmap `[devices, K / devices, ...]`, the devices of this
process only.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dapt_jax.training import hosts, layout


class Placement:
  """Where the trees of one step live.

  Attributes:
    devices: of all processes, those of one process side by side.
    mesh: over all devices; over this process's for pmap.
    stacked: whether sharded arrays have a leading axis of devices, as pmap wants them.
  """

  def __init__(self, devices: Sequence[jax.Device], axis_name: str, *, stacked: bool = False):
    """Places on devices of all processes.

    Args:
      devices: as many of every process.
      axis_name: name of the mesh's axis.
      stacked: for pmap.

    Raises:
      ValueError: processes have different numbers of devices.
    """
    counts = collections.Counter(d.process_index for d in devices)
    if len(set(counts.values())) > 1:
      raise ValueError(
        f'processes have different numbers of devices, {dict(sorted(counts.items()))}: give all as '
        'many (on CPU with --config.devices)'
      )
    self.devices = sorted(devices, key=lambda d: (d.process_index, d.id))
    self._own = [d for d in self.devices if d.process_index == jax.process_index()]
    self._axis_name, self.stacked = axis_name, stacked
    self.mesh = Mesh(np.array(self._own if stacked else self.devices), (axis_name,))
    self._processes = len(counts)

  def specs(self, axes: layout.Axes) -> Any:
    """Partition specifications of a prefix pytree of axes."""
    spec = lambda axis: PartitionSpec(*(() if axis is None else (self._axis_name,)))
    return jax.tree.map(spec, axes, is_leaf=layout.is_axis)

  def shardings(self, axes: layout.Axes) -> Any:
    """Shardings of a prefix pytree of axes."""
    return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), self.specs(axes))

  def put(self, tree: Any, axes: layout.Axes, name: str) -> Any:
    """Places a tree: sharded parts are this process's rows, replicated ones whole.

    Args:
      tree: arrays of the host or of one device. What `put` returned before is left as it is.
      axes: prefix pytree of None and 0.
      name: what error messages call the tree.

    Raises:
      ValueError: rows do not divide by the number of this process's devices.
    """
    if self.stacked:
      tree = layout.split(tree, axes, len(self._own), name)
    else:
      layout.check_divides(tree, axes, len(self._own), name)
    visit = lambda sharding, part: jax.tree.map(lambda x: _put(x, sharding), part)
    return jax.tree.map(visit, self.shardings(axes), tree)

  def put_whole(self, tree: Any, axes: layout.Axes, name: str) -> Any:
    """Places a tree that every process holds whole.

    Raises:
      ValueError: a sharded part does not divide by the number of devices.
    """
    layout.check_divides(tree, axes, len(self.devices), name)
    return self.put(layout.rows(tree, axes, hosts.index(), self._processes), axes, name)

  def get(self, tree: Any, axes: layout.Axes) -> Any:
    """A placed tree as fresh arrays of the default device, whole on every process."""
    visit = lambda axis, part: jax.tree.map(lambda x: self._get(x, axis is not None), part)
    return jax.tree.map(visit, axes, tree, is_leaf=layout.is_axis)

  def _get(self, x: jax.Array, sharded: bool) -> jax.Array:
    if layout.is_key(x):
      data = self._get(jax.random.key_data(x), sharded)
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    if not sharded:
      return jnp.array(np.asarray(x.addressable_data(0)))  # a copy: steps donate theirs
    shards = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
    own = np.concatenate([np.asarray(s.data) for s in shards])
    own = own.reshape((-1, *own.shape[2:])) if self.stacked else own
    return jnp.array(own if self._processes == 1 else np.concatenate(hosts.gather(own)))


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
  """This process's rows of an array, on the devices of a sharding."""
  if isinstance(x, jax.Array) and x.sharding == sharding:
    return x
  if layout.is_key(x):
    data = _put(jax.random.key_data(x), sharding)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
  if sharding.is_fully_addressable:
    return jax.device_put(x, sharding)
  return jax.make_array_from_process_local_data(sharding, np.asarray(x))
