"""Which channels of a network may change places, found by its channel graph and tested.

A hidden layer computes the same function with its units in another order, if everything that makes
or reads a unit is reordered with it. The slices of a channel group say what that is, so the
symmetries of any traced network are known without a list made by hand; residual streams included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.graph import ChannelGraph
from dapt_jax.types import Params, PRNGKey
from dapt_jax.weights import blocks as blocks_lib

#: `{group: i64[width]}`: entry g says which gate of the given network comes to place g.
Permutations = dict[str, np.ndarray]

#: Largest difference that counts as rounding, of the largest result: float32 sums in another order.
_TOLERANCE = 1e-5
#: Kinds of groups that are channels.
KINDS = ('channel', 'normalised')


@dataclasses.dataclass(frozen=True)
class Symmetry:
  """What may be permuted in a network.

  Attributes:
    graph: of the network.
    blocks: exchangeable gates, in the order of the program.
    refused: {group of channels: why its gates keep their places}.
  """

  graph: ChannelGraph
  blocks: tuple[blocks_lib.Block, ...]
  refused: dict[str, str]

  @property
  def groups(self) -> list[str]:
    """Names of the groups that can be permuted."""
    return list(dict.fromkeys(b.group for b in self.blocks))

  def permute(self, params: Params, permutations: Mapping[str, Any]) -> Params:
    """The same function with its channels in another order.

    Statistics of normalisation that are part of `params` move along.

    Args:
      params: parameters of the network that was traced.
      permutations: see `Permutations`; groups left out keep their order.

    Returns:
      Parameters of the same structure; leaves that were NumPy arrays stay such.

    Raises:
      ValueError: for a group that cannot be permuted, for something that is no permutation, or for
        one that moves a gate to where other layers see it.
    """
    leaves = self.graph.tree.flatten_whole(params)
    stack = {i: np.asarray(x)[None] for i, x in enumerate(leaves)}
    moves = [m if m is None else m[None] for m in self.moves(permutations)]
    out = [x[0] for x in blocks_lib.moved(self.blocks, stack, moves).values()]
    out = [jax.device_put(x) if isinstance(y, jax.Array) else x for x, y in zip(out, leaves)]
    return jax.tree.unflatten(self.graph.tree.param_treedef, out)

  def moves(self, permutations: Mapping[str, Any]) -> list[np.ndarray | None]:
    """The order inside every block, i64[k], None where nothing moves; checks, see `permute`."""
    known = {}
    for name, permutation in permutations.items():
      if name not in self.groups:
        why = self.refused.get(name, 'no channels of this network are called so')
        raise ValueError(f'{name!r} cannot be permuted: {why}; groups that can are {self.groups}')
      known[name] = np.asarray(permutation)
      width = self.graph.groups[name].width
      if sorted(known[name].reshape(-1).tolist()) != list(range(width)):
        raise ValueError(
          f'permutations[{name!r}] must hold each of 0..{width - 1} once; it is {known[name]}'
        )
    out: list[np.ndarray | None] = []
    for block in self.blocks:
      chosen = known[block.group][block.gates] if block.group in known else None
      if chosen is not None and not np.isin(chosen, block.gates).all():
        raise ValueError(
          f'permutations[{block.group!r}] mixes the gates {block.gates.tolist()} with others, but '
          'other layers see those; permute within such a set only (see Symmetry.blocks)'
        )
      out.append(None if chosen is None else np.searchsorted(block.gates, chosen))
    return out

  def permutations(self, moves: Sequence[np.ndarray]) -> Permutations:
    """The inverse of `moves`; entries i64[k], or i64[N, k] for N networks at once."""
    out: Permutations = {}
    for block, move in zip(self.blocks, moves):
      if block.group not in out:
        width = self.graph.groups[block.group].width
        out[block.group] = np.tile(np.arange(width), (*move.shape[:-1], 1))
      out[block.group][..., block.gates] = block.gates[move]
    return out

  def draw(self, key: PRNGKey) -> Permutations:
    """Permutations drawn at random, for tests and to augment data."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return self.permutations([rng.permutation(len(b.gates)) for b in self.blocks])


def find(graph: ChannelGraph, params: Params) -> Symmetry:
  """Finds the groups of a network whose channels may change places.

  Every group of channels is tried: the network must compute the same with all its exchangeable
  gates moved on by one, and with the first two swapped. Those two generate all permutations. It is
  tried with weights near `params` and random inputs, in float32.

  Args:
    graph: from `dapt.trace`, of `model.apply` say, with any levels.
    params: parameters of the network, trained or not.

  Returns:
    The symmetries, and for every other group the reason why not.

  Raises:
    ValueError: if `params` does not fit, or the function is not finite near them.
  """
  test = _Test(graph, params)
  blocks: list[blocks_lib.Block] = []
  refused: dict[str, str] = {}
  for name, group in graph.groups.items():
    if group.kind not in KINDS:
      continue  # positions of inputs, branches, links: their places have a meaning
    if any(s.leaf >= graph.tree.num_params for s in group.slices):
      refused[name] = 'it meets an input of the function'
      continue
    own = [b for b in blocks_lib.of_group(group) if len(b.gates) > 1]
    if not own:
      refused[name] = 'no two of its gates are seen by the same layers'
    elif all(test.passes(own, order) for order in (_cycle, _swap)):
      blocks += own
    else:
      refused[name] = group.refused or 'another order changes the function'
  return Symmetry(graph, tuple(blocks), refused)


def _cycle(width: int) -> np.ndarray:
  return np.roll(np.arange(width), -1)


def _swap(width: int) -> np.ndarray:
  return np.concatenate([[1, 0], np.arange(2, width)])


class _Test:
  """A network with weights near the given ones and random inputs, and what it computes."""

  def __init__(self, graph: ChannelGraph, params: Params) -> None:
    rng = np.random.default_rng(0)
    self.graph = graph
    self.leaves = [_near(np.asarray(x), rng) for x in graph.tree.flatten_whole(params)]
    self.inputs = jax.tree.map(lambda s: _random(s, rng), graph.tree.input_shapes)
    self.function = jax.jit(graph.apply_fn)
    self.results = self.run(self.leaves)
    if not all(np.isfinite(x).all() for x in self.results):
      raise ValueError(
        'the function is not finite near these params on random inputs, so its symmetries cannot '
        'be tested; pass params as they are after initialisation or training'
      )

  def run(self, leaves: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Results of the function but for new state, which is permuted as the parameters are."""
    tree = self.graph.tree
    out = self.function(jax.tree.unflatten(tree.param_treedef, leaves), *self.inputs)
    flat = enumerate(jax.tree.leaves(out))
    return [np.asarray(x, np.float64) for i, x in flat if i not in tree.state_outputs]

  def passes(self, blocks: Sequence[blocks_lib.Block], order: Callable[[int], np.ndarray]) -> bool:
    """Whether the function stays what it is with the gates of all blocks in this order."""
    stack = {i: x[None] for i, x in enumerate(self.leaves)}
    leaves = blocks_lib.moved(blocks, stack, [order(len(b.gates))[None] for b in blocks])
    pairs = zip(self.run([x[0] for x in leaves.values()]), self.results)
    return all(_error(a, b) <= _TOLERANCE for a, b in pairs)


def _error(found: np.ndarray, wanted: np.ndarray) -> float:
  """Largest difference, of the largest entry wanted."""
  difference = np.abs(found - wanted).max(initial=0)
  return difference / np.abs(wanted).max(initial=0) if difference else 0.0


def _near(leaf: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Entries changed by up to a half, so that none are equal by initialisation; signs stay."""
  if not jnp.issubdtype(leaf.dtype, jnp.floating):
    return leaf
  factor = rng.uniform(0.5, 1.5, leaf.shape)
  return (leaf * factor if leaf.any() else 0.1 * (factor - 1)).astype(leaf.dtype)


def _random(shape: jax.ShapeDtypeStruct, rng: np.random.Generator) -> np.ndarray:
  if jnp.issubdtype(shape.dtype, jnp.floating):
    return rng.normal(size=shape.shape).astype(shape.dtype)
  return rng.integers(0, 2, shape.shape).astype(shape.dtype)
