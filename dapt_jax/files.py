"""Artefacts on disk: a JSON head and one payload beside it, checked against each other."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Pair:
  """A kind of artefact that is two files, `NAME` + `suffix` and a JSON head.

  Attributes:
    format: name of the format, written into the head.
    version: version of the format, likewise.
    what: how messages call it, with its article: 'an architecture'.
    suffix: of the payload, with its dot.
    required: entries that a head must have besides format, version and checksum.
    head_suffix: of the head; kinds that may share a name have different ones.
  """

  format: str
  version: int
  what: str
  suffix: str
  required: tuple[str, ...] = ()
  head_suffix: str = '.json'

  def paths(self, path: str | os.PathLike[str]) -> tuple[pathlib.Path, pathlib.Path]:
    """(head, payload) of a path given with or without one of the two suffixes."""
    path = pathlib.Path(path)
    if not path.name:
      raise ValueError(f'path is {str(path)!r}, which names no file; give one for {self.what}')
    stem = path.name
    for suffix in (self.head_suffix, self.suffix):
      stem = stem.removesuffix(suffix) if stem != suffix else stem
    return path.with_name(stem + self.head_suffix), path.with_name(stem + self.suffix)

  def save(self, path: str | os.PathLike[str], head: Mapping[str, Any], payload: bytes) -> None:
    """Writes both files under temporary names, then renames them: a failure leaves what was there.

    Args:
      path: where to.
      head: JSON-ready entries; NumPy scalars and arrays become numbers and lists.
      payload: content of the file beside it.

    Raises:
      ValueError: if the head's place is taken by an artefact of another kind.
      OSError: if the disk refuses.
    """
    head_path, payload_path = self.paths(path)
    self._check_free(head_path)
    full = {
      'format': self.format,
      'version': self.version,
      'sha256': hashlib.sha256(payload).hexdigest(),
      **head,
    }
    text = json.dumps(full, indent=2, default=_plain).encode()
    head_path.parent.mkdir(parents=True, exist_ok=True)
    replace([(payload_path, payload), (head_path, text)], self.what)

  def load(self, path: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    """Reads (head, payload).

    Raises:
      FileNotFoundError: if one of the two files is missing.
      ValueError: for a foreign or damaged file; the message says which and what to do.
    """
    head_path, payload_path = self.paths(path)
    for file in (head_path, payload_path):
      if not file.is_file():
        raise FileNotFoundError(
          f'{file} is missing; {self.what} is two files, {head_path.name} and {payload_path.name}'
        )
    head = self._read_head(head_path)
    data = payload_path.read_bytes()
    if hashlib.sha256(data).hexdigest() != head['sha256']:
      raise ValueError(
        f'{payload_path} is damaged or belongs to another artefact: its SHA-256 is not the one in '
        f'{head_path.name}; copy both files again or write them again'
      )
    return head, data

  def _read_head(self, path: pathlib.Path) -> dict[str, Any]:
    try:
      head = json.loads(path.read_text(encoding='utf-8'))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
      raise ValueError(
        f'{path} is not readable JSON ({error}); it is damaged or not {self.what}'
      ) from error
    found = head.get('format') if isinstance(head, dict) else type(head).__name__
    if found != self.format:
      raise ValueError(f'{path} is not {self.what}: its format is {found!r}, not {self.format!r}')
    if head.get('version') != self.version:
      raise ValueError(
        f'{path} has version {head.get("version")!r}, this code reads version {self.version}; '
        'save it again with the code that wrote it'
      )
    missing = {'sha256', *self.required} - set(head)
    if missing:
      raise ValueError(f'{path} lacks {sorted(missing)}; it is damaged')
    return head

  def _check_free(self, path: pathlib.Path) -> None:
    """Two artefacts of one name would share the head: the second would orphan the first."""
    try:
      head = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
      return
    found = head.get('format', self.format) if isinstance(head, dict) else type(head).__name__
    if found != self.format:
      raise ValueError(
        f'{path} holds something else (format {found!r}); save {self.what} under another name'
      )


def replace(files: Sequence[tuple[pathlib.Path, bytes]], what: str) -> None:
  """Writes all files beside their places first, then renames them: a full disk changes nothing.

  Args:
    files: (path, content) pairs.
    what: how the message of a failure calls them.

  Raises:
    OSError: if the disk refuses; nothing has changed then.
  """
  drafts = [(f.with_name(f'.{f.name}.{os.getpid()}.tmp'), f, data) for f, data in files]
  try:
    for draft, _, data in drafts:
      draft.write_bytes(data)
    for draft, file, _ in drafts:
      os.replace(draft, file)
  except OSError as error:
    for draft, _, _ in drafts:
      draft.unlink(missing_ok=True)
    raise OSError(
      error.errno, f'could not save {what} ({error.strerror})', str(files[-1][0])
    ) from error


def _plain(value: Any) -> Any:
  """JSON form of NumPy scalars and arrays."""
  return value.tolist() if hasattr(value, 'tolist') else str(value)
