"""What a comparison has finished, on disk."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import threading
from typing import Any

from dapt_jax.training import writers


class Ledger:
  """Finished candidates on disk, so that a stopped comparison goes on where it was."""

  def __init__(self, path: str | os.PathLike[str] | None) -> None:
    self.path = None if path is None else pathlib.Path(path)
    self.rows: dict[str, list[dict[str, Any]]] = {}
    self._lock = threading.Lock()
    if self.path is not None and self.path.exists():
      text = self.path.read_text(encoding='utf-8')
      whole = text[: text.rfind('\n') + 1]
      if whole != text:  # the last line of a run that was killed while writing
        with writers.atomic(self.path) as handle:
          handle.write(whole)
      for line in whole.splitlines():
        entry = json.loads(line)
        self.rows[entry['label']] = entry['rows']

  def add(self, label: str, rows: list[dict[str, Any]]) -> None:
    """Keeps the rows of one finished candidate.

    Raises:
      OSError: they could not be written (a full disk, say); the file is as before.
    """
    with self._lock:
      if self.path is not None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _append(self.path, json.dumps({'label': label, 'rows': rows}) + '\n')
      self.rows[label] = rows


def _append(path: pathlib.Path, line: str) -> None:
  """Adds a line whole or not at all."""
  with path.open('ab', buffering=0) as file:
    start = file.seek(0, os.SEEK_END)
    data = line.encode()
    try:
      if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
      file.truncate(start)
      raise OSError(error.errno, f'cannot keep results: {error.strerror}', str(path)) from error
