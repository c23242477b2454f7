"""Several processes as one job: who they are, and the few things they must tell each other.

With one process everything here returns at once. Calls that exchange data (`gather`, `broadcast`,
`agree`, `any_of`, `first_does`) must be made by all processes in the same order.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from dapt_jax.training import layout

#: Environment variables of plain addresses, for clusters that JAX does not know.
_ADDRESS, _COUNT, _INDEX = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'


class HostError(RuntimeError):
  """Processes of one job do not fit together, or one of them has failed."""


@dataclasses.dataclass(frozen=True)
class Address:
  """Where a process finds the others; None is looked up in the environment.

  Attributes:
    coordinator: 'host:port' of process 0; `JAX_COORDINATOR_ADDRESS`.
    count: number of processes; `JAX_NUM_PROCESSES`.
    index: number of this process, from 0; `JAX_PROCESS_ID`.
  """

  coordinator: str | None = None
  count: int | None = None
  index: int | None = None

  def filled(self, environment: Mapping[str, str] = os.environ) -> Address:
    """The address with what is None taken from the environment.

    Raises:
      ValueError: only a part is given, a number is none, or the index is out of range.
    """

    def number(value: int | None, name: str) -> int | None:
      text = environment.get(name)
      if value is not None or text is None:
        return value
      try:
        return int(text)
      except ValueError:
        raise ValueError(f'{name} is {text!r}; it must be a whole number') from None

    coordinator = self.coordinator or environment.get(_ADDRESS)
    out = Address(coordinator, number(self.count, _COUNT), number(self.index, _INDEX))
    fields = {_ADDRESS: out.coordinator, _COUNT: out.count, _INDEX: out.index}
    missing = [name for name, value in fields.items() if value is None]
    if 0 < len(missing) < len(fields):
      raise ValueError(
        f'{", ".join(missing)} missing: a job of several processes needs the address of process 0, '
        'the number of processes and the number of this one (--coordinator, --processes, '
        f'--process, or {_ADDRESS}, {_COUNT}, {_INDEX})'
      )
    if out.coordinator and ':' not in out.coordinator:
      raise ValueError(f"coordinator {out.coordinator!r} has no port; give 'host:port'")
    if out.count is not None and out.index is not None and not 0 <= out.index < out.count:
      raise ValueError(f'process {out.index} of {out.count}: numbers run from 0 to {out.count - 1}')
    return out


def initialize(address: Address | None = None, *, timeout: int = 300, heartbeat: int = 60) -> None:
  """Joins the processes of a job; before anything else touches JAX's devices.

  Args:
    address: of the processes; None, or one without any entry in fields and environment, lets JAX
      ask the cluster (Cloud TPU, GKE, SLURM, Open MPI).
    timeout: seconds to wait for the other processes.
    heartbeat: seconds of silence after which a process counts as dead, and the others end.

  Raises:
    ValueError: half an address.
    HostError: the others did not come, or there is no cluster that JAX knows.
  """
  full = (address or Address()).filled()
  # Its handler of SIGTERM would take the place of Python's: a job that trains could not be stopped.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      full.coordinator,
      full.count,
      full.index,
      initialization_timeout=timeout,
      heartbeat_timeout_seconds=heartbeat,
    )
  except Exception as error:
    where = f'at {full.coordinator}' if full.coordinator else 'from the environment'
    raise HostError(
      f'the processes of this job could not be joined {where}: {error}. Start all of them within '
      f'{timeout} s, with the same --coordinator and --processes and a --process of their own'
    ) from error


def leave(code: int, seconds: float = 10) -> None:
  """Has this process end soon after an error; JAX would wait minutes for the others to end, too.

  Args:
    code: exit code.
    seconds: time to say what has happened.
  """
  if jax.distributed.is_initialized():
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True  # runs on while the interpreter waits at its end
    timer.start()


def index() -> int:
  """Number of this process."""
  return jax.process_index()


def count() -> int:
  """Number of processes."""
  return jax.process_count()


def is_first() -> bool:
  """Whether this is process 0, which alone writes what the job shares."""
  return jax.process_index() == 0


def gather(array: Any) -> np.ndarray:
  """Equally shaped arrays of all processes, stacked: [...] -> [processes, ...]."""
  host = np.asarray(array)
  return host[None] if count() == 1 else np.asarray(multihost_utils.process_allgather(host))


def broadcast(value: Any) -> Any:
  """A JSON-like value of process 0, on every process."""
  if count() == 1:
    return value
  payload = json.dumps(value).encode() if is_first() else b''
  size = int(gather(np.int32(len(payload)))[0])
  padded = np.zeros(size, np.uint8)
  padded[: len(payload)] = np.frombuffer(payload, np.uint8)[:size]
  return json.loads(bytes(gather(padded)[0]).decode())


def broadcast_arrays(tree: Any) -> Any:
  """A pytree of arrays of process 0, on every process; all give one of the same shapes."""
  if count() == 1:
    return tree
  plain = lambda x: np.asarray(jax.random.key_data(x) if layout.is_key(x) else x)
  # As bytes: what is sent is a sum over processes, in which -0.0 and subnormal numbers get lost.
  sent = jax.tree.map(lambda x: np.frombuffer(plain(x).tobytes(), np.uint8), tree)
  every = multihost_utils.broadcast_one_to_all(sent)

  def like(x: Any, found: Any) -> Any:
    own = plain(x)
    array = np.frombuffer(np.asarray(found).tobytes(), own.dtype).reshape(own.shape)
    if layout.is_key(x):
      return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(x))
    return array

  return jax.tree.map(like, tree, every)


def any_of(flag: bool) -> bool:
  """Whether the flag is set on any process."""
  return bool(gather(np.int32(flag)).any())


def agree(value: Mapping[str, Any], what: str) -> None:
  """Checks that all processes hold the same flat mapping of JSON-like values.

  Raises:
    HostError: on every process, naming the entries that differ from those of process 0.
  """
  first = broadcast(dict(value))
  own = json.loads(json.dumps(dict(value)))
  differing = [
    f'{name}: {first.get(name)!r} -> {own.get(name)!r}'
    for name in dict.fromkeys([*first, *own])
    if first.get(name) != own.get(name)
  ]
  wrong = np.flatnonzero(gather(np.int32(bool(differing))))
  if len(wrong):
    shown = '\n  '.join(differing) if differing else 'see the message of those processes'
    raise HostError(
      f'process(es) {wrong.tolist()} have another {what} than process 0 (there -> here):\n  '
      f'{shown}\nStart every process with the same configuration and the same code.'
    )


def first_does(work: Callable[[], Any]) -> Any:
  """Calls `work` on process 0 only; an error there ends all processes with the same message.

  Returns:
    What `work` returns on process 0, None elsewhere.

  Raises:
    HostError: on the other processes, where `work` failed on process 0, which raises the original.
  """
  error: BaseException | None = None
  result = None
  if count() == 1:
    return work()
  if is_first():
    try:
      result = work()
    except Exception as caught:
      error = caught
  said = broadcast(None if error is None else f'{type(error).__name__}: {error}')
  if error is not None:
    raise error
  if said is not None:
    raise HostError(f'process 0 has failed: {said}')
  return result
