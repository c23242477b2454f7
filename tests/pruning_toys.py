"""Small networks, data and searches for the tests of the pruning room."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dapt_jax import graph as graph_lib
from dapt_jax import pruning
from dapt_jax.gates import schedules

CLASSES = 3


def mlp(inputs=6, hidden=8, levels=('channel',), depth=1):
  """`(graph, init, apply)` of a plain MLP without biases."""
  sizes = [inputs, *[hidden] * depth, CLASSES]

  def init(key):
    keys = jax.random.split(key, len(sizes) - 1)
    return {
      f'w{i}': jax.random.normal(k, (m, n)) * jnp.sqrt(2.0 / m)
      for i, (k, m, n) in enumerate(zip(keys, sizes, sizes[1:]))
    }

  def apply(params, x):
    for i in range(depth):
      x = jax.nn.relu(x @ params[f'w{i}'])
    return x @ params[f'w{depth}']

  shapes = jax.eval_shape(init, jax.random.key(0))
  graph = graph_lib.trace(
    apply, shapes, jax.ShapeDtypeStruct((1, inputs), jnp.float32), levels=levels
  )
  return graph, init, apply


def cross_entropy(apply):
  return pruning.losses.cross_entropy(lambda params, x: (apply(params, x), {}))


def examples(seed, size=32, inputs=6, relevant=3):
  """Class c is the largest of the first `relevant` inputs, in groups of relevant / CLASSES."""
  x = np.random.default_rng(seed).normal(size=(size, inputs)).astype(np.float32)
  scores = x[:, :relevant].reshape(size, CLASSES, -1).sum(-1)
  return {'image': x, 'label': scores.argmax(1).astype(np.int32)}


def batch(step, inner=1, label=None, **options):
  """`{'weights', 'gates'}` of an update; `label` replaces all labels by noise of that seed."""
  parts = [examples(1000 * step + i, **options) for i in range(inner + 1)]
  if label is not None:
    rng = np.random.default_rng([label, step])
    parts = [
      {**p, 'label': rng.integers(0, CLASSES, len(p['label'])).astype(np.int32)} for p in parts
    ]
  stacked = jax.tree.map(lambda *x: np.stack(x), *parts[: max(inner, 1)])
  weights = stacked if inner > 1 else parts[0]
  return {'weights': weights, 'gates': parts[-1]}


def search(graph, loss, source, *, gate=None, weight=None, start=None, **settings):
  given = {'population': 2, 'budget': None, 'hard': schedules.constant(0.1), **settings}
  return pruning.make_search(
    graph,
    loss,
    source,
    gate_optimizer=gate or optax.sgd(1.0),
    weight_optimizer=weight or optax.sgd(0.1),
    settings=pruning.Settings(**given),
    start=start,
  )


def run(made, batches, steps, key=0, every=None):
  """Runs a search; `every(step, state, metrics)` looks at each step's result."""
  state = made.init(jax.random.key(key))
  update = jax.jit(made.update)
  metrics = {}
  for step in range(steps):
    state, metrics = update(state, batches(step))
    if every is not None:
      every(step, state, metrics)
  return state, metrics


def run_compiled(made, batches, steps, key=0):
  """The same as one program, for long runs without a look; returns (state, metrics by step)."""
  every = jax.tree.map(lambda *x: np.stack(x), *[batches(step) for step in range(steps)])
  scan = jax.jit(lambda state, every: jax.lax.scan(made.update, state, every))
  return scan(made.init(jax.random.key(key)), every)
