"""How fast a run is, and what it needs: rates, compilation, waiting, memory, a trace."""

from __future__ import annotations

import functools
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax

from dapt_jax.training import hosts, memory
from dapt_jax.training import workdir as workdir_lib
from dapt_jax.training import writers as writers_lib

#: Peak of a device, in floating point operations a second: dense products of bfloat16, by the
#: beginning of `jax.Device.device_kind`; from the vendors' data sheets.
PEAKS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
  'NVIDIA A100': 312e12,
  'NVIDIA H100': 989e12,
  'NVIDIA H200': 989e12,
}
#: Steps before a trace: the first ones compile.
_SKIPPED = 5


class Work(NamedTuple):
  """What one step of a run does, all devices together; None where it is not known.

  Attributes:
    examples: that pass through a network.
    flops: floating point operations, forwards and backwards.
  """

  examples: float | None = None
  flops: float | None = None


def peak(device: jax.Device) -> float | None:
  """Peak of a device in operations a second; None where it is not known."""
  kinds = [kind for kind in PEAKS if device.device_kind.startswith(kind)]
  return PEAKS[max(kinds, key=len)] if kinds else None


class Meter:
  """The clock of a run; every reading is about the steps since the one before."""

  def __init__(self, work: Work, devices: int, *, device: jax.Device | None = None):
    """Starts the clock.

    Args:
      work: of a step.
      devices: that share it.
      device: one of them; the first of this process if None.
    """
    _listen()
    self._work, self._devices = work, devices
    self._device = device or jax.local_devices()[0]
    self._last = (0, time.monotonic(), 0.0, _compiled[0])

  def read(self, steps: int, waited: float) -> dict[str, float]:
    """What a run has done since the last reading.

    Args:
      steps: done by this process since it began.
      waited: seconds that it waited for batches since it began.

    Returns:
      `steps_per_second`, `waited_share`, `compile_seconds`, `resident_mb`; where known
      `examples_per_second`, `mfu` (share of the devices' peak), `device_mb` (peak of the first
      device). Rates leave out the time of compilation.
    """
    before, now = self._last, (steps, time.monotonic(), waited, _compiled[0])
    self._last = now
    done, seconds, waiting, compiling = (b - a for a, b in zip(before, now))
    rate = done / max(seconds - compiling, 1e-9)
    out = {
      'steps_per_second': rate,
      'waited_share': waiting / max(seconds, 1e-9),
      'compile_seconds': compiling,
      'resident_mb': memory.resident(),
    }
    if self._work.examples is not None:
      out['examples_per_second'] = rate * self._work.examples
    top = peak(self._device)
    if self._work.flops is not None and top is not None:
      out['mfu'] = rate * self._work.flops / (top * self._devices)
    stats = self._device.memory_stats() or {}
    if 'peak_bytes_in_use' in stats:
      out['device_mb'] = stats['peak_bytes_in_use'] / 1e6
    return out


class Clock:
  """Writes how fast a run is: to `speed.jsonl`, and to the given writers as `speed/...`.

  Apart from the metrics, which are the same whenever and wherever a run is repeated. Of several
  processes the first writes, and is traced.
  """

  def __init__(
    self,
    workdir: workdir_lib.Workdir | None,
    writers: Sequence[writers_lib.Writer],
    start: int,
    devices: int,
    work: Work | None,
    profile: int,
  ):
    """Starts the clock.

    Args:
      workdir: of the run; None to write to `writers` only.
      writers: the given ones.
      start: steps done before.
      devices: that the run is spread over.
      work: of a step.
      profile: so many steps are traced with JAX's profiler, for TensorBoard or Perfetto.
    """
    first = hosts.is_first()
    self._meter, self._start, self._done = Meter(work or Work(), devices), start, 0
    self._writers = writers if first else ()
    self._profile, self._running = profile if first else 0, False
    root = workdir.path if workdir is not None else pathlib.Path()
    self._trace, self._file = root / 'profile', None
    if workdir is not None and first:
      self._file = writers_lib.JsonlWriter(root / 'speed.jsonl')
      self._file.truncate(start + 1)

  def before_step(self) -> None:
    """Called before every step: begins and ends the trace in its time."""
    if self._profile and self._done == _SKIPPED:
      jax.profiler.start_trace(str(self._trace))
      self._running = True
    if self._done == _SKIPPED + self._profile:
      self._end_trace()
    self._done += 1

  def write(self, step: int, waited: float) -> None:
    """Writes what was measured since the last time; `waited`: seconds for batches, in all."""
    found = self._meter.read(step - self._start, waited)
    if self._file is not None:
      self._file.write(step, found)
    for writer in self._writers:
      writer.write(step, {f'speed/{name}': value for name, value in found.items()})

  def close(self) -> None:
    """Ends trace and file."""
    self._end_trace()
    if self._file is not None:
      self._file.close()

  def _end_trace(self) -> None:
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
      print(f'trace of {self._profile} steps in {self._trace}', file=sys.stderr, flush=True)


#: Seconds that this process has spent on compilation, as JAX reports them.
_compiled = [0.0]


@functools.cache
def _listen() -> None:
  """Has JAX report its compilations; listeners are for the whole process."""

  def heard(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith('/jax/core/compile/'):
      _compiled[0] += duration_secs

  jax.monitoring.register_event_duration_secs_listener(heard)
