"""The one training loop: drives a pure step function, and can be stopped and resumed anywhere."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dapt_jax import types
from dapt_jax.training import begin as begin_lib
from dapt_jax.training import best as best_lib
from dapt_jax.training import hosts, layout, recording, runner, speed, stopping
from dapt_jax.training import prefetch as prefetch_lib
from dapt_jax.training import progress as progress_lib
from dapt_jax.training import store as store_lib
from dapt_jax.training import workdir as workdir_lib
from dapt_jax.training import writers as writers_lib

Update = Callable[[Any, Any], tuple[Any, Mapping[str, Any]]]
OnMetrics = Callable[[int, Any, dict[str, Any]], Mapping[str, Any] | None]


class RunResult(NamedTuple):
  """What a finished run returns.

  Attributes:
    state: the last state, in the layout of the state that was passed in.
    metrics: the last logged metrics (host values).
    resumed_from: the step the run went on from; 0 for a fresh run.
  """

  state: Any
  metrics: dict[str, Any]
  resumed_from: int


def run(
  update: Update,
  state: types.ArrayTree,
  batches: Callable[[int], Any],
  *,
  num_steps: int,
  workdir: workdir_lib.Workdir | None = None,
  checkpoint_every: int | None = None,
  keep: int = 3,
  keep_best: best_lib.Best | None = None,
  begin: begin_lib.Begin | None = None,
  log_every: int = 50,
  writers: Sequence[writers_lib.Writer] = (),
  progress: bool = True,
  shown: progress_lib.Shown = ('loss', ('cost', 'budget')),
  name: str = 'train',
  finite: Sequence[str] | None = None,
  on_metrics: OnMetrics | None = None,
  prefetch: int = 2,
  work: speed.Work | None = None,
  profile: int = 0,
) -> RunResult:
  """Runs `state, metrics = update(state, batches(i))` for i = 0, 1, ..., num_steps - 1.

  With a work directory the run writes checkpoints and `metrics.jsonl`, goes on from the newest
  checkpoint, and ends bit for bit as if it had never been stopped, because `update` is pure and
  `batches` depends on nothing but the step. SIGTERM and Ctrl-C let the step in progress finish,
  save, and raise `Interrupted`. Steps are counted from 1 in everything written: step s is the state
  after s updates.

  Args:
    update: a `runner.Mapped` from `runner.make_update`, or any compiled `(state, batch) -> (state,
      metrics)`. Metrics are a flat mapping of scalars or arrays. Donated states are copies of the
      one passed here.
    state: a fresh initial state, also when resuming: its structure is what a checkpoint must have.
    batches: `batches(i)` returns the batch of update i; a pure function of i. With `prefetch` it is
      called from other threads.
    num_steps: updates in the whole run, those before a stop included.
    workdir: an opened work directory (`workdir.open_workdir`), or None to write nothing.
    checkpoint_every: save every so many steps; None saves at the end and on a stop only.
    keep: how many of the newest checkpoints to keep.
    keep_best: which checkpoints to keep besides them.
    begin: where a run begins that has no checkpoint of its own.
    log_every: fetch, check and write the metrics at step 1, at every multiple of this, and at the
      end.
    writers: further writers; they stay open.
    progress: show progress on standard error.
    shown: metrics in the progress display: names, or pairs shown as 'value/limit'.
    name: what the run is called in messages.
    finite: metrics that must be finite; None means all that `update` returns.
    on_metrics: `on_metrics(step, state, metrics)`, called with the fetched metrics at every logged
      step; what it returns (an evaluation, say) is written too. The state is lent: do not keep it.
    prefetch: how many batches are made ahead, by as many threads; 0 for none.
    work: what a step does, for examples a second and the share of the devices' peak.
    profile: so many steps are traced into `profile/` of the work directory.

  Returns:
    A `RunResult`.

  Raises:
    recording.NonFiniteError: a metric, or the state about to be saved, is not finite.
    stopping.Interrupted: the process was asked to stop; a `SystemExit` with code 75.
    checkpoint.CheckpointError: a checkpoint cannot be written, or none can be read.
    checkpoint.StructureError: the checkpoints belong to another configuration.
    runner.ReplicationError: a step on several devices does not synchronise what it must.
    ValueError: an argument is out of range, the work directory is beyond `num_steps`, `update`
      returns a state of another structure than it was given, or the metric of `keep_best` is
      missing.
  """
  _check_arguments(num_steps, checkpoint_every, log_every, keep_best)
  with contextlib.ExitStack() as stack:
    store = stack.enter_context(
      store_lib.Store(workdir, layout.as_arrays(state), keep, keep_best, begin)
    )
    start, current = store.start(num_steps)
    sinks = [*writers, *_own_writers(stack, workdir)] if hosts.is_first() else []
    recorder = recording.Recorder(sinks, done=start, finite=finite, last_good=store.last_good)
    if start == num_steps and workdir is not None:
      last = hosts.first_does(functools.partial(recording.last_record, workdir.metrics))
      return RunResult(current, hosts.broadcast(last), start)
    bar = _bar(stack, num_steps, start, name, shown) if progress and hosts.is_first() else None
    session = _Session(update, store, recorder, bar, on_metrics, start)
    devices = update.num_devices if isinstance(update, runner.Mapped) else 1
    clock = speed.Clock(workdir, writers, start, devices, work, profile)
    stack.enter_context(contextlib.closing(clock))
    stack.enter_context(_explained(name, session, num_steps))
    stop = stack.enter_context(stopping.catch(enabled=workdir is not None))
    agreed = stopping.together(stop)
    current = session.place(current)
    put = update.put_batch if isinstance(update, runner.Mapped) else None
    batches = stack.enter_context(prefetch_lib.prefetch(batches, prefetch, put=put, end=num_steps))
    for done in range(start + 1, num_steps + 1):
      clock.before_step()
      current, metrics = session.step(current, batches(done - 1), done, first=done == start + 1)
      last, stopped = done == num_steps, agreed(done)
      log = last or done == 1 or done % log_every == 0
      save = last or stopped or (checkpoint_every is not None and done % checkpoint_every == 0)
      session.record(done, current, metrics, write=log, save=save)
      if log:
        hosts.first_does(functools.partial(clock.write, done, batches.waited))
      if last or stopped:
        store.wait()
      if stopped:
        raise stop.interrupted(name, done, num_steps, store.directory)
    if hosts.any_of(stop.requested):  # while the last step was logged or saved
      raise stop.interrupted(name, num_steps, num_steps, store.directory)
    return RunResult(session.outside(current), recorder.last, start)


@dataclasses.dataclass
class _Session:
  """One process's part of a run: the step, where it runs, and who hears of it."""

  update: Update
  store: store_lib.Store
  recorder: recording.Recorder
  bar: progress_lib.Progress | None
  on_metrics: OnMetrics | None
  done: int

  def place(self, state: Any) -> Any:
    """A state as `update` takes it."""
    return self.update.place(state) if isinstance(self.update, runner.Mapped) else state

  def outside(self, state: Any) -> Any:
    """A state as the caller knows it."""
    return self.update.gather(state) if isinstance(self.update, runner.Mapped) else state

  def step(self, state: Any, batch: Any, done: int, *, first: bool) -> tuple[Any, Any]:
    """One update; what a step must keep to is checked after the first."""
    after, metrics = self.update(state, batch)
    if first:
      layout.check_same_structure(state, after)
      if not isinstance(metrics, Mapping):
        raise ValueError(f'update must return a mapping of metrics, got {type(metrics).__name__}')
      if isinstance(self.update, runner.Mapped):
        self.update.check_replicated(after, metrics)
    self.recorder.push(done, metrics)
    self.done = done
    if self.bar:
      self.bar.advance()
    return after, metrics

  def record(self, done: int, state: Any, metrics: Any, *, write: bool, save: bool) -> None:
    """Writes the metrics and saves the state, where asked to; the metrics are checked first."""
    if not (write or save):
      return
    record = self.recorder.fetch(done, metrics)
    if write:
      if self.on_metrics is not None:
        record.update(self.on_metrics(done, self.outside(state), dict(record)) or {})
      self.store.check(record)
      hosts.first_does(functools.partial(self.recorder.write, done, record))
      self.recorder.last = record
      if self.bar:
        self.bar.report(done, record)
    if save:
      self.store.save(done, self.outside(state), record if write else None)


@contextlib.contextmanager
def _explained(name: str, session: _Session, num_steps: int) -> Iterator[None]:
  """Says in one line where a run has failed and how to go on, and lets the error pass."""
  try:
    yield
  except Exception as error:
    where = session.store.directory
    remedy = f'; the same command goes on from the newest checkpoint in {where}' if where else ''
    print(
      f'{name}: failed after step {session.done} of {num_steps} ({type(error).__name__}){remedy}',
      file=sys.stderr,
      flush=True,
    )
    raise


def _own_writers(
  stack: contextlib.ExitStack, workdir: workdir_lib.Workdir | None
) -> list[writers_lib.Writer]:
  """The writer of `metrics.jsonl`, closed with the run; none without a work directory."""
  if workdir is None:
    return []
  return [stack.enter_context(contextlib.closing(writers_lib.JsonlWriter(workdir.metrics)))]


def _bar(
  stack: contextlib.ExitStack, num_steps: int, start: int, name: str, shown: progress_lib.Shown
) -> progress_lib.Progress:
  """The progress display, closed with the run."""
  if start:
    print(f'{name}: going on from step {start} of {num_steps}', file=sys.stderr, flush=True)
  bar = progress_lib.Progress(num_steps, initial=start, name=name, shown=shown)
  stack.callback(bar.close)
  return bar


def _check_arguments(
  num_steps: int,
  checkpoint_every: int | None,
  log_every: int,
  keep_best: best_lib.Best | None,
) -> None:
  for label, value in (
    ('num_steps', num_steps),
    ('log_every', log_every),
    ('checkpoint_every', checkpoint_every),
  ):
    if value is not None and value < 1:
      raise ValueError(f'{label} must be at least 1, got {value}')
  if keep_best is not None and (checkpoint_every or log_every) % log_every:
    raise ValueError(
      f'keep_best rates a checkpoint by the metrics logged at its step, so checkpoint_every='
      f'{checkpoint_every} must be a multiple of log_every={log_every}'
    )
