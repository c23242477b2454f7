"""SIGTERM and Ctrl-C as a request to stop after the step in progress."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from dapt_jax.training import hosts

#: Exit code of a run that was stopped, saved, and can go on (EX_TEMPFAIL of sysexits.h). Job
#: schedulers and shell scripts may run the same command again when they see it.
EXIT_RESUMABLE = 75


class Interrupted(SystemExit):
  """A run was asked to stop and has saved its state; uncaught, the process ends with code 75.

  Attributes:
    step: updates done and saved.
  """

  def __init__(self, step: int):
    super().__init__(EXIT_RESUMABLE)
    self.step = step


class Stop:
  """Whether, and by which signal, a stop was asked for."""

  def __init__(self) -> None:
    self.signal: signal.Signals | None = None

  @property
  def requested(self) -> bool:
    """Whether to stop after this step."""
    return self.signal is not None

  def handle(self, signum: int, frame: object) -> None:
    """The signal handler. A second Ctrl-C does not wait for the step to end."""
    if self.requested and signum == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal = signal.Signals(signum)
    # Not print: the signal may have come in the middle of one.
    os.write(2, f'\n{self.signal.name}: stopping after this step\n'.encode())

  def interrupted(self, name: str, step: int, num_steps: int, directory: object) -> Interrupted:
    """Says in one line what was saved and how to go on; returns the exception to raise."""
    reason = self.signal.name if self.signal is not None else 'request'
    print(
      f'{name}: stopped by {reason} at step {step} of {num_steps}, saved in {directory}; run the '
      f'same command again to go on (exit code {EXIT_RESUMABLE})',
      file=sys.stderr,
      flush=True,
    )
    return Interrupted(step)


def together(stop: Stop) -> Callable[[int], bool]:
  """`agreed(step)`: whether to stop now; on several processes the same answer everywhere.

  They ask each other about once a second, since asking waits for the steps under way.
  """
  if hosts.count() == 1:
    return lambda step: stop.requested
  asked, begun = 0, time.monotonic()
  wait = 1

  def agreed(step: int) -> bool:
    nonlocal asked, begun, wait
    asked += 1
    if asked < wait:
      return False
    rate = asked / max(time.monotonic() - begun, 1e-3)
    every = hosts.gather(np.array([stop.requested, rate], np.float32))
    asked, begun, wait = 0, time.monotonic(), int(np.clip(every[0, 1], 1, 100))
    return bool(every[:, 0].any())

  return agreed


@contextlib.contextmanager
def catch(*, enabled: bool = True) -> Iterator[Stop]:
  """Turns SIGTERM and SIGINT into `Stop.requested` inside the block.

  Only the main thread may set handlers; elsewhere (and if not `enabled`) signals act as before.

  Yields:
    The `Stop` to look at between steps. Handlers are put back at the end.
  """
  stop = Stop()
  if not enabled or threading.current_thread() is not threading.main_thread():
    yield stop
    return
  before = {}
  try:
    for signum in (signal.SIGTERM, signal.SIGINT):
      before[signum] = signal.signal(signum, stop.handle)
    yield stop
  finally:
    for signum, handler in before.items():
      signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
