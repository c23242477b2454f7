"""A pruned reference model as an ordinary Flax model with smaller layers."""

from __future__ import annotations

from typing import Any

import jax

from dapt_jax import graph as graph_lib
from dapt_jax.export import small as small_lib
from dapt_jax.models import model as models
from dapt_jax.models import resized
from dapt_jax.types import Params


def flax_module(
  model: models.Model,
  graph: graph_lib.ChannelGraph,
  arch: graph_lib.Architecture,
  **execution: Any,
) -> tuple[models.Model, Params]:
  """Writes an architecture as the widths of the layers of a model.

  The result is an ordinary model (`.module` is its Linen module): `init` gives the shapes of the
  small parameters, `apply` on them is the small function, `apply_train` trains it, and
  `create(name, ..., **config)` makes it again.

  Args:
    model: the reference model that was traced.
    graph: its graph, traced in evaluation mode.
    arch: the structure.
    **execution: `lowering`, `in_loop` and `axis_name` for `create`.

  Returns:
    (smaller model, shapes of the small parameters).

  Raises:
    ValueError: where the cut is more than widths of layers; the message says what.
  """
  fn, shapes = graph.shrink(arch, graph.tree.param_shapes)
  _check_branches(graph, shapes)
  whole = resized.layer_widths(graph.tree.param_shapes['params'])
  small = resized.layer_widths(shapes['params'])
  changed = {path: width for path, width in small.items() if width != whole[path]}
  options = {**model.config, **execution}
  try:
    made = models.create(
      model.name,
      input_shape=model.input_shape,
      num_classes=model.num_classes,
      layer_widths={**model.config.get('layer_widths', {}), **changed},
      **{k: v for k, v in options.items() if k != 'layer_widths'},
    )
    found = jax.eval_shape(made.init, jax.random.key(0))
  except (TypeError, ValueError) as error:
    raise _refusal(
      f'{model.name} does not build with these widths, something between its layers fixes them '
      f'(a padded shortcut, a reshape into heads): {error}'
    ) from error
  _check_shapes(found, shapes)
  _check_results(graph, fn, made, shapes)
  return made, shapes


def _refusal(reason: str) -> ValueError:
  return ValueError(
    f'this architecture is not widths of layers alone: {reason}. Use the function of '
    "graph.shrink, or export.save with format='safetensors' or 'stablehlo'"
  )


def _check_branches(graph: graph_lib.ChannelGraph, shapes: Params) -> None:
  leaves = zip(graph.tree.names, graph.tree.flatten(shapes), graph.tree.counted)
  gone = [name for name, leaf, counted in leaves if leaf is None and counted]
  if gone:
    raise _refusal(f'branches were removed ({_some(gone)}), and the module has no field for that')


def _check_shapes(found: Params, wanted: Params) -> None:
  """The parameters that the smaller module makes must be those that the cut leaves."""
  made, cut = ({n: tuple(x.shape) for n, x in _named(tree)} for tree in (found, wanted))
  differing = [
    f'{n}: {made.get(n, "none")} in the module, {cut.get(n, "none")} after the cut'
    for n in {**cut, **made}
    if made.get(n) != cut.get(n)
  ]
  if differing:
    raise _refusal(
      f"parameters differ ({_some(differing)}): part of a layer's input was cut, or the module "
      'depends on the widths in another way'
    )


def _check_results(graph: Any, fn: Any, made: models.Model, shapes: Params) -> None:
  """Equal shapes may still hide other positions, so both are run on random parameters."""
  params = made.init(jax.random.key(0))
  inputs = small_lib.examples(graph, 2)
  gap = small_lib.difference(*(small_lib.run(f, params, *inputs) for f in (made.apply, fn)))
  if not gap <= small_lib.TOLERANCE:
    raise _refusal(
      f'with equal parameters the results differ (relative difference {gap:.1e}): it matters '
      'which positions were kept, not only how many (zero channels that a shortcut pads, say)'
    )


def _named(tree: Params) -> list[tuple[str, Any]]:
  return list(zip(small_lib.leaf_names(tree), jax.tree.leaves(tree)))


def _some(items: list[str]) -> str:
  return ', '.join(items[:3]) + (f' and {len(items) - 3} more' if len(items) > 3 else '')
