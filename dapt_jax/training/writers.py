"""Where metrics go: JSON lines, the terminal, TensorBoard; and small atomic files."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TextIO

import numpy as np
import tqdm

PathLike = str | os.PathLike[str]

#: Arrays up to this many elements are written whole, larger ones as a summary.
MAX_LISTED = 64


class Writer(Protocol):
  """What the loop asks of a writer."""

  def truncate(self, from_step: int) -> None:
    """Forgets what was written for steps >= `from_step`; called once, before the first write."""

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Takes the metrics (host values) after `step` updates."""

  def close(self) -> None:
    """Releases files."""


def jsonable(value: Any) -> Any:
  """`value` as plain JSON data.

  Arrays up to 64 elements become (nested) lists, larger ones a summary of size, mean, std, min and
  max; non-finite numbers become the strings 'nan', 'inf', '-inf', which `float` reads back; paths
  become text.

  Raises:
    TypeError: the value has no JSON form (a function, say).
  """
  if value is None or isinstance(value, bool | int | str):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else str(value)
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if hasattr(value, 'to_dict'):
    value = value.to_dict()
  if isinstance(value, Mapping):
    return {str(k): jsonable(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [jsonable(v) for v in value]
  if hasattr(value, 'dtype') and hasattr(value, '__array__'):
    array = np.asarray(value)
    if array.dtype.kind == 'V' or np.issubdtype(array.dtype, np.floating):
      array = array.astype(np.float64)  # bfloat16 and its kin have no Python form
    if array.ndim and array.size > MAX_LISTED:
      stats = {n: float(getattr(array, n)()) for n in ('mean', 'std', 'min', 'max')}
      return {'size': array.size, **jsonable(stats)}
    return jsonable(array.tolist())
  raise TypeError(f'{value!r} ({type(value).__name__}) cannot be written as JSON')


@contextlib.contextmanager
def atomic(path: PathLike) -> Iterator[TextIO]:
  """Opens a text file that replaces `path` only once it is written whole.

  Yields:
    A file handle for UTF-8 text. If the body raises, `path` is as before and nothing is left
    behind.
  """
  target = pathlib.Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  part = target.with_name(f'{target.name}.tmp-{os.getpid()}')
  try:
    with part.open('w', encoding='utf-8', newline='') as handle:
      yield handle
      handle.flush()
      os.fsync(handle.fileno())
    part.replace(target)
  except BaseException:
    part.unlink(missing_ok=True)
    raise


def write_json(path: PathLike, obj: Any) -> None:
  """Writes `obj` as indented JSON, all or nothing; see `jsonable` for what is accepted."""
  text = json.dumps(jsonable(obj), indent=2, allow_nan=False)
  with atomic(path) as handle:
    handle.write(text + '\n')


def write_csv(path: PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes rows as CSV, all or nothing.

  Args:
    path: the file; its folder is made.
    rows: mappings from column to value. Columns come in the order of first appearance; a row
      without a column leaves it empty.

  Raises:
    ValueError: there are no rows, so no columns either.
  """
  if not rows:
    raise ValueError(f'no rows to write to {os.fspath(path)}: a CSV file needs at least one')
  columns = list(dict.fromkeys(name for row in rows for name in row))
  buffer = io.StringIO()
  table = csv.DictWriter(buffer, columns, lineterminator='\n')
  table.writeheader()
  table.writerows({k: jsonable(v) for k, v in row.items()} for row in rows)
  with atomic(path) as handle:
    handle.write(buffer.getvalue())


def read_jsonl(path: PathLike) -> list[dict[str, Any]]:
  """The records of a JSON-lines file; a half-written last line is left out.

  Raises:
    ValueError: a line other than the last is no JSON object, so the file is damaged, not cut short.
  """
  lines = pathlib.Path(path).read_text(encoding='utf-8', errors='replace').split('\n')
  records = []
  for number, line in enumerate(lines, 1):
    try:
      record = json.loads(line) if line.strip() else None
      if record is not None and not isinstance(record, dict):
        raise ValueError('not a JSON object')
    except ValueError as error:
      if number == len(lines):  # every whole line ends in a newline, so the last is ''
        break
      raise ValueError(f'{os.fspath(path)}, line {number}: {error}') from error
    if record is not None and number < len(lines):
      records.append(record)
  return records


class JsonlWriter:
  """Appends one JSON object a line: `{'step': 100, 'loss': 0.31, ...}`."""

  def __init__(self, path: PathLike):
    """Args: path: the file; its folder is made."""
    self.path = pathlib.Path(path)
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self._handle: TextIO | None = None

  def truncate(self, from_step: int) -> None:
    """Drops records with `step >= from_step` and a half-written last line."""
    self.close()
    if not self.path.exists():
      return
    kept = [r for r in read_jsonl(self.path) if r.get('step', -1) < from_step]
    with atomic(self.path) as handle:
      handle.writelines(json.dumps(record) + '\n' for record in kept)

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Appends one record.

    Raises:
      OSError: the line could not be written (a full disk, say); names the file.
    """
    line = json.dumps({'step': step, **jsonable(metrics)}, allow_nan=False) + '\n'
    try:
      if self._handle is None:
        self._handle = self.path.open('a', encoding='utf-8')
      self._handle.write(line)
      self._handle.flush()
    except OSError as error:
      raise OSError(
        error.errno, f'cannot append metrics: {error.strerror}', str(self.path)
      ) from error

  def close(self) -> None:
    """Closes the file; a later write opens it again."""
    if self._handle is not None:
      handle, self._handle = self._handle, None
      with contextlib.suppress(OSError):  # an unflushed line of a full disk was reported by `write`
        handle.close()


class TerminalWriter:
  """Prints one line per record, above a progress bar if there is one."""

  def __init__(self, stream: TextIO | None = None):
    """Args: stream: where to print; standard output if None."""
    self._stream = stream

  def truncate(self, from_step: int) -> None:
    """Nothing to forget: what is printed stays printed."""

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Prints the scalar metrics."""
    numbers = {k: v for k, v in metrics.items() if np.ndim(v) == 0}
    text = '  '.join(f'{k} {v:.4g}' if _is_number(v) else f'{k} {v}' for k, v in numbers.items())
    tqdm.tqdm.write(f'step {step}  {text}', file=self._stream or sys.stdout)

  def close(self) -> None:
    """Nothing to release."""


class TensorboardWriter:
  """Writes scalars, and arrays as histograms, for TensorBoard; needs the `tensorboard` extra."""

  def __init__(self, directory: PathLike):
    """Args: directory: where event files go.

    Raises:
      ImportError: tensorboardX is not installed.
    """
    try:
      import tensorboardX
    except ImportError as error:
      raise ImportError(
        "TensorBoard output needs tensorboardX: pip install 'dapt_jax[tensorboard]'"
      ) from error
    self._make = tensorboardX.SummaryWriter
    self._directory = os.fspath(directory)
    self._writer: Any = None

  def truncate(self, from_step: int) -> None:
    """Tells TensorBoard to hide events with `step >= from_step`."""
    self.close()
    self._writer = self._make(self._directory, purge_step=from_step)

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Adds one event per metric; text is left out."""
    if self._writer is None:
      self._writer = self._make(self._directory)
    for name, value in metrics.items():
      if np.ndim(value):
        self._writer.add_histogram(name, np.asarray(value, np.float64), step)
      elif _is_number(value):
        self._writer.add_scalar(name, float(value), step)
    self._writer.flush()

  def close(self) -> None:
    """Closes the event file; a later write opens a new one."""
    if self._writer is not None:
      self._writer.close()
      self._writer = None


def _is_number(value: Any) -> bool:
  return not isinstance(value, str | bytes) and value is not None and np.ndim(value) == 0
