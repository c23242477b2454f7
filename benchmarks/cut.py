"""Five networks cut by dapt_jax and by Torch-Pruning 1.6.1: time, reach, and what it brings.

  pip install -e '.[bench]' && python -m benchmarks.cut

The same layers in both tools, CPU, float32, random weights of one distribution. Of the ViT, heads,
their width and the stream may go, too. Three tables:

time   From the network as it stands to arrays of the smaller size, channels ranked over the whole
       network by the L2 norm of their weights. Torch-Pruning takes a share of the channels (30%),
       not of the MACs; what it arrives at is the budget of dapt_jax. Both are timed in turn.
       "first" is the first time for this network; in a new process, only the first network of
       the table shows what a cold start costs. Target: half of Torch-Pruning's time.
reach  Output channels of convolutions, dense layers and normalisations, head excluded, that lie in
       a group that the tool can cut. Target: not fewer than Torch-Pruning.
speed  Inference of the cut network at 50% of the MACs, all layers cut alike to multiples of 8
       (number of heads: any), each in its own runtime, against the whole network there. Torch-
       Pruning comes as near to the budget as its ratio allows, and dapt_jax gets that as its
       budget. Target: not less than Torch-Pruning.

Images are 224 pixels wide (32 for ResNet-56), in batches of 64 but 64. ResNet-56 has 1x1
projections in its widening shortcuts: Torch-Pruning cannot follow the parameter-free ones.
Cost: a quarter of an hour, of which Torch-Pruning needs most for DenseNet and ViT.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

import dapt_jax as dapt
from benchmarks import timing, torch_cut, torch_models
from dapt_jax.models import model as model_lib
from dapt_jax.models import overrides
from dapt_jax.pruning import baselines, criteria

PRUNING_RATIO = 0.3
BUDGET, ROUND_TO = 0.5, 8
#: Heads are no widths that a processor cares about.
ROUNDING = {'query:axis1': 1, '': ROUND_TO}
#: Batch and side of the images whose inference is timed.
INFERENCE = ((1, 224), (64, 64))


def create(name: str, side: int) -> tuple[model_lib.Model, Any]:
  """The model in plain primitives, and its weights."""
  small = name == 'resnet56'
  options = {'shortcut': 'projection'} if small else {}
  classes = 10 if small else 1000
  shape = (side, side, 3)
  model = model_lib.create(name, input_shape=shape, num_classes=classes, lowering='lax', **options)
  return model, model.init(jax.random.key(0))


def trace(model: model_lib.Model, params: Any) -> dapt.ChannelGraph:
  """Its channels; whole branches are nothing that the other tool cuts."""
  image = jax.ShapeDtypeStruct((1, *model.input_shape), np.float32)
  levels = ('channel', 'normalised') if model.name.startswith('vit') else ('channel',)
  return dapt.trace(model.apply, params, image, levels=levels)


def cut(
  model: model_lib.Model, params: Any, budget: float
) -> tuple[dapt.Architecture, dict[str, float]]:
  """(decision, milliseconds of the phases)."""
  watch = timing.Stopwatch()
  graph = trace(model, params)
  watch.lap('trace')
  theta = criteria.scores('magnitude_l2', graph, params)
  watch.lap('score')
  arch = graph.decide(theta, budget=budget)
  watch.lap('decide')
  jax.block_until_ready(graph.shrink(arch, params)[1])
  watch.lap('shrink')
  return arch, watch.laps


def measure_time(name: str, side: int, repeats: int) -> list[dict[str, Any]]:
  """Two rows: how long either tool takes, and for what."""
  network, image = torch_models.create(name, side), torch.zeros(1, 3, side, side)
  model, params = create(name, side)
  whole = torch_models.count_macs(network, image)
  pruned, their_first = torch_cut.prune(network, image, PRUNING_RATIO)
  share = torch_models.count_macs(pruned, image) / whole
  arch, our_first = cut(model, params, share)
  _check_equal(name, whole, arch.costs['macs']['whole'])
  jobs: dict[str, Callable[[], dict[str, float]]] = {
    'Torch-Pruning': lambda: torch_cut.prune(network, image, PRUNING_RATIO)[1],
    'dapt_jax': lambda: cut(model, params, share)[1],
  }
  shares = {'Torch-Pruning': share, 'dapt_jax': arch.costs['macs']['share']}
  first = {'Torch-Pruning': their_first, 'dapt_jax': our_first}
  times = timing.phases(jobs, repeats)
  theirs = times['Torch-Pruning']['total']
  return [
    {
      'network': name,
      'tool': tool,
      'MACs': shares[tool],
      'of theirs': seen['total'] / theirs,
      'first ms': sum(first[tool].values()),
      **{f'{phase} ms': value for phase, value in seen.items()},
    }
    for tool, seen in times.items()
  ]


def _check_equal(name: str, theirs: float, ours: float) -> None:
  if theirs != ours:
    raise ValueError(f'{name} has {theirs} MACs in PyTorch, {ours} here: not the same network')


def measure_reach(name: str, side: int) -> dict[str, Any]:
  """One row: channels that can be cut, of all."""
  theirs = torch_cut.found(torch_models.create(name, side), torch.zeros(1, 3, side, side))
  ours = found(trace(*create(name, side)))
  _check_equal(name, theirs['channels'], ours['channels'])
  row: dict[str, Any] = {'network': name, 'channels': ours['channels']}
  for tool, seen in (('Torch-Pruning', theirs), ('dapt_jax', ours)):
    row[f'{tool} found'] = seen['found']
    row[f'{tool} share'] = seen['found'] / seen['channels']
  return row


def found(graph: dapt.ChannelGraph) -> dict[str, int]:
  """Output channels of all layers but the head; those in a group that can be cut."""
  covered: dict[tuple[int, int], list[np.ndarray]] = {}
  for group in graph.gated_groups.values():
    for piece in group.slices:
      covered.setdefault((piece.leaf, piece.axis), []).append(piece.positions)
  channels = reached = 0
  for leaf, path in enumerate(graph.tree.names[: graph.tree.num_params]):
    *_, layer, parameter = ('', *path.split('/'))
    if parameter not in ('kernel', 'scale') or layer == 'head':
      continue
    shape = graph.program.shape(graph.program.inputs[leaf])
    # An attention kernel [D, heads, width] has heads * width outputs.
    outputs = 2 if layer in ('query', 'key', 'value') else 1
    mask = np.zeros(shape[-outputs:], bool)
    for axis in range(outputs):
      for positions in covered.get((leaf, len(shape) - outputs + axis), []):
        np.moveaxis(mask, axis, 0)[positions] = True
    channels, reached = channels + mask.size, reached + int(mask.sum())
  return {'channels': channels, 'found': reached}


def measure_speed(name: str, side: int, batch: int, repeats: int) -> list[dict[str, Any]]:
  """Two rows: inference of the whole and of the cut network in either runtime."""
  pixels = np.random.default_rng(0).standard_normal((batch, side, side, 3), np.float32)
  torch_times, share = _speed_in_torch(name, pixels, repeats)
  jax_times, ours = _speed_in_jax(name, pixels, share, repeats)
  found = {'Torch-Pruning': (torch_times, share), 'dapt_jax': (jax_times, ours)}
  return [
    {
      'network': name,
      'batch': batch,
      'side': side,
      'tool': tool,
      'MACs': kept,
      'whole ms': times['whole'].median,
      'cut ms': times['cut'].median,
      'quartiles': f'{times["cut"].low:.4g} .. {times["cut"].high:.4g}',
      'speed-up': times['whole'].median / times['cut'].median,
    }
    for tool, (times, kept) in found.items()
  ]


def _speed_in_torch(
  name: str, pixels: np.ndarray, repeats: int
) -> tuple[dict[str, timing.Times], float]:
  images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
  whole = torch_models.create(name, images.shape[-1])
  small, share = torch_cut.prune_to(whole, images[:1], BUDGET, ROUND_TO)
  for network in (whole, small):
    torch_models.fuse_attention(network)
  with torch.inference_mode():
    runs = {'whole': lambda: whole(images), 'cut': lambda: small(images)}
    return timing.interleaved(runs, repeats), share


def _speed_in_jax(
  name: str, pixels: np.ndarray, budget: float, repeats: int
) -> tuple[dict[str, timing.Times], float]:
  model, params = create(name, pixels.shape[1])
  graph = trace(model, params)
  whole = baselines.make('dense', graph, budget=1.0)
  small = baselines.make('uniform', graph, budget=budget, round_to=ROUNDING)
  runs = {}
  for label, arch in (('whole', whole), ('cut', small)):
    function, kept = graph.shrink(arch, params, overrides=overrides.replay(in_loop=False))
    runs[label] = functools.partial(jax.jit(function), *jax.device_put((kept, pixels)))
  return timing.interleaved(runs, repeats), small.costs['macs']['share']


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  names = list(torch_models.MAKERS)
  parser.add_argument('--networks', nargs='+', choices=names, default=names)
  parser.add_argument('--repeats', type=int, default=9, help='timed rounds (9)')
  parser.add_argument('--tables', nargs='+', choices=['time', 'reach', 'speed'], default=None)
  args = parser.parse_args()
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  wanted = args.tables or ['time', 'reach', 'speed']
  tables: dict[str, list[dict[str, Any]]] = {table: [] for table in wanted}
  for name in args.networks:
    side = 32 if name == 'resnet56' else 224
    start = time.perf_counter()
    if 'time' in wanted:
      tables['time'] += measure_time(name, side, args.repeats)
    if 'reach' in wanted:
      tables['reach'].append(measure_reach(name, side))
    if 'speed' in wanted:
      for batch, wide in INFERENCE:
        tables['speed'] += measure_speed(name, min(side, wide), batch, args.repeats)
    print(f'{name}: {time.perf_counter() - start:.0f} s', flush=True)
  for rows in tables.values():
    print(timing.table(rows))
  machine = timing.machine(('jax', 'jaxlib', 'numpy', 'torch', 'torch-pruning'))
  threads = torch.get_num_threads()
  rows = tables.pop('time', [])
  print(timing.save('cut', rows, machine=machine, threads=threads, repeats=args.repeats, **tables))


if __name__ == '__main__':
  main()
