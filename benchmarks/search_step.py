"""One update of the search against a plain training step of the same networks.

  python -m benchmarks.search_step [--precisions float32 bfloat16]

Both see 128 examples per network and update and the same K = 4 networks of `configs/demo.py`: the
search uses 64 for the weights and 64 for the gates, the plain step all for the weights. What the
search adds is drawing gates, multiplying them into the weights, and moving the logits.
On accelerators whose peak is known 'MFU' is the share of it that the search step reaches (6
operations a multiply-accumulate of the whole network and example).
Target: at most 1.15 times the plain step. Cost: a few minutes, most of it compilation;
`--devices=1` halves it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import timing
from configs import demo
from dapt_jax import pruning
from dapt_jax.models import population, precision
from dapt_jax.training import runner, speed
from experiments import gate_search
from experiments import task as task_lib

LEVELS = (('channel', 'branch'), ('branch',))
TARGET = 1.15


def plain_step(
  task: task_lib.Task, optimizer: optax.GradientTransformation, name: str
) -> Callable[..., Any]:
  """`update(state, batch)` that trains a population in a precision, each on the whole batch."""
  network = precision.compute_in(task.fast, name)
  loss_fn = pruning.losses.cross_entropy(network.apply_train)

  def member(state, batch):
    params, opt_state = state
    loss, gradient = jax.value_and_grad(loss_fn)(params, batch)
    moves, opt_state = optimizer.update(gradient, opt_state, params)
    return (optax.apply_updates(params, moves), opt_state), loss

  def update(state, batch, axis_name=None):
    state, loss = population.map_population(member, in_axes=(0, None))(state, batch)
    loss = loss.mean()
    return state, {'loss': loss if axis_name is None else jax.lax.pmean(loss, axis_name)}

  return update


def repeat(mapped: runner.Mapped, state: Any, batch: Any) -> Callable[[], Any]:
  """A function that does one more step each time; states are donated, so it keeps the newest."""
  newest = [mapped.place(state)]

  def step():
    newest[0], metrics = mapped(newest[0], batch)
    return newest[0], metrics

  return step


def steps(
  kind: runner.Kind, devices: Sequence[jax.Device], name: str
) -> tuple[dict[str, Callable[[], Any]], float]:
  """The plain step, 'plain', a search step for every choice of gates, and operations of one."""
  out = {}
  for levels in LEVELS:
    config = demo.get_config()
    config.search.levels, config.precision = levels, name
    config.search.shots = 0  # one batch for the whole population, as the plain step has it
    c, task = config.search, task_lib.load(config)
    search = gate_search.make_search(
      config, task, workdir='', budget=c.budgets[0], variant='learned'
    )
    batch = gate_search.batches(task, c, seed=0)(0)
    searched = runner.make_update(
      search.update, state_axes=pruning.STATE_AXES, kind=kind, devices=devices
    )
    out['+'.join(levels)] = repeat(searched, search.init(jax.random.key(0)), batch)

  whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), batch['weights'], batch['gates'])
  optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(c.weight_rate))
  params = jax.vmap(task.fast.init)(jax.random.split(jax.random.key(0), c.population))
  trained = (params, jax.vmap(optimizer.init)(params))
  plain = runner.make_update(
    plain_step(task, optimizer, name), state_axes=0, kind=kind, devices=devices
  )
  return {'plain': repeat(plain, trained, whole), **out}, gate_search.work(task, c).flops or 0.0


def measure(repeats: int, devices: int, name: str) -> list[dict[str, Any]]:
  """Rows of the table in one precision: every choice of gates, on one device and on all."""
  rows = []
  kinds: list[tuple[runner.Kind, int]] = [('jit', 1)]
  if devices > 1:
    kinds += [('pmap', devices), ('shard_map', devices)]
  for kind, count in kinds:
    functions, flops = steps(kind, jax.devices()[:count], name)
    times = timing.interleaved(functions, repeats=repeats)
    peak = speed.peak(jax.devices()[0])
    plain = times.pop('plain')
    for gates, search in times.items():
      rows.append(
        {
          'precision': name,
          'runner': kind,
          'devices': count,
          'gates': gates,
          'plain ms': plain.median,
          'search ms': search.median,
          'ratio': search.median / plain.median,
          'plain quartiles': f'{plain.low:.3g} .. {plain.high:.3g}',
          'search quartiles': f'{search.low:.3g} .. {search.high:.3g}',
          'CPU ratio': search.cpu / plain.cpu,
          **({'MFU': 1e3 * flops / search.median / (peak * count)} if peak else {}),
        }
      )
    print(timing.table(rows), flush=True)
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--repeats', type=int, default=15, help='timed rounds (15)')
  cores = os.cpu_count() or 1
  parser.add_argument('--devices', type=int, default=cores, help='host devices (one per core)')
  names = precision.NAMES
  parser.add_argument('--precisions', nargs='+', choices=names, default=names[:1])
  args = parser.parse_args()
  population_size = demo.get_config().search.population
  if population_size % args.devices:
    parser.error(f'--devices={args.devices} must divide the {population_size} networks')
  runner.host_devices(args.devices)
  rows = [r for name in args.precisions for r in measure(args.repeats, args.devices, name)]
  worst = max(row['ratio'] for row in rows)
  print(f'worst ratio {worst:.3f}, target at most {TARGET}')
  print(timing.save('search_step', rows, target=TARGET, repeats=args.repeats))


if __name__ == '__main__':
  main()
