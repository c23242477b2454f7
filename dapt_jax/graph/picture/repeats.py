"""Blocks that follow each other and are built alike, folded into one that stands for all."""

from __future__ import annotations

import dataclasses
from typing import Any

from dapt_jax.graph.picture.diagram import PORT, Diagram, Item, Link, renumbered, size

#: A fold has to save at least this many items.
_LEAST = 3


def fold(diagram: Diagram) -> Diagram:
  """The diagram with every run of alike blocks as one item of kind 'repeat'.

  Blocks are alike if they have the same items with the same links, kernels and written widths, and
  if all that leaves a block is the result of its last item. Widths read, widths after a cut, and
  cut branches may differ.

  Args:
    diagram: tidy.

  Returns:
    A new diagram.
  """
  for item in diagram.items:
    if item.body is not None:
      item.body = fold(item.body)
  tokens = [_token(diagram, i) for i in range(len(diagram.items))]
  start = 0
  runs = []
  while start < len(tokens):
    period, count = _best_run(diagram, tokens, start)
    if count > 1:
      runs.append((start, period, count))
    start += period * count
  for start, period, count in reversed(runs):
    diagram = _folded(diagram, start, period, count)
  return diagram


def _token(diagram: Diagram, number: int) -> Any:
  """Equal for items that play the same part in alike blocks."""
  item = diagram.items[number]
  links = tuple((k.source if k.source == PORT else k.source - number, bool(k.branch))
                for k in item.links)  # fmt: skip
  # What scales a stream is as wide as the stream, which may grow from block to block.
  written = size(item.writes) if item.kind == 'layer' else ()
  kept = (item.kind, item.text, written, len(item.reads), len(item.extras), links)
  if item.body is None:
    return kept
  inside = tuple(_token(item.body, i) for i in range(len(item.body.items)))
  return (*kept, inside, tuple(item.body.exits))


def _best_run(diagram: Diagram, tokens: list[Any], start: int) -> tuple[int, int]:
  """(items of a block, number of blocks) of the run here that saves most items; (1, 1) for none."""
  best = (1, 1)
  for period in range(1, (len(tokens) - start) // 2 + 1):
    count = 1
    block = tokens[start : start + period]
    while tokens[start + count * period : start + (count + 1) * period] == block:
      count += 1
    while count > 1 and not _closed(diagram, start, period, count):
      count -= 1
    saved = period * (count - 1)
    if saved >= _LEAST and saved > best[0] * (best[1] - 1):
      best = (period, count)
  return best


def _closed(diagram: Diagram, start: int, period: int, count: int) -> bool:
  """Whether every block reads the last item of the block before, and nothing else of others."""
  end = start + period * count
  block = lambda number: (number - start) // period
  for number, item in enumerate(diagram.items):
    inside = start <= number < end
    for source in (k.source for k in item.links if k.source != PORT):
      if inside and block(source) == block(number):
        continue
      is_last = block(source + 1) == block(source) + 1
      if start <= source < end and not (is_last and (inside or source == end - 1)):
        return False
      if inside and block(number) - block(source) > 1:
        return False
  return not any(start <= e < end - 1 for e in diagram.exits)


def _folded(diagram: Diagram, start: int, period: int, count: int) -> Diagram:
  """The diagram with one run made one item."""
  end, last = start + period * count, start + period * (count - 1)
  blocks = [diagram.items[i : i + period] for i in range(start, end, period)]
  outer = [k for item in blocks[0] for k in item.links if not start <= k.source < start + period]
  body = Diagram([_standing(list(same)) for same in zip(*blocks)])
  for item in body.items:
    at = lambda source: source - start if start <= source < start + period else PORT
    item.links = list(dict.fromkeys(Link(at(k.source), k.branch) for k in item.links))
  read = {k.source for item in diagram.items[end:] for k in item.links} | set(diagram.exits)
  body.exits = sorted(s - last for s in read if last <= s < end)
  repeat = Item('repeat', '', f'{count} times', body=body)
  repeat.links = list(dict.fromkeys(Link(k.source) for k in outer))
  repeat.alive = any(i.alive for b in blocks for i in b)
  items = [*diagram.items[: end - 1], repeat, *diagram.items[end:]]
  gone = set(range(start, end - 1))
  return renumbered(Diagram(items, diagram.exits), gone, dict.fromkeys(gone, end - 1))


def _standing(items: list[Item]) -> Item:
  """The item that stands for those at the same place of all blocks."""
  body = None
  if items[0].body is not None:
    bodies = [i.body for i in items if i.body is not None]
    inner = [_standing(list(same)) for same in zip(*(b.items for b in bodies))]
    body = Diagram(inner, items[0].body.exits)
  return dataclasses.replace(items[0], links=list(items[0].links), copies=items, body=body)
