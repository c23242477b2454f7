"""A progress bar on a terminal, sparse lines in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np
import tqdm

#: What to show: a metric's name, or (value, limit) names shown as 'value/limit'.
Shown = Sequence[str | tuple[str, str]]

#: Without a terminal: a line at each tenth of the run, and at least this often (seconds).
_LINE_EVERY = 60.0


class Progress:
  """Shows step, chosen metrics, speed and time left, on standard error.

  On a terminal this is one tqdm bar. Elsewhere (a log file, a batch job) carriage returns would
  make an unreadable line of megabytes, so a plain line is printed at every tenth of the run, and at
  least once a minute when metrics come that often.
  """

  def __init__(
    self,
    total: int,
    *,
    initial: int = 0,
    name: str = '',
    shown: Shown = ('loss', ('cost', 'budget')),
    stream: TextIO | None = None,
  ):
    """Starts the clock.

    Args:
      total: steps of the whole run.
      initial: steps done before (resumed runs).
      name: shown in front.
      shown: which metrics to show; those a run does not report are left out.
      stream: where to print; standard error if None.
    """
    self._stream = stream or sys.stderr
    self._name, self._shown, self._total, self._initial = name, shown, total, initial
    self._start = self._last_time = time.monotonic()
    self._last_step = initial
    self._bar = None
    if self._stream.isatty():
      self._bar = tqdm.tqdm(
        total=total, initial=initial, desc=name, file=self._stream, dynamic_ncols=True
      )

  def advance(self) -> None:
    """One more step was sent to the device."""
    if self._bar is not None:
      self._bar.update(1)

  def report(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Shows metrics that belong to `step`."""
    text = self._text(metrics)
    if self._bar is not None:
      self._bar.set_postfix_str(text)
      return
    now = time.monotonic()
    tenth = step * 10 // self._total > self._last_step * 10 // self._total
    first = self._last_step == self._initial
    if not (first or tenth or step == self._total or now - self._last_time >= _LINE_EVERY):
      return
    done, elapsed = step - self._initial, now - self._start
    left = tqdm.tqdm.format_interval(elapsed / max(done, 1) * (self._total - step))
    rate = f'{done / elapsed:.3g} steps/s' if elapsed > 0 else ''
    parts = [f'{self._name} step {step}/{self._total}'.strip(), text, rate, f'{left} left']
    print('  '.join(p for p in parts if p), file=self._stream, flush=True)
    self._last_step, self._last_time = step, now

  def close(self) -> None:
    """Leaves the bar as it stands and ends its line."""
    if self._bar is not None:
      self._bar.close()

  def _text(self, metrics: Mapping[str, Any]) -> str:
    parts = []
    for item in self._shown:
      names = (item,) if isinstance(item, str) else item
      values = [metrics[n] for n in names if n in metrics and np.ndim(metrics[n]) == 0]
      if names[0] in metrics and values:
        parts.append(f'{names[0]} ' + '/'.join(f'{float(v):.4g}' for v in values))
    return ', '.join(parts)
