"""Script of the diffusion tests: one device against two; prints differences as JSON."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dapt_jax.diffusion import objective, schedule, train
from dapt_jax.training import loop, runner


def init_fn(key):
  return {'w': 0.1 * jax.random.normal(key, (3, 4)), 'c': jnp.zeros(4), 'null': jnp.ones(4)}


def predict(params, x, t, condition, drop):
  """Linear, so that XLA compiles it in no time."""
  return x @ params['w'].T @ params['w'] + jnp.where(
    drop[:, None], params['null'], t[:, None] * params['c'] * condition
  )


def batches(step):
  rng = np.random.default_rng(step)
  return rng.normal(size=(16, 4)).astype(np.float32), rng.normal(size=(16, 1)).astype(np.float32)


def run(kind):
  goal = objective.create('epsilon', schedule.create('linear_sqrt', 1000))
  # Plain gradient descent: Adam would hide a gradient of the wrong scale.
  training = train.make_training(init_fn, predict, goal, optax.sgd(0.05), drop_rate=0.5)
  devices = jax.devices()[: 1 if kind == 'one' else 2]
  update = runner.make_update(training.update, batch_axes=0, devices=devices)
  start = training.init(jax.random.key(0))
  return start, loop.run(update, start, batches, num_steps=20, progress=False), update


def difference(a, b):
  return max(float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def main():
  runner.host_devices(2)
  (start, one, _), (_, two, mapped) = run('one'), run('auto')
  print(
    json.dumps(
      {
        'devices': mapped.num_devices,
        'moved': difference(start.params, one.state.params),
        'params': difference(one.state.params, two.state.params),
        'ema': difference(one.state.ema, two.state.ema),
        'loss': abs(float(one.metrics['loss'] - two.metrics['loss'])),
        'step': int(two.state.step),
      }
    )
  )


if __name__ == '__main__':
  main()
