"""Networks of several widths as vectors of the widest one.

A narrower network fills the leading entries of every array of the widest, the rest is zero. A unit
whose incoming and outgoing weights are zero adds nothing and has no gradient: what comes in passes
through zeros on the way out, what goes out is multiplied by an activation of zero. So networks of
all widths train side by side in one program, and stay as narrow as they began.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.models import model as model_lib
from dapt_jax.types import Params
from dapt_jax.weights import members

#: Largest difference that counts as rounding, of the largest logit.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Widths:
  """The networks of a zoo, widest first.

  Attributes:
    models: the networks; all fit into the first.
    masks: f32[W, size], 1 where a network of each width has a weight.
  """

  models: tuple[model_lib.Model, ...]
  masks: np.ndarray

  def __len__(self) -> int:
    return len(self.models)

  def shapes(self, width: int) -> Params:
    """Shapes of the variables of one network."""
    return jax.eval_shape(self.models[width].init, jax.random.key(0))

  def embed(self, variables: Params) -> Params:
    """A network of any width with zeros up to the shapes of the widest."""
    pad = lambda x, s: jnp.pad(x, [(0, most - n) for n, most in zip(x.shape, s.shape)])
    return jax.tree.map(pad, variables, self.shapes(0))

  def cut(self, width: int, variables: Params) -> Params:
    """The networks of a width out of variables of the widest; leading axes are kept."""

    def leading(x: jax.Array, shape: jax.ShapeDtypeStruct) -> jax.Array:
      return x[(..., *(slice(n) for n in shape.shape))]

    return jax.tree.map(leading, variables, self.shapes(width))


def make(models: Sequence[model_lib.Model]) -> Widths:
  """Puts networks of several widths together, and tries whether they fit.

  Args:
    models: the widest first.

  Raises:
    ValueError: for networks of other parameters or larger shapes than the first, or that do not
      compute the same inside of it (a normalisation over all units, an image that is flattened).
  """
  flat = members.flatten(models[0])
  made = Widths(tuple(models), np.ones((len(models), flat.size), np.float32))
  for number, model in enumerate(models[1:], start=1):
    _check_shapes(made.shapes(0), made.shapes(number), model)
    ones = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), made.shapes(number))
    made.masks[number] = flat.ravel(made.embed(ones))
    _check_function(made, model)
  return made


def _check_shapes(widest: Params, narrow: Params, model: model_lib.Model) -> None:
  what = f'{model.name!r} with {model.config} does not fit into the widest network: '
  small, large = _named(narrow), _named(widest)
  if set(small) != set(large):
    raise ValueError(f'{what}only one has {sorted(set(small) ^ set(large))}; vary widths only')
  for name, shape in small.items():
    if any(n > most for n, most in zip(shape, large[name])):
      raise ValueError(
        f'{what}{name} has shape {shape}, there {large[name]}; give the widest network first'
      )


def _named(shapes: Params) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


def _check_function(made: Widths, model: model_lib.Model) -> None:
  of_weights, of_images = jax.random.split(jax.random.key(0))
  variables = model.init(of_weights)
  images = jax.random.normal(of_images, (4, *model.input_shape))
  whole = made.embed(variables)
  for one, other in (('apply', model.apply), ('apply_train', model.apply_train)):
    wanted, found = other(variables, images), getattr(made.models[0], one)(whole, images)
    wanted, found = (x[0] if isinstance(x, tuple) else x for x in (wanted, found))
    if not np.abs(wanted - found).max() <= _TOLERANCE * np.abs(wanted).max():
      raise ValueError(
        f'{model.name!r} with {model.config} computes something else inside the widest network: '
        'units that are zero must not matter, as they do to a normalisation over units or where '
        'images are flattened; build a zoo for every width'
      )
