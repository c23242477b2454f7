"""A reference model with an architecture cut out of it, as a model of its own."""

from __future__ import annotations

from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from dapt_jax import graph as graph_lib
from dapt_jax import types
from dapt_jax.models import model as model_lib
from dapt_jax.models import overrides


def cut(
  model: model_lib.Model, arch: graph_lib.Architecture, *, in_loop: bool = False
) -> model_lib.Model:
  """Cuts an architecture out of a model.

  First weights are those of the whole network, cut, and corrected for the smaller fan-in.

  Args:
    model: the whole network; its number of classes may differ from the one of the search.
    arch: what to keep.
    in_loop: as of `create`, for the small network.

  Returns:
    The small network: `init`, `apply` and `apply_train` of parameters in which what was cut is
    None. Name and fields are those of the whole network; it has no `features`.

  Raises:
    ValueError: if the architecture was found in another network.
  """
  plain = model_lib.create(
    model.name,
    input_shape=model.input_shape,
    num_classes=model.num_classes,
    lowering='lax',
    **model.config,
  )
  shapes = jax.eval_shape(plain.init, jax.random.key(0))
  image = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
  search = arch.provenance.get('settings', {}).get('search', {})
  levels = tuple(search.get('levels', ('channel', 'branch')))
  graph, train_graph = (
    graph_lib.trace(f, shapes, image, levels=levels) for f in (plain.apply, plain.apply_train)
  )
  fast = overrides.replay(in_loop=in_loop)
  apply, _ = graph.shrink(arch, shapes, overrides=fast)
  apply_train, _ = train_graph.shrink(arch, shapes, overrides=fast)

  def init(key: types.PRNGKey) -> model_lib.Variables:
    small: model_lib.Variables = graph.shrink(arch, plain.init(key), rescale=True)[1]
    return small

  return model._replace(init=init, apply=apply, apply_train=apply_train, features=_no_features)


def _no_features(*args: Any, **kwargs: Any) -> NoReturn:
  del args, kwargs
  raise NotImplementedError('a cut network gives logits only; take features of the whole network')
