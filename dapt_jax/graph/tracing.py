"""`trace`: reads a function and finds what can be cut out of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dapt_jax.graph import channel_graph, checks, choice
from dapt_jax.types import ApplyFn, Params

#: Kinds of groups that may carry gates.
LEVELS = ('channel', 'normalised', 'input', 'branch', 'link')


def trace(
  apply_fn: ApplyFn,
  params: Params,
  *example_inputs: Any,
  levels: Sequence[str] = ('channel', 'branch'),
  select: choice.Pattern | None = None,
  ignore: choice.Pattern | None = None,
  tie: str | None = None,
) -> channel_graph.ChannelGraph:
  """Reads a JAX function and finds what can be cut out of it exactly.

  Args:
    apply_fn: `apply_fn(params, *inputs)`, any function that JAX can trace. Results that are new
      state (their path and shape are those of a leaf of `params`, as `batch_stats` are) are cut
      along with it; all other results stay whole.
    params: any pytree of arrays or `jax.ShapeDtypeStruct`. Where it is a dict with a 'params'
      entry, only that entry counts as parameters in the cost.
    *example_inputs: pytrees of arrays (or `jax.ShapeDtypeStruct`) of the right shapes; a batch of
      one makes `total('macs')` the cost per example.
    levels: which kinds of groups carry gates: 'channel' (widths), 'normalised' (widths that a
      normaliser averages over, such as the stream of a transformer: use `graph.apply`), 'branch'
      (summands), 'input' (positions of an input axis), 'link' (entries of kernels).
    select: regular expression or predicate on group names; others stay whole.
    ignore: groups with such names stay whole, even if selected.
    tie: regular expression of what repeats in names ('_block[0-9]+'): groups of equal width whose
      names are equal without it share one decision. Branches are not tied.

  Returns:
    The graph.

  Raises:
    TypeError: for something that is not a function, or when it fails on these shapes.
    ValueError: for an unknown level, a pattern that is no regular expression, or when nothing at
      all can be gated.
  """
  levels = (levels,) if isinstance(levels, str) else levels
  checks.instance(levels, Sequence, 'levels', f'it must be some of {list(LEVELS)}')
  unknown = [level for level in levels if level not in LEVELS]
  if unknown:
    raise ValueError(f'levels has {unknown}; allowed are {list(LEVELS)}')
  chosen = choice.Choice(select, ignore, tie)
  return channel_graph.checked(
    channel_graph.ChannelGraph(apply_fn, params, example_inputs, levels, chosen)
  )
