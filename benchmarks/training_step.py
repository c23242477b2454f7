"""One training step (forward, backward, SGD with momentum) against PyTorch on the same cores.

  pip install -e '.[bench]' && python -m benchmarks.training_step

A small ConvNet at 28x28x1, ResNet-20 and VGG-16 at 32x32x3, batch 64, float32. Our variants: 'lax'
and 'auto' on one device; 'auto' with the batch split over one host device per core, by
`jit` + `NamedSharding` (statistics of the whole batch) and by `shard_map` (statistics per device,
as data-parallel PyTorch has them). PyTorch in both memory formats. All take turns in one process;
the ratio is our time over PyTorch's better one. Target: at most 1. Run it on a quiet machine:
PyTorch's threads spin at barriers and suffer far more than ours from other processes. On a busy one
`OMP_NUM_THREADS=1 taskset -c 0 ... --devices 1` and the 'cpu ms' compare the work per core.
Cost: about 5 minutes.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, shard_map
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import timing
from dapt_jax.models import model as models
from dapt_jax.models import vgg

STAGES = ((16,), (32,))
NETWORKS: dict[str, dict[str, Any]] = {
  'convnet': {'input_shape': (28, 28, 1), 'stages': STAGES},
  'resnet20': {'input_shape': (32, 32, 3)},
  'vgg16': {'input_shape': (32, 32, 3)},
}
#: Lowering and placement by name.
VARIANTS = {
  'lax': ('lax', 'one'),
  'auto': ('auto', 'one'),
  'auto jit': ('auto', 'jit'),
  'auto shard_map': ('auto', 'shard_map'),
}
RATE, MOMENTUM = 0.05, 0.9
State = tuple[Any, Any, Any]


def update(
  model: models.Model, state: State, x: jax.Array, y: jax.Array, axis_name: str | None = None
) -> tuple[State, jax.Array]:
  """One step of SGD with momentum on `(params, velocity, batch_stats)`."""
  params, velocity, statistics = state

  def loss_fn(params: Any) -> tuple[jax.Array, Any]:
    logits, new = model.apply_train({'params': params, 'batch_stats': statistics}, x)
    log_p = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_p, y[:, None], axis=1)), new['batch_stats']

  (loss, batch), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
  if axis_name is not None:
    loss, batch, gradient = lax.pmean((loss, batch, gradient), axis_name)
  statistics = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, statistics, batch)
  velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
  params = jax.tree.map(lambda p, v: p - RATE * v, params, velocity)
  return (params, velocity, statistics), loss


def our_step(name: str, lowering: str, place: str, batch: int) -> Callable[[], jax.Array]:
  """A function that does one of our steps each time and returns the loss."""
  model = models.create(name, num_classes=10, lowering=lowering, **NETWORKS[name])
  rng = np.random.default_rng(0)
  x = rng.standard_normal((batch, *model.input_shape), np.float32)
  y = rng.integers(0, 10, batch)
  variables = jax.jit(model.init)(jax.random.key(0))
  params = variables['params']
  state = (params, jax.tree.map(jnp.zeros_like, params), variables['batch_stats'])
  step: Callable[..., Any] = functools.partial(update, model)
  if place == 'one':
    x, y = jax.device_put((x, y))
  else:
    mesh = Mesh(np.asarray(jax.devices()), ('batch',))
    split, whole = PartitionSpec('batch'), PartitionSpec()
    x, y = jax.device_put((x, y), NamedSharding(mesh, split))
    state = jax.device_put(state, NamedSharding(mesh, whole))
    if place == 'shard_map':
      step = shard_map(
        functools.partial(update, model, axis_name='batch'),
        mesh=mesh,
        in_specs=(whole, split, split),
        out_specs=whole,
        check_vma=False,  # with it, gradients of replicated parameters arrive summed already
      )
  compiled = jax.jit(step, donate_argnums=0)
  newest = [state]

  def run() -> jax.Array:
    newest[0], loss = compiled(newest[0], x, y)
    return loss

  return run


def torch_steps(name: str, batch: int) -> dict[str, Callable[[], Any]]:
  """PyTorch's steps by name; empty where PyTorch is not installed."""
  try:
    from benchmarks import torch_networks
  except ModuleNotFoundError:
    return {}
  shape = NETWORKS[name]['input_shape']
  channels = shape[2]
  found: dict[str, Callable[[], Any]] = {}
  for label, channels_last in (('torch', False), ('torch channels_last', True)):
    if name == 'resnet20':
      network = torch_networks.resnet(channels, blocks=3, width=16, num_classes=10)
    else:
      stages = STAGES if name == 'convnet' else vgg.VGG16_STAGES
      network = torch_networks.vgg(channels, stages, num_classes=10)
    found[label] = torch_networks.training_step(network, shape, batch, channels_last)
  return found


def measure(name: str, batch: int, repeats: int) -> list[dict[str, Any]]:
  """Rows of one network, ours and PyTorch's."""
  runs = {label: our_step(name, *variant, batch) for label, variant in VARIANTS.items()}
  theirs = torch_steps(name, batch)
  times = timing.interleaved({**runs, **theirs}, repeats=repeats)
  rows = []
  for label, seen in times.items():
    row = {'network': name, 'variant': label, 'ms': seen.median, 'cpu ms': seen.cpu}
    row['quartiles'] = f'{seen.low:.3g} .. {seen.high:.3g}'
    if theirs:
      row['ratio'] = seen.median / min(times[other].median for other in theirs)
    rows.append(row)
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--batch', type=int, default=64, help='images a step (64)')
  parser.add_argument('--repeats', type=int, default=11, help='timed rounds (11)')
  cores = os.cpu_count() or 1
  parser.add_argument('--devices', type=int, default=cores, help='host devices (one per core)')
  parser.add_argument('--networks', nargs='+', default=list(NETWORKS), choices=list(NETWORKS))
  args = parser.parse_args()
  if args.batch % args.devices:
    parser.error(f'--devices={args.devices} must divide --batch={args.batch}')
  jax.config.update('jax_num_cpu_devices', args.devices)
  rows: list[dict[str, Any]] = []
  for name in args.networks:
    rows += measure(name, args.batch, args.repeats)
    print(timing.table([row for row in rows if row['network'] == name]), flush=True)
  packages = ('jax', 'jaxlib', 'numpy', *(('torch',) if 'ratio' in rows[0] else ()))
  facts = {'batch': args.batch, 'repeats': args.repeats}
  print(timing.save('training_step', rows, machine=timing.machine(packages), **facts))


if __name__ == '__main__':
  main()
