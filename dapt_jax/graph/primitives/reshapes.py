"""Which axes of a reshape come from which."""

from __future__ import annotations

from dapt_jax.graph import program as program_lib

Run = tuple[list[int], list[int]]


def segments(old: tuple[int, ...], new: tuple[int, ...]) -> list[Run]:
  """Splits a reshape into the smallest runs of axes with equal products.

  Args:
    old: shape before, without zeros.
    new: shape after.

  Returns:
    [(axes of old, axes of new), ...]; axes of size one may form runs of their own.
  """
  out: list[Run] = []
  i = j = 0
  while i < len(old) or j < len(new):
    if i < len(old) and old[i] == 1 and (j >= len(new) or new[j] != 1):
      out.append(([i], []))
      i += 1
      continue
    if j < len(new) and new[j] == 1 and (i >= len(old) or old[i] != 1):
      out.append(([], [j]))
      j += 1
      continue
    a, b, p, q = [i], [j], old[i], new[j]
    while p != q:
      if p < q:
        i += 1
        a.append(i)
        p *= old[i]
      else:
        j += 1
        b.append(j)
        q *= new[j]
    out.append((a, b))
    i, j = i + 1, j + 1
  return out


def origin(program: program_lib.Program, node: program_lib.Node, axis: int) -> int | None:
  """The operand's axis that an axis of the result is (a part of), or None.

  Args:
    program: the program.
    node: a reshape, broadcast_in_dim or squeeze of it.
    axis: axis of the result.
  """
  old, new = program.shape(node.ins[0]), program.shape(node.outs[0])
  if node.name == 'squeeze':
    gone = {d % len(old) for d in node.params['dimensions']}
    return [i for i in range(len(old)) if i not in gone][axis]
  if node.name == 'broadcast_in_dim':
    where = {d: i for i, d in enumerate(node.params['broadcast_dimensions'])}
    found = where.get(axis)
    return found if found is not None and old[found] == new[axis] else None
  if 0 in old:
    return None
  sized = [[i for i in a if old[i] > 1] for a, b in segments(old, new) if axis in b]
  return sized[0][0] if sized and len(sized[0]) == 1 else None
