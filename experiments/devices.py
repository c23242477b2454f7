"""Which devices a step runs on, and which rows of a batch are this process's."""

from __future__ import annotations

import jax

from dapt_jax.training import hosts


def choose(size: int, field: str) -> list[jax.Device]:
  """All devices of the job where `size` rows divide by them; else, in one process, one.

  Args:
    size: rows that are spread, networks or examples.
    field: of the configuration, for the message.

  Raises:
    ValueError: several processes, and the rows do not divide by their devices.
  """
  every = jax.devices()
  if size % len(every) and hosts.count() > 1:
    raise ValueError(
      f'{field} is {size}, which does not divide by the {len(every)} devices of {hosts.count()} '
      'processes: make it a multiple of them'
    )
  return every if size % len(every) == 0 else every[:1]


def shard() -> tuple[int, int]:
  """(number of this process, number of processes), as batches are shared out."""
  return hosts.index(), hosts.count()
