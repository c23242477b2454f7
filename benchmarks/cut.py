"""Three channels in ten cut out of a ResNet-56: dapt_jax against Torch-Pruning.

  pip install -e '.[bench]' && python -m benchmarks.cut

The same job side by side, CPU, float32: read the network (trace, or dependency graph), rank all
channels by the L2 norm of their weights over the whole network, choose, and cut, from the network
as it stands to arrays of the smaller size. Torch-Pruning takes a share of the channels, not of the
MACs; what it arrives at is the budget of dapt_jax. Both cut the ResNet-56 with 1x1 projections in
its two widening shortcuts, since Torch-Pruning 1.6.1 cannot follow the slice and pad of the
parameter-free ones (`--shortcut=pad` shows it); dapt_jax is timed on those too.
Also shown: the first call of the cut network, which for JAX includes compilation.
Target: not slower than Torch-Pruning. Cost: about a minute.
"""

from __future__ import annotations

import argparse
import copy
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import dapt_jax as dapt
from benchmarks import timing
from dapt_jax.models import model, resnet
from dapt_jax.pruning import criteria
from dapt_jax.types import ApplyFn

PRUNING_RATIO = 0.3


def jax_networks() -> dict[str, tuple[ApplyFn, Any]]:
  """Function and weights of both variants."""
  networks = {}
  for shortcut in reversed(resnet.SHORTCUTS):
    network = model.create(
      'resnet56', input_shape=(32, 32, 3), num_classes=10, lowering='lax', shortcut=shortcut
    )
    networks[shortcut] = (network.apply, network.init(jax.random.key(0)))
  return networks


def cut_with_jax(
  apply: ApplyFn, params: Any, budget: float
) -> tuple[dapt.Architecture, ApplyFn, Any]:
  """Trace, decide and shrink: (architecture, function, weights)."""
  # Channels only, as the other tool cuts: whole residual branches are not its job.
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  graph = dapt.trace(apply, params, image, levels=('channel',))
  arch = graph.decide(criteria.scores('magnitude_l2', graph, params), budget=budget)
  return arch, *graph.shrink(arch, params)


def cut_with_torch(network: Any, images: Any) -> Any:
  """Builds the dependency graph and prunes `network` in place."""
  import torch_pruning as tp

  pruner = tp.pruner.BasePruner(
    network,
    images,
    importance=tp.importance.MagnitudeImportance(p=2),
    global_pruning=True,
    pruning_ratio=PRUNING_RATIO,
    ignored_layers=[network.head],
  )
  pruner.step()
  return network


def first_call(function: Callable[[], Any]) -> float:
  """Milliseconds of one call."""
  start = time.perf_counter()
  jax.block_until_ready(function())
  return 1e3 * (time.perf_counter() - start)


def measure(repeats: int, shortcut: str) -> list[dict[str, Any]]:
  """Rows of the table."""
  import torch

  from benchmarks import torch_models

  torch.manual_seed(0)
  network = torch_models.ResNet(shortcut=shortcut).eval()
  images = torch.zeros(1, 3, 32, 32)
  whole = torch_models.count_macs(network, images)
  pruned = cut_with_torch(copy.deepcopy(network), images)
  share = torch_models.count_macs(pruned, images) / whole
  # Torch-Pruning changes the network it is given, so every round needs its own.
  copies = [copy.deepcopy(network) for _ in range(repeats + 1)]
  runs: dict[str, Callable[[], Any]] = {
    f'Torch-Pruning, {shortcut}': lambda: cut_with_torch(copies.pop(), images)
  }
  shares, first = {f'Torch-Pruning, {shortcut}': share}, {}
  with torch.no_grad():
    first[f'Torch-Pruning, {shortcut}'] = first_call(lambda: pruned(images))
  for name, (apply, params) in jax_networks().items():
    arch, small, kept = cut_with_jax(apply, params, share)
    label = f'dapt_jax, {name}'
    shares[label] = arch.costs['macs']['share']
    pixels = np.zeros((1, 32, 32, 3), np.float32)
    first[label] = first_call(functools.partial(jax.jit(small), kept, pixels))
    runs[label] = functools.partial(cut_with_jax, apply, params, share)
  times = timing.interleaved(runs, repeats=repeats, warmup=1)
  return [
    {
      'tool, shortcut': name,
      'MACs share': shares[name],
      'ms': seen.median,
      'quartiles': f'{seen.low:.4g} .. {seen.high:.4g}',
      'CPU ms': seen.cpu,
      'first call ms': first[name],
    }
    for name, seen in times.items()
  ]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--repeats', type=int, default=9, help='timed rounds (9)')
  parser.add_argument(
    '--shortcut', choices=resnet.SHORTCUTS, default='projection', help='in PyTorch'
  )
  args = parser.parse_args()
  rows = measure(args.repeats, args.shortcut)
  print(timing.table(rows))
  ours = next(row for row in rows if row['tool, shortcut'] == f'dapt_jax, {args.shortcut}')
  ratio = ours['ms'] / rows[0]['ms']
  print(f'dapt_jax / Torch-Pruning on the same network: {ratio:.3f}, target at most 1')
  machine = timing.machine(('jax', 'jaxlib', 'numpy', 'torch', 'torch-pruning'))
  print(timing.save('cut', rows, machine=machine, ratio=ratio, repeats=args.repeats))


if __name__ == '__main__':
  main()
