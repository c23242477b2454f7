"""Networks and the central comparison for the tests of the channel graph."""

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax import graph as graph_lib
from dapt_jax.models import layers, resnet
from dapt_jax.models import model as models

INPUT = (6, 6, 3)


def randomised(tree, seed=0):
  """Parameters and statistics that are random but tame; variances and scales stay positive."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = jax.tree_util.keystr(path)
    if 'var' in name or 'scale' in name:
      return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    fan_in = max(1, int(np.prod(leaf.shape[:-1]))) if len(leaf.shape) > 1 else 10
    return (rng.normal(size=leaf.shape) * 1.5 / np.sqrt(fan_in)).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, tree)


def model(name, train=False, input_shape=INPUT, **config):
  """(apply function, variables) of a reference model lowered to plain primitives."""
  made = models.create(name, input_shape=input_shape, num_classes=4, lowering='lax', **config)
  shapes = jax.eval_shape(made.init, jax.random.key(0))
  return (made.apply_train if train else made.apply), randomised(shapes)


def resnet8(train=False, width=2):
  """(apply function, variables) of a residual network with a block per stage."""
  execution = layers.Execution(lowering='lax')
  module = resnet.ResNet(num_classes=4, blocks=(1, 1, 1), width=width, execution=execution)
  shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *INPUT)))
  mutable = ['batch_stats'] if train else False

  def apply_fn(variables, x):
    return module.apply(variables, x, train=train, mutable=mutable)

  return apply_fn, randomised(shapes)


def random_gates(graph, seed, low=0.3, high=0.9):
  """Binary gates that keep a channel on every axis and a summand of every sum."""
  rng = np.random.default_rng(seed)
  gates = {}
  for name, group in graph.gated_groups.items():
    gate = (rng.random(group.width) < rng.uniform(low, high)).astype(np.float32)
    if group.kind not in ('branch', 'link'):
      for layer in group.layers:
        gate[rng.choice(layer)] = 1.0
    gates[name] = gate
  for names, is_open in zip(graph.sums, graph.open_sums):
    if not is_open:
      gates[rng.choice(names)][0] = 1.0
  return gates


def architecture(gates):
  """The architecture of binary gates."""
  return graph_lib.Architecture(
    {n: np.flatnonzero(g).astype(np.int32) for n, g in gates.items()},
    {n: len(g) for n, g in gates.items()},
  )


def images(batch, shape=INPUT, seed=1):
  return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)


def assert_close(found, wanted, tolerance=1e-5):
  """Leaf by leaf, relative to the largest entry of the wanted leaf; None matches None."""
  found, wanted = (jax.tree.leaves(t, is_leaf=lambda x: x is None) for t in (found, wanted))
  assert len(found) == len(wanted)
  for a, b in zip(found, wanted):
    assert (a is None) == (b is None)
    if a is not None:
      a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
      assert a.shape == b.shape
      size = max(1e-2, np.abs(b).max(initial=0.0))
      assert np.isfinite(a).all()
      assert np.abs(a - b).max(initial=0.0) <= tolerance * size


def _evaluate(graph, fn, gradients):
  """Compiled `(gradients by all arguments, results)`; quick to compile, not to run."""

  def loss(params, *inputs):
    out = fn(params, *inputs)
    leaves = jax.tree.leaves(out, is_leaf=lambda x: x is None)
    main = [v for i, v in enumerate(leaves) if i not in graph.tree.state_outputs]
    return sum(jnp.sum(jnp.sin(v) + v) for v in main), out

  count = graph.tree.jaxpr.in_avals[graph.tree.num_params :]
  real = [i for i, a in enumerate(count, 1) if jnp.issubdtype(a.dtype, jnp.inexact)]
  numbers = (0, *real)
  options = {'xla_backend_optimization_level': 0}
  if not gradients:
    return jax.jit(lambda *args: ((None, ()), fn(*args)), compiler_options=options)
  return jax.jit(jax.grad(loss, argnums=numbers, has_aux=True), compiler_options=options)


class Comparison:
  """Compares one whole network, compiled once, with what is cut out of it."""

  def __init__(self, graph, params, gradients=True):
    self.graph = graph
    self.gradients = gradients
    self.params = params

    def masked(both, *inputs):
      params, gates = both
      return graph.apply(params, gates, *inputs)

    self.masked = _evaluate(graph, masked, gradients)

  def check(self, arch, *inputs, tolerance=1e-5, grad_tolerance=None):
    """Asserts equal results and gradients (inputs and kept parameters)."""
    graph, params = self.graph, self.params
    grad_tolerance = 5 * tolerance if grad_tolerance is None else grad_tolerance
    small_fn, small_params = graph.shrink(arch, params)
    gates = {n: jnp.asarray(g) for n, g in arch.masks().items()}
    wanted_grads, wanted = self.masked((params, gates), *inputs)
    found_grads, found = _evaluate(graph, small_fn, self.gradients)(small_params, *inputs)
    kept = lambda tree: graph.shrink(arch, tree)[1]
    every = jax.tree.leaves(found, is_leaf=lambda x: x is None)
    for number, value in enumerate(jax.tree.leaves(wanted)):
      if number not in graph.tree.state_outputs:
        assert_close(every[number], value, tolerance)
    if graph.tree.state_outputs:
      assert_close({**small_params, **found[1]}, kept({**params, **wanted[1]}), tolerance)
    if not self.gradients:
      return small_fn, small_params
    assert_close(found_grads[0], kept(wanted_grads[0][0]), grad_tolerance)
    assert_close(found_grads[1:], wanted_grads[1:], grad_tolerance)
    return small_fn, small_params


def assert_masked_is_shrunk(graph, params, arch, *inputs, gradients=True, **tolerances):
  """Results and gradients of the masked whole network equal those of the shrunk one."""
  return Comparison(graph, params, gradients).check(arch, *inputs, **tolerances)
