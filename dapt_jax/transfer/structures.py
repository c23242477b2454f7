"""From an architecture of a model to a trainable structure with first weights."""

from __future__ import annotations

import jax

from dapt_jax.graph import Architecture, ChannelGraph
from dapt_jax.models import overrides as overrides_lib
from dapt_jax.models.model import Model
from dapt_jax.transfer.retrain import Structure
from dapt_jax.types import Params, PRNGKey


def of_architecture(
  model: Model,
  graph: ChannelGraph,
  train_graph: ChannelGraph,
  arch: Architecture,
  *,
  inherited: Params | None = None,
  head: str | None = None,
) -> Structure:
  """Cuts the architecture out of a model.

  Args:
    model: the whole network.
    graph: traced from `model.apply`.
    train_graph: traced from `model.apply_train`.
    arch: what to keep.
    inherited: trained weights of the whole network to start from; None draws fresh ones for the
      small network (fan-in corrected).
    head: name of the readout's entry in `inherited['params']`, to be drawn anew for every run; None
      keeps it.

  Returns:
    The small network.
  """
  looped, outside = overrides_lib.replay(in_loop=True), overrides_lib.replay(in_loop=False)
  shapes = graph.tree.param_shapes
  apply, _ = graph.shrink(arch, shapes, overrides=outside)
  measure, _ = train_graph.shrink(arch, shapes, overrides=outside)
  apply_train, _ = train_graph.shrink(arch, shapes, overrides=looped)

  def fresh(key: PRNGKey) -> Params:
    return graph.shrink(arch, model.init(key), rescale=True)[1]

  if inherited is None:
    return Structure(fresh, apply, apply_train, measure)
  kept = graph.shrink(arch, inherited)[1]
  if head is None:
    return Structure(lambda key: kept, apply, apply_train, measure)

  def with_new_head(key: PRNGKey) -> Params:
    new = graph.shrink(arch, _with_new(head, model, inherited, key))[1]['params'][head]
    return {**kept, 'params': {**kept['params'], head: new}}

  return Structure(with_new_head, apply, apply_train, measure)


def _with_new(head: str, model: Model, params: Params, key: PRNGKey) -> Params:
  """Parameters of a model, but for a readout as the model draws it."""
  new = model.init(key)['params'][head]
  return {**params, 'params': {**params['params'], head: new}}


def dense_pretrained(
  model: Model,
  params: Params,
  *,
  readout_only: bool,
  head: str,
  outside: Model | None = None,
) -> Structure:
  """The whole network with source weights and a new readout.

  Args:
    model: the whole network.
    params: its weights, trained on the source.
    readout_only: train nothing but the readout.
    head: name of the readout's entry in `params['params']`.
    outside: the same network as it runs best outside of loops; None: `model`.

  Returns:
    The structure; its readout is drawn anew for every run.

  Raises:
    ValueError: if there is no such entry.
  """
  if head not in params['params']:
    raise ValueError(f'head is {head!r}; the entries are {sorted(params["params"])}')

  def init(key: PRNGKey) -> Params:
    return _with_new(head, model, params, key)

  trainable = None
  if readout_only:
    trainable = jax.tree.map_with_path(
      lambda path, _: any(getattr(p, 'key', None) == head for p in path), params
    )
  whole = of_model(model, outside)
  return whole._replace(init=init, trainable=trainable)


def of_model(model: Model, outside: Model | None = None) -> Structure:
  """The whole network from fresh weights.

  Args:
    model: the network as it runs best inside a loop.
    outside: the same as it runs best outside of loops; None: `model`.
  """
  other = outside or model
  return Structure(model.init, other.apply, model.apply_train, other.apply_train)
