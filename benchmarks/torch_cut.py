"""Torch-Pruning 1.6.1 on the networks of `torch_models`, set up as its examples do."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from benchmarks import timing, torch_models

#: What has output channels.
LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm)


def _attention(network: nn.Module) -> Iterator[torch_models.Attention]:
  return (m for m in network.modules() if isinstance(m, torch_models.Attention))


def make_pruner(
  network: nn.Module, image: torch.Tensor, ratio: float, round_to: int | None = None
) -> Any:
  """A pruner by magnitude; heads, their width and the stream of a transformer may go, too.

  Args:
    network: changed in place by the pruner.
    image: `f32[1, 3, side, side]`.
    ratio: share of the channels to cut, and of the heads.
    round_to: None ranks over the whole network; a number cuts all layers alike, to its multiples.
  """
  unwrapped: list[tuple[nn.Parameter, int]] = []
  if isinstance(network, torch_models.ViT):
    unwrapped = [(network.token, 2), (network.position, 2)]
  return tp.pruner.BasePruner(
    network,
    image,
    importance=tp.importance.MagnitudeImportance(p=2),
    global_pruning=round_to is None,
    pruning_ratio=ratio,
    ignored_layers=[network.head],
    round_to=round_to,
    num_heads={m.qkv: m.heads for m in _attention(network)},
    prune_num_heads=True,
    prune_head_dims=True,
    head_pruning_ratio=ratio,
    unwrapped_parameters=unwrapped,
    # The defaults are shared by all pruners of the process and keep their networks alive.
    in_channel_groups={},
    out_channel_groups={},
  )


def prune(
  network: nn.Module, image: torch.Tensor, ratio: float, round_to: int | None = None
) -> tuple[nn.Module, dict[str, float]]:
  """(a cut copy of the network, milliseconds of the phases; copying is not among them).

  The arguments are those of `make_pruner`.
  """
  network = copy.deepcopy(network)
  watch = timing.Stopwatch()
  pruner = make_pruner(network, image, ratio, round_to)
  watch.lap('build')
  pruner.step()
  for module in _attention(network):
    module.heads = pruner.num_heads[module.qkv]
  watch.lap('step')
  return network, watch.laps


def prune_to(
  network: nn.Module, image: torch.Tensor, budget: float, round_to: int
) -> tuple[nn.Module, float]:
  """(cut network, its share of the MACs), as near to the budget as a few ratios come."""
  whole = torch_models.count_macs(network, image)
  best, power = (network, 1.0), 2.0
  for _ in range(5):
    # Nearly share = (1 - ratio) ** power; what a ratio gives corrects the power.
    ratio = 1.0 - budget ** (1.0 / power)
    small = prune(network, image, ratio, round_to)[0]
    share = torch_models.count_macs(small, image) / whole
    best = min(best, (small, share), key=lambda found: abs(found[1] - budget))
    if abs(best[1] - budget) < 0.005:
      break
    power = math.log(share) / math.log(1.0 - ratio)
  return best


def found(network: nn.Module, image: torch.Tensor) -> dict[str, int]:
  """Output channels of all layers but the head; those in a group that can be cut."""
  pruner = make_pruner(copy.deepcopy(network), image, 0.5)
  layers = [m for m in pruner.model.modules() if isinstance(m, LAYERS)]
  layers.remove(pruner.model.head)
  covered: dict[nn.Module, set[int]] = {m: set() for m in layers}
  for group in pruner.DG.get_all_groups(pruner.ignored_layers, pruner.root_module_types):
    for dep, indices in group:
      if dep.target.module in covered and pruner.DG.is_out_channel_pruning_fn(dep.handler):
        covered[dep.target.module].update(indices)
  channels = sum(pruner.DG.get_out_channels(m) for m in layers)
  return {'channels': channels, 'found': sum(map(len, covered.values()))}
