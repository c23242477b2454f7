"""Script of the search's tests: one search on one and on four CPU devices, compared as JSON."""

import json

import jax
import numpy as np
import optax
import pruning_toys as toys

from dapt_jax import pruning
from dapt_jax.training import runner

STEPS = 11


def search():
  graph, init, apply = toys.mlp()
  return toys.search(
    graph,
    toys.cross_entropy(apply),
    pruning.weights.fresh(init, lifetime=4, inner_steps=1),
    gate=optax.sgd(0.5),  # Adam would hide a gradient of the wrong scale
    weight=optax.sgd(0.05),
    population=8,
    relaxation='gumbel_trapezoid',
    budget=0.5,
    warmup=1,
  )


def train(kind):
  made = search()
  devices = jax.devices()[: 1 if kind == 'one' else 4]
  mapped = runner.make_update(made.update, state_axes=pruning.STATE_AXES, devices=devices)
  state = mapped.place(made.init(jax.random.key(3)))
  metrics = {}
  for step in range(STEPS):
    state, metrics = mapped(state, toys.batch(step))
  mapped.check_replicated(state, metrics)
  first = lambda x: np.asarray(x).reshape(-1)[0]
  return mapped.gather(state), {k: first(v) for k, v in metrics.items()}


def difference(one, other):
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in pairs)


def main():
  runner.host_devices(4)
  (one, metrics), (four, also) = train('one'), train('auto')
  start = search().init(jax.random.key(3))
  print(
    json.dumps(
      {
        'devices': jax.device_count(),
        'theta': difference(one.shared.theta, four.shared.theta),
        'weights': difference(one.population.params, four.population.params),
        'metrics': difference(metrics, also),
        'moved': difference(one.shared.theta, start.shared.theta),
      }
    )
  )


if __name__ == '__main__':
  main()
