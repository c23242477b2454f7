"""Script of the runner's tests: prints, as JSON, what happens on four CPU devices."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.training import checkpoint, loop, runner

RATE = 0.1  # plain gradient descent: Adam would hide a gradient of the wrong scale
STATE_AXES = {'gates': None, 'weights': 0, 'keys': 0, 'step': None}


def init(members):
  return {
    'gates': jnp.linspace(-1.0, 1.0, 5),
    'weights': jax.random.normal(jax.random.key(1), (members, 5)),
    'keys': jax.random.split(jax.random.key(2), members),
    'step': 0,
  }


def update(state, batch, axis_name=None, *, sync=True, sync_metrics=True):
  """A population of linear models beside one shared gate vector."""
  both = jax.vmap(lambda key: jax.random.split(key))(state['keys'])

  def loss_fn(gates, weights):
    one = lambda w, key: jnp.mean(
      jnp.square(batch['x'] @ (w * jax.nn.sigmoid(gates)) + jax.random.normal(key) - batch['y'])
    )
    losses = jax.vmap(one)(weights, both[:, 1])
    return jnp.mean(losses), losses

  grad_fn = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
  (loss, losses), (gate_grad, weight_grad) = grad_fn(state['gates'], state['weights'])
  weight_grad = weight_grad * len(losses)  # each member its own loss, whatever the population
  mean = (lambda x: jax.lax.pmean(x, axis_name)) if axis_name else (lambda x: x)
  gate_grad = mean(gate_grad) if sync else gate_grad
  new = {
    'gates': state['gates'] - RATE * gate_grad,
    'weights': state['weights'] - RATE * weight_grad,
    'keys': both[:, 0],
    'step': state['step'] + 1,
  }
  return new, {'loss': mean(loss) if sync_metrics else loss, 'losses': losses}


def data_update(state, batch, axis_name=None):
  """One model, the batch spread over the devices."""
  loss_fn = lambda w: jnp.mean(jnp.square(batch['x'] @ w - batch['y']))
  loss, grad = jax.value_and_grad(loss_fn)(state['w'])
  if axis_name:
    loss, grad = jax.lax.pmean((loss, grad), axis_name)
  return {'w': state['w'] - RATE * grad}, {'loss': loss}


def batches(step):
  rng = np.random.default_rng(step)
  x = rng.normal(size=(32, 5)).astype(np.float32)
  return {'x': x, 'y': x.sum(1)}


def train(kind, step=update, steps=20, **kwargs):
  axes = {'state_axes': STATE_AXES, 'metric_axes': {'loss': None, 'losses': 0}, **kwargs}
  one = {'kind': 'jit', 'devices': jax.devices()[:1]}
  mapped = runner.make_update(step, **(one if kind == 'one' else {'kind': kind}), **axes)
  state = {'w': jnp.zeros(5)} if step is data_update else init(8)
  result = loop.run(mapped, state, batches, num_steps=steps, log_every=9, progress=False)
  return mapped, result


def difference(a, b):
  plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return max(float(np.max(np.abs(np.asarray(plain(x)) - np.asarray(plain(y))))) for x, y in pairs)


def message(call, *args, **kwargs):
  try:
    call(*args, **kwargs)
  except Exception as error:
    return f'{type(error).__name__}: {error}'
  return 'no error'


def main(directory):
  runner.host_devices(4)
  out = {'devices': jax.device_count()}
  one, alone = train('one')
  free = {'state_axes': None, 'metric_axes': None, 'batch_axes': 0}
  data = train('one', data_update, **free)[1].state
  out['moved'] = difference(alone.state['gates'], init(8)['gates'])
  out['kinds'] = {}
  for kind in ('jit', 'pmap', 'shard_map'):
    many, mapped = train(kind)
    out['kinds'][kind] = {
      'num_devices': many.num_devices,
      'population': difference(alone.state, mapped.state),
      'losses': difference(alone.metrics['losses'], mapped.metrics['losses']),
      'shapes': [list(mapped.state[k].shape) for k in ('gates', 'weights', 'keys')],
      'data': difference(data, train(kind, data_update, **free)[1].state),
      'compiled_later': compiled_after_the_first_step(kind),
      'no_sync': message(train, kind, functools.partial(update, sync=False), steps=1),
      'no_metric_sync': message(
        train, kind, functools.partial(update, sync_metrics=False), steps=1
      ),
    }
  auto = runner.make_update(update, state_axes=STATE_AXES)
  out['auto'] = [auto.kind, auto.num_devices]
  # A checkpoint of four devices continues on one.
  store = checkpoint.Checkpoints(directory)
  half = loop.run(many, init(8), batches, num_steps=10, progress=False)
  store.save(10, half.state)
  placed = one.place(store.restore(one.place(init(8)))[1])
  for step in range(10, 20):
    placed, _ = one(placed, batches(step))
  out['moved_to_one'] = difference(placed, alone.state)
  out['indivisible'] = message(lambda: many.place(init(6)))
  out['batch'] = message(layout_error)
  out['late'] = message(lambda: runner.host_devices(2))
  out['same'] = message(lambda: runner.host_devices(4))
  two = runner.make_update(update, kind='pmap', state_axes=STATE_AXES, devices=jax.devices()[:2])
  out['two'] = list(two.place(init(6))['weights'].shape)
  print(json.dumps(out))


def compiled_after_the_first_step(kind):
  """A placed state must look like one that a step returned, or the second step compiles again."""
  step = runner.make_update(
    update, kind=kind, state_axes=STATE_AXES, metric_axes={'loss': None, 'losses': 0}
  )
  state, _ = step(step.place(init(8)), batches(0))
  seen = []
  listener = lambda event, *rest, **more: seen.append(event)
  jax.monitoring.register_event_duration_secs_listener(listener)
  for number in range(1, 3):
    state, _ = step(state, batches(number))
  return sum('compile' in event for event in seen)


def layout_error():
  step = runner.make_update(data_update, kind='pmap', batch_axes=0)
  step(step.place({'w': jnp.zeros(5)}), {'x': np.ones((6, 5)), 'y': np.ones(6)})


if __name__ == '__main__':
  main(sys.argv[1])
