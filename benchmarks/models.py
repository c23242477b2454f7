"""Every reference model: what can be cut, how exactly, how fast, and what it gains on the clock.

  python -m benchmarks.models [--models resnet50 vit_s16 ...]

Each model is traced at the sizes below and cut twice at random, keeping about 70% and 30% of every
group (multiples of 8 where groups are wide). Shown for each cut: groups found, gated and refused
(`--reasons` says why; outputs are not counted), seconds to trace and to cut (decide and shrink),
the largest difference between the masked and the cut network relative to the largest entry, for
results and for gradients by the input (of token models, by their embeddings) in float32, the share
of the MACs kept, and the time kept at batch 1 and 64, each against the whole network.
`--double` compares in float64 instead, where no rounding hides a mistake, and times nothing.
Cost: about half an hour, most of it compilation.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import dapt_jax as dapt
from benchmarks import timing
from dapt_jax.models import model as model_lib
from dapt_jax.models import overrides

LEVELS = ('channel', 'normalised')
KEPT = (0.7, 0.3)
_IMAGE: dict[str, Any] = {'input_shape': (32, 32, 3)}
_LARGE: dict[str, Any] = {'input_shape': (64, 64, 3)}
_TOKENS: dict[str, Any] = {'input_shape': (64,), 'vocabulary': 1000}
_ENCODER: dict[str, Any] = {**_TOKENS, 'width': 192, 'depth': 4, 'heads': 6, 'mlp_width': 768}
#: {row: (name of the model, its fields)}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
  **{n: (n, _IMAGE) for n in ('mlp', 'convnet', 'multibranch', 'vgg16', 'vgg19', 'resnet20')},
  **{n: (n, _IMAGE) for n in ('resnet56', 'resnet110', 'unet')},
  **{n: (n, _LARGE) for n in ('resnet18', 'resnet50', 'densenet121', 'mobilenetv2')},
  **{n: (n, _LARGE) for n in ('efficientnet_lite0', 'vit_s16')},
  'mixer': ('mixer', {**_IMAGE, 'patch': 4, 'width': 128, 'depth': 4}),
  'encoder': ('encoder', _ENCODER),
  'encoder, grouped queries, RMSNorm': ('encoder', {**_ENCODER, 'kv_heads': 2, 'norm': 'rms'}),
  'encoder, layers in a scan': ('encoder', {**_ENCODER, 'scan_layers': True}),
  'lstm': ('lstm', _TOKENS),
  'gru': ('gru', _TOKENS),
}


def draw(shapes: Any, seed: int = 0) -> Any:
  """Random variables: kernels of variance 1 / fan-in, positive scales and variances."""
  rng = np.random.default_rng(seed)

  def leaf(path: Any, shape: Any) -> np.ndarray:
    if path[-1].key in ('scale', 'var'):
      return rng.uniform(0.5, 1.5, shape.shape).astype(shape.dtype)
    fan_in = max(1, int(np.prod(shape.shape[:-1]))) if len(shape.shape) > 1 else 10
    return (rng.standard_normal(shape.shape) / np.sqrt(fan_in)).astype(shape.dtype)

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_cut(graph: dapt.ChannelGraph, share: float, seed: int) -> dapt.Architecture:
  """Keeps about this share of every group, and a position of each of its layers."""
  rng = np.random.default_rng(seed)
  logits = {}
  for name, group in graph.gated_groups.items():
    step = 8 if group.width >= 32 else 1
    keep = max(step, round(share * group.width / step) * step)
    logits[name] = np.full(group.width, -1.0)
    logits[name][rng.permutation(group.width)[:keep]] = 1.0
    for layer in group.layers:
      logits[name][rng.choice(layer)] = 1.0
  return graph.decide(logits)


def difference(found: Any, wanted: Any) -> float:
  """Largest difference of two arrays, relative to the largest entry."""
  found, wanted = np.asarray(found), np.asarray(wanted)
  return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def inputs(model: Any, batch: int, dtype: Any) -> np.ndarray:
  """Random images, or token ids with padding at the end of the first example."""
  rng = np.random.default_rng(1)
  if len(model.input_shape) == 3:
    return rng.standard_normal((batch, *model.input_shape)).astype(dtype)
  tokens = rng.integers(1, 1000, (batch, *model.input_shape)).astype(np.int32)
  tokens[0, -5:] = 0
  return tokens


def compare(graph: Any, arch: Any, params: Any, small: Any, kept: Any, x: Any) -> tuple[float, ...]:
  """(difference of the results, of the gradients) between the masked and the cut network."""
  gates = arch.gates(graph)
  by_input = jnp.issubdtype(x.dtype, jnp.floating)

  def value(fn: Any, params: Any, x: Any) -> Any:
    y = fn(params, x)
    return jnp.sum(jnp.sin(y)), y

  masked = lambda p, x: graph.apply(p, gates, x)
  slope = lambda fn: jax.jit(
    jax.grad(functools.partial(value, fn), argnums=1 if by_input else 0, has_aux=True)
  )
  wanted_slope, wanted = slope(masked)(params, x)
  found_slope, found = slope(small)(kept, x)
  if not by_input:
    wanted_slope = graph.shrink(arch, wanted_slope)[1]
    pick = lambda tree: tree['params']['token']['embedding']
    found_slope, wanted_slope = pick(found_slope), pick(wanted_slope)
  return difference(found, wanted), difference(found_slope, wanted_slope)


def measure(row: str, repeats: int, double: bool) -> tuple[list[dict[str, Any]], list[str]]:
  """Rows of one model, and why groups of it are refused."""
  name, config = MODELS[row]
  model = model_lib.create(name, num_classes=10, lowering='lax', **config)
  with jax.enable_x64(False):  # the models make single precision
    params = draw(jax.eval_shape(model.init, jax.random.key(0)))
  if double:
    params = jax.tree.map(lambda a: a.astype(np.float64), params)
  x = inputs(model, 2, np.float64 if double else np.float32)
  start = time.perf_counter()
  graph = dapt.trace(model.apply, params, x, levels=LEVELS)
  traced = time.perf_counter() - start
  channels = [g for g in graph.groups.values() if g.kind in LEVELS]
  refused = [
    f'{g.name}: {g.refused}'
    for g in channels
    if g.refused and g.refused != 'an output of the function' and g.touching('write')
  ]
  run = {'whole': (jax.jit(fast(name, config).apply), params)}
  rows = []
  for seed, share in enumerate(KEPT):
    arch = random_cut(graph, share, seed)
    start = time.perf_counter()
    small, kept = graph.shrink(
      graph.decide({n: 2 * m - 1 for n, m in arch.masks().items()}), params
    )
    cut = time.perf_counter() - start
    error, slope_error = compare(graph, arch, params, small, kept, x)
    label = f'{share:.0%}'
    quick = graph.shrink(arch, params, overrides=overrides.replay(in_loop=False))[0]
    run[label] = (jax.jit(quick), kept)
    rows.append(
      {
        'model': row,
        'kept': label,
        'groups': len(channels),
        'gated': len(graph.gated_groups),
        'refused': len(refused),
        'trace s': traced,
        'cut s': cut,
        'error': error,
        'gradient error': slope_error,
        'MACs': arch.costs['macs']['share'],
        'params': arch.costs['params']['share'],
      }
    )
  if not double:
    for batch in (1, 64):
      x = jnp.asarray(inputs(model, batch, np.float32))
      calls = {n: functools.partial(fn, p, x) for n, (fn, p) in run.items()}
      seen = timing.interleaved(calls, repeats=repeats)
      for found in rows:
        found[f'time, batch {batch}'] = seen[found['kept']].median / seen['whole'].median
        found[f'whole ms, batch {batch}'] = seen['whole'].median
  return rows, refused


def fast(name: str, config: dict[str, Any]) -> Any:
  """The model as it runs: with the lowering that this backend likes."""
  return model_lib.create(name, num_classes=10, **config)


def main(argv: Sequence[str] | None = None) -> None:
  """Prints the table and writes it."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--models', nargs='+', choices=list(MODELS), default=list(MODELS))
  parser.add_argument('--repeats', type=int, default=9, help='timed rounds (9)')
  parser.add_argument('--reasons', action='store_true', help='print why groups stay whole')
  parser.add_argument('--double', action='store_true', help='compare in float64, time nothing')
  args = parser.parse_args(argv)
  rows, reasons = [], {}
  with jax.enable_x64(args.double):
    for row in (bar := tqdm.tqdm(args.models)):
      bar.set_postfix_str(row)
      found, reasons[row] = measure(row, args.repeats, args.double)
      rows += found
      # Kept as they come: half an hour of measurements shall not end with one failure.
      path = timing.save('models_double' if args.double else 'models', rows, refused=reasons)
  print(timing.table(rows))
  for row, lines in reasons.items():
    for line in lines if args.reasons else ():
      print(f'{row}: {line}')
  print(path)


if __name__ == '__main__':
  main()
