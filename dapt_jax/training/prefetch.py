"""Batches made ahead of the step that takes them, by threads beside the training."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent import futures
from typing import Any


class Prefetched:
  """The same `batches(i)`, of which the next ones are already being made; see `prefetch`.

  Attributes:
    waited: seconds that callers have waited for batches so far.
  """

  def __init__(
    self,
    batches: Callable[[int], Any],
    depth: int,
    put: Callable[[Any], Any] | None,
    end: int | None,
  ):
    """Use `prefetch`."""
    self.waited = 0.0
    self._batches, self._depth, self._put, self._end = batches, depth, put, end
    self._ahead: dict[int, futures.Future] = {}
    self._newest: tuple[Any, Any] | None = None
    self._threads = None
    if depth:
      self._threads = futures.ThreadPoolExecutor(depth, thread_name_prefix='prefetch')

  def __call__(self, step: int) -> Any:
    """Returns batch `step`, and has the next `depth` made; in any order, though in order it pays.

    Raises:
      Exception: what making this batch raised, with the traceback of the thread.
    """
    start = time.perf_counter()
    try:
      return self._make(step) if self._threads is None else self._take(step)
    finally:
      self.waited += time.perf_counter() - start

  def close(self) -> None:
    """Ends the threads; a batch that is being made is waited for."""
    if self._threads is not None:
      self._threads.shutdown(wait=True, cancel_futures=True)
    self._ahead.clear()

  def __enter__(self) -> Prefetched:
    return self

  def __exit__(self, *unused: object) -> None:
    self.close()

  def _take(self, step: int) -> Any:
    """A batch that a thread makes or has made."""
    assert self._threads is not None
    last = step + self._depth
    wanted = range(step, last + 1 if self._end is None else max(step + 1, min(last + 1, self._end)))
    for other in [k for k in self._ahead if k not in wanted]:
      self._ahead.pop(other).cancel()
    for k in wanted:
      if k not in self._ahead:
        self._ahead[k] = self._threads.submit(self._make, k)
    return self._ahead.pop(step).result()

  def _make(self, step: int) -> Any:
    """A batch on the devices; one that is the same object again is not copied to them again."""
    batch = self._batches(step)
    if self._put is None:
      return batch
    newest = self._newest
    if newest is None or newest[0] is not batch:
      self._newest = newest = (batch, self._put(batch))
    return newest[1]


def prefetch(
  batches: Callable[[int], Any],
  depth: int = 2,
  *,
  put: Callable[[Any], Any] | None = None,
  end: int | None = None,
) -> Prefetched:
  """Makes the next batches while a step runs: reading, decoding and augmentation off its path.

  The batches are those of `batches` whatever the order in which they are asked for, so a resumed
  run sees what it would have seen. An error is raised at the step it belongs to. Use it in a `with`
  statement, or call `close`, so that no thread is left.

  Args:
    batches: `batches(i)`, a pure function of i that returns new arrays. It is called from `depth`
      threads at a time, so that slow decoding is done in parallel (Pillow, NumPy and array_record
      let other threads work).
    depth: how many batches are made ahead; 0 makes each when it is asked for, without a thread.
    put: copies a batch to the devices, in the thread as well. A batch that is the very object of
      the one before (`batches = lambda _: data`) is put there once.
    end: number of batches; none from here on is made ahead.

  Returns:
    A callable `step -> batch`, and a context manager.

  Raises:
    ValueError: a negative depth.
  """
  if depth < 0:
    raise ValueError(f'prefetch must be 0 (none) or the number of batches made ahead, got {depth}')
  return Prefetched(batches, depth, put, end)
