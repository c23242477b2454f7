"""Script of the tests of several processes: trains toys on all devices of all processes.

  python tests/training_processes.py PROCESS PROCESSES PORT DEVICES_PER_PROCESS OUT.npz

Process 0 writes, for every way to run a step and every toy, the leaves of the state after `STEPS`
updates and the metrics, as `KIND/TOY/LEAF`.
"""

import os
import pathlib
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pruning_toys as toys
import transfer_toys
import weights_toys

from dapt_jax import pruning
from dapt_jax.models import model as model_lib
from dapt_jax.training import hosts, layout, loop, runner, stopping, workdir
from dapt_jax.transfer import draws, retrain
from dapt_jax.weights import members, zoo

STEPS = 20
KINDS = ('jit', 'pmap', 'shard_map')


def search(kind):
  """A search with batches of every network's own: the population is spread over the devices."""
  graph, init, apply = toys.mlp()
  made = toys.search(
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
  step = runner.make_update(made.update, kind=kind, state_axes=pruning.STATE_AXES)
  return step, made.init(jax.random.key(3)), toys.batch


def normalised(kind):
  """One network with BatchNorm, the batch spread over the devices."""
  make = lambda axis_name: model_lib.create(
    'convnet', input_shape=(6, 6, 1), num_classes=3, stages=((4,), (4,)), axis_name=axis_name
  )

  def update(state, batch, axis_name=None):
    apply = make(axis_name).apply_train

    def loss_fn(params):
      logits, stats = apply(params, batch['image'])
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
      return losses.mean(), stats

    (loss, stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state)
    if axis_name is not None:
      loss, gradient = jax.lax.pmean((loss, gradient), axis_name)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, state, gradient)
    return {**moved, **stats}, {'loss': loss}

  def batches(step):
    rng = np.random.default_rng(step)
    whole = {
      'image': rng.normal(size=(16, 6, 6, 1)).astype(np.float32),
      'label': rng.integers(0, 3, 16).astype(np.int32),
    }
    return layout.rows(whole, 0, hosts.index(), hosts.count())

  return (
    runner.make_update(update, kind=kind, batch_axes=0),
    make(None).init(jax.random.key(0)),
    batches,
  )


def retrained(devices):
  """Few-shot retraining, with BatchNorm: the runs are spread over the devices."""
  images = transfer_toys.images()
  support = draws.supports(images[1], (1, 5), 4)
  recipe = retrain.Recipe(steps=STEPS, batch_size=8, learning_rate=0.02, chunk=10, stop_loss=0.0)
  out = retrain.retrain(
    transfer_toys.structure(),
    *images[:2],
    support,
    *images[2:],
    recipe=recipe,
    key=jax.random.key(0),
    devices=devices,
  )
  return {'accuracy': out.accuracy, 'loss': out.loss, 'params': transfer_toys.flat(out.params)}


def zoo_weights(directory):
  """The networks of a small zoo of four shards."""
  plan = zoo.Plan(size=8, per_class=8, test_per_class=5, shard=2)
  recipe = members.Recipe(steps=STEPS, batch_size=8, learning_rate=3e-3)
  model = weights_toys.model()
  return zoo.build(directory / 'zoo', model, weights_toys.make_bank(), plan, recipe).vectors


def refused(directory):
  """What every process hears when one of them has another configuration."""
  try:
    with workdir.open_workdir(directory / 'other', {'rate': hosts.index()}, kind='toy'):
      pass
  except hosts.HostError as error:
    return str(error)
  return 'not refused'


def stopped(directory):
  """A run whose last process is asked to stop at step 30: '(code, step, resumed from)'."""
  step, state, batches = normalised('auto')

  def asked(number):
    if number == 30 and hosts.index() == hosts.count() - 1:
      os.kill(os.getpid(), signal.SIGTERM)
    return batches(number)

  options = {'num_steps': 1000, 'progress': False, 'prefetch': 0}
  code, at = 0, 0
  with workdir.open_workdir(directory / 'run', {}, kind='toy') as opened:
    try:
      loop.run(step, state, asked, workdir=opened, **options)
    except stopping.Interrupted as error:
      code, at = error.code, error.step
  with workdir.open_workdir(directory / 'run', {}, kind='toy') as opened:
    again = loop.run(step, state, batches, workdir=opened, **{**options, 'num_steps': at + 1})
  return [code, at, again.resumed_from]


def main(process, processes, port, devices, out):
  runner.host_devices(int(devices))
  if int(processes) > 1:
    address = hosts.Address(f'localhost:{port}', int(processes), int(process))
    hosts.initialize(address, timeout=60, heartbeat=20)
  results = {}
  for kind in KINDS if jax.device_count() > 1 else ('jit',):
    for toy in (search, normalised):
      step, state, batches = toy(kind)
      done = loop.run(step, state, batches, num_steps=STEPS, progress=False, log_every=7)
      for path, leaf in jax.tree_util.tree_leaves_with_path((done.state, done.metrics)):
        plain = jax.random.key_data(leaf) if layout.is_key(leaf) else leaf
        results[f'{kind}/{toy.__name__}/{jax.tree_util.keystr(path)}'] = np.asarray(plain)
      results[f'{kind}/{toy.__name__}/devices'] = np.int32(step.num_devices)
  for name, value in retrained(jax.devices()).items():
    results[f'retrained/{name}'] = np.asarray(value)
  out_dir = pathlib.Path(out).with_suffix('')
  odd = {'x': np.float32([-0.0, 1e-42]), 'k': jax.random.key(hosts.index()), 'n': np.int8([-3])}
  sent = hosts.broadcast_arrays(odd)
  results['sent'] = np.frombuffer(b''.join(np.asarray(sent[n]).tobytes() for n in 'xn'), np.uint8)
  results['key'] = np.asarray(jax.random.key_data(sent['k']))
  results['zoo'] = zoo_weights(out_dir)
  results['refused'] = np.array(refused(out_dir))
  results['stopped'] = np.array(stopped(out_dir))
  hosts.agree(
    {name: float(jnp.sum(x)) for name, x in results.items() if x.dtype.kind != 'U'}, 'result'
  )
  if hosts.is_first():
    np.savez(out, **results)


if __name__ == '__main__':
  main(*sys.argv[1:])
