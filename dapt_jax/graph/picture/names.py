"""Short names for a picture: what paths have in common, and where they differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SEPARATORS = '/_.:'


def shared(names: Sequence[str]) -> str:
  """The path that all names start with: 'stage1_block1' of '.../conv1' and '.../conv2'."""
  first = min(names, key=len, default='')
  for end in range(len(first), 0, -1):
    ends = all(n[:end] == first[:end] and n[end : end + 1] in ('', *_SEPARATORS) for n in names)
    if ends and first[end - 1] not in _SEPARATORS:
      return first[:end]
  return ''


def below(name: str, prefix: str) -> str:
  """What a name adds to the path before it; its last part where it adds nothing."""
  rest = name.removeprefix(prefix).lstrip(_SEPARATORS)
  return rest or name.rpartition('/')[2]


def summary(names: Sequence[str]) -> str:
  """One name for several: 'stage1_block[1…9]/conv1', or the first and the number of the others."""
  names = list(dict.fromkeys(names))
  if len(names) == 1:
    return names[0]
  parts = [re.findall(r'\d+|\D+', n) for n in names]
  differ = {i for p in parts for i, t in enumerate(p) if t != (parts[0] + [''] * len(p))[i]}
  if len({len(p) for p in parts}) == 1 and len(differ) == 1:
    (at,) = differ
    parts[0][at] = f'[{parts[0][at]}…{parts[-1][at]}]'
    return ''.join(parts[0])
  return f'{names[0]} +{len(names) - 1}'


def marks(names: Sequence[str]) -> list[str]:
  """What tells names apart, '1', '2', ... of 'block1', 'block2'; else their ordinal numbers."""
  parts = [re.findall(r'\d+|\D+', n) for n in names]
  if len({len(p) for p in parts}) == 1:
    differ = [i for i in range(len(parts[0])) if len({p[i] for p in parts}) > 1]
    if len(differ) == 1 and len({p[differ[0]] for p in parts}) == len(names):
      return [p[differ[0]] for p in parts]
  return [str(i) for i in range(1, len(names) + 1)]


def middle(text: str, size: int) -> str:
  """The text, its middle cut out where it is longer than `size` characters."""
  if len(text) <= size:
    return text
  head = (size - 1) // 2
  return f'{text[:head]}…{text[-(size - 1 - head) :]}'


def span(values: Sequence[str]) -> str:
  """'64', or '64…992' for the first and the last of several."""
  distinct = list(dict.fromkeys(values))
  return distinct[0] if len(distinct) == 1 else f'{distinct[0]}…{distinct[-1]}'
