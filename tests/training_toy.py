"""A small noisy regression for the loop's tests; as a script it is the process the tests kill."""

import functools
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dapt_jax.training import disk, loop, runner, workdir

NUM_STEPS = 60
OPTIMIZER = optax.adam(1e-2)


def init():
  params = {'w': jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), 'b': jnp.zeros(3, jnp.bfloat16)}
  return {
    'params': params,
    'opt': OPTIMIZER.init(params),
    'key': jax.random.key(7, impl='unsafe_rbg'),  # compiles fast
    'raw': jax.random.PRNGKey(8),
    'best': np.float32(np.inf),
    'scale': 1.0,
  }


def update(state, batch, axis_name=None):
  key, sub = jax.random.split(state['key'])

  def loss_fn(params):
    noise = 0.1 * jax.random.normal(sub, batch['x'].shape)
    out = (batch['x'] + noise) @ params['w'] + params['b']
    return jnp.mean(jnp.square(out - batch['y']))

  loss, grads = jax.value_and_grad(loss_fn)(state['params'])
  updates, opt = OPTIMIZER.update(grads, state['opt'], state['params'])
  new = {
    'params': optax.apply_updates(state['params'], updates),
    'opt': opt,
    'key': key,
    'raw': state['raw'] * 3 + 1,
    'best': jnp.minimum(state['best'], loss),
    'scale': 1.0,  # weakly typed on purpose
  }
  return new, {'loss': loss, 'cost': jnp.mean(jnp.abs(new['params']['w'])), 'budget': 0.25}


def batches(step):
  rng = np.random.default_rng((3, step))
  x = rng.normal(size=(16, 4)).astype(np.float32)
  return {'x': x, 'y': x[:, :3] * 2}


@functools.cache
def compiled():
  return runner.make_update(update, kind='jit')


def run(directory, *, batches=batches, num_steps=NUM_STEPS, **kwargs):
  kwargs = {'checkpoint_every': 20, 'log_every': 7, 'progress': False, 'prefetch': 0, **kwargs}
  with workdir.open_workdir(directory, {'lr': 1e-2}, kind='toy') as opened:
    return loop.run(compiled(), init(), batches, num_steps=num_steps, workdir=opened, **kwargs)


def leaves(state):
  """Every leaf's bytes, for comparison bit by bit."""
  typed = lambda x: hasattr(x, 'dtype') and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
  return [
    np.asarray(jax.random.key_data(x) if typed(x) else x).tobytes() for x in jax.tree.leaves(state)
  ]


def say(line):
  """A line at once and in one piece: two threads talk."""
  os.write(1, f'{line}\n'.encode())


def slow_batches(step):
  say(f'batch {step}')
  time.sleep(0.02)
  return batches(step)


def talking(write):
  """`Disk.write` that says when it begins and ends."""

  def told(self, step, *rest):
    say(f'writing {step}')
    write(self, step, *rest)
    say(f'written {step}')

  return told


if __name__ == '__main__':
  every = int(sys.argv[2].removeprefix('--every=')) if len(sys.argv) > 2 else 20
  disk.Disk.write = talking(disk.Disk.write)
  run(sys.argv[1], batches=slow_batches, progress=True, checkpoint_every=every, prefetch=2)
