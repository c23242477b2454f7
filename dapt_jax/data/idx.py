"""The IDX format of MNIST and its relatives: a big-endian header, then bytes."""

from __future__ import annotations

import gzip
import math
import pathlib
import struct
import zlib

import numpy as np

_UNSIGNED_BYTE = 0x08


def read_bytes(path: str | pathlib.Path) -> bytes:
  """Returns the content of a file, unpacked where its name ends in '.gz'.

  Raises:
    ValueError: the compressed file is damaged or cut short.
  """
  path = pathlib.Path(path)
  if path.suffix != '.gz':
    return path.read_bytes()
  try:
    with gzip.open(path, 'rb') as f:
      return f.read()
  except (EOFError, gzip.BadGzipFile, zlib.error) as e:
    raise ValueError(f'{path}: damaged or incomplete gzip file ({e}). Fetch it again.') from e


def parse(content: bytes, what: str) -> np.ndarray:
  """Parses an IDX file of unsigned bytes.

  The header is two zero bytes, the element type, the rank r, and r lengths of 32 bits; the
  elements follow in row-major order (the file format of the MNIST database, LeCun et al.).

  Args:
    content: the whole file, unpacked.
    what: name of the file, for messages.

  Returns:
    u8 array of the stored shape; read-only.

  Raises:
    ValueError: another format, another element type, or a length that contradicts the header.
  """
  if len(content) < 4 or content[:2] != b'\0\0' or not 1 <= content[3] <= 4:
    raise ValueError(
      f'{what}: not an IDX file (first bytes {content[:4].hex() or "none"}; expected 0000, an '
      'element type and a rank of 1..4). Is it still compressed, or an error page?'
    )
  kind, rank = content[2], content[3]
  if kind != _UNSIGNED_BYTE:
    raise ValueError(f'{what}: element type 0x{kind:02x}; only unsigned bytes (0x08) are read.')
  start = 4 + 4 * rank
  if len(content) < start:
    raise ValueError(f'{what}: cut short inside the header ({len(content)} bytes). Fetch it again.')
  shape = struct.unpack(f'>{rank}I', content[4:start])
  expected = start + math.prod(shape)
  if len(content) != expected:
    problem = 'cut short' if len(content) < expected else 'longer than its header says'
    raise ValueError(
      f'{what}: {problem}: {len(content)} bytes where shape {shape} needs {expected}. Fetch it '
      'again.'
    )
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read(path: str | pathlib.Path) -> np.ndarray:
  """Reads an IDX file, plain or '.gz'; see `parse` and `read_bytes` for the errors."""
  return parse(read_bytes(path), str(path))
