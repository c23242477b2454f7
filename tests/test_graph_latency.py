"""Bytes moved and measured latency as units of cost."""

import functools
import json

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dapt_jax import graph as graph_lib
from dapt_jax.graph.costs import latency, stopwatch, timings
from dapt_jax.models import overrides


@functools.cache
def _small(name='multibranch'):
  config = {'operators': ('conv1x1', 'sep3x3', 'max_pool', 'skip'), 'cells': 2, 'widths': (12, 12)}
  config |= {'reductions': (), 'inner': 10}
  apply_fn, params = nets.model(name, **(config if name == 'multibranch' else {}))
  return graph_lib.trace(apply_fn, params, nets.images(1)), params


def _dense():
  """Two hidden layers of 16 and 20 channels."""
  fn = lambda p, x: jnp.tanh(jnp.tanh(x @ p['a']) @ p['b']) @ p['c']
  shapes = {'a': (6, 16), 'b': (16, 20), 'c': (20, 4)}
  params = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}
  return graph_lib.trace(fn, params, jax.ShapeDtypeStruct((1, 6), jnp.float32))


def _macs_clock(jobs):
  """A nanosecond for every multiply-accumulate, and for every entry that a window reads."""

  def count(jaxpr):
    total = 0
    for eqn in jaxpr.eqns:
      shapes = [v.aval.shape for v in (*eqn.invars, *eqn.outvars)]
      if eqn.primitive.name == 'dot_general':
        contracted = eqn.params['dimension_numbers'][0][0]
        total += np.prod(shapes[-1]) * np.prod([shapes[0][i] for i in contracted])
      elif eqn.primitive.name == 'conv_general_dilated':
        total += np.prod(shapes[-1]) * np.prod(shapes[1][:3])
      elif eqn.primitive.name.startswith('reduce_window'):
        total += np.prod(shapes[0])
      for inner in jax.core.jaxprs_in_params(eqn.params):
        total += count(inner)
    return total

  return [1e-9 * float(count(jax.make_jaxpr(f)(*shapes).jaxpr)) for f, shapes in jobs]


def _stairs_clock(jobs):
  """Time by shapes alone, not linear in any of them."""
  sizes = [[s.shape for s in jax.tree.leaves(job.shapes)] for job in jobs]
  return [1e-6 * sum(np.ceil(n / 3) ** 0.5 for shape in s for n in shape) for s in sizes]


def _gates(graph, seed=0):
  rng = np.random.default_rng(seed)
  return {n: rng.uniform(0.3, 0.9, g.width) for n, g in graph.gated_groups.items()}


# Bytes.


@pytest.mark.parametrize('name', ['mlp', 'convnet', 'multibranch', 'resnet8'])
def test_bytes_are_those_of_the_shrunk_network_traced_again(name):
  apply_fn, params = nets.resnet8() if name == 'resnet8' else nets.model(name)
  graph = graph_lib.trace(apply_fn, params, nets.images(2))
  for seed in range(2):
    arch = nets.architecture(nets.random_gates(graph, seed))
    gates = arch.masks()
    small_fn, small = graph.shrink(arch, params)
    again = graph_lib.trace(small_fn, small, nets.images(2))
    kept = graph.cost_model.absolute(gates, 'bytes', np)
    assert again.total('bytes') == kept < graph.total('bytes')
    assert float(graph.cost(gates, 'bytes')) == pytest.approx(kept / graph.total('bytes'), rel=1e-5)


def test_bytes_by_hand():
  def fn(p, x):
    h = jnp.tanh(x @ p['u'])  # reads 3 x 6 and 6 x 8, writes 3 x 8
    h = h.astype(jnp.float16) @ p['v']  # 3 x 8 and 8 x 4 in, 3 x 4 out, all of two bytes
    h = lax.scan(lambda c, _: (c @ jnp.ones((4, 4), c.dtype), None), h, length=5)[0]
    return h.sum(1)  # 3 x 4 in, 3 out; NumPy sums halves in float32

  params = {'u': np.ones((6, 8), np.float32), 'v': np.ones((8, 4), np.float16)}
  graph = graph_lib.trace(fn, params, np.ones((3, 6), np.float32))
  loop = 5 * 2 * (12 + 16 + 12)
  assert graph.total('bytes') == 4 * (18 + 48 + 24) + 2 * (24 + 32 + 12) + loop + 4 * (12 + 3)
  arch = graph.decide(graph.init_gates(jax.random.key(0)), budget=0.8, unit='bytes')
  assert 0.75 < arch.costs['bytes']['share'] <= 0.8


def test_gradient_of_bytes():
  graph, _ = _small()
  gates = _gates(graph)
  exact = lambda g: graph.cost_model.absolute(g, 'bytes', np) / graph.total('bytes')
  _check_gradient(lambda g: graph.cost(g, 'bytes'), exact, gates)


def _check_gradient(cost, exact, gates):
  arrays = {n: jnp.asarray(g) for n, g in gates.items()}
  value, grad = jax.jit(jax.value_and_grad(cost))(arrays)
  assert float(value) == pytest.approx(exact(gates), rel=1e-4)
  for name in gates:
    ends = []
    for step in (1e-4, -1e-4):
      moved = {**gates, name: gates[name].copy()}
      moved[name][0] += step
      ends.append(exact(moved))
    wanted = (ends[0] - ends[1]) / 2e-4
    assert float(grad[name][0]) == pytest.approx(wanted, rel=2e-2, abs=1e-5), name


# Interpolation.


@pytest.mark.parametrize('size', [1, 2, 5, 8, 9, 16, 20, 64, 100])
def test_knots_are_exact_and_lines_are_met(size):
  knots = latency.Knots.of(size)
  assert size in knots.widths
  assert max(knots.widths) == size
  assert len(set(knots.widths)) == len(knots.widths) <= 6
  for number, width in enumerate(knots.widths):
    np.testing.assert_allclose(knots.weights(float(width), np), np.eye(len(knots.widths))[number])
  if len(knots.even) != 1:  # one alone is a constant near it, not a line
    for width in np.linspace(0, size, 37):
      assert knots.weights(width, np) @ knots.widths == pytest.approx(width, abs=1e-9)
  np.testing.assert_array_equal(knots.weights(0.0, np), 0.0)


def test_tables_rise_where_the_timer_does():
  knots = latency.Knots.of(64)
  times = np.sqrt(knots.widths)
  at = lambda n: knots.weights(float(n), np) @ times
  even, odd = range(8, 65, 8), [n for n in range(65) if n % 8]
  assert np.all(np.diff([at(n) for n in even]) > 0)
  assert np.all(np.diff([at(n) for n in odd]) > 0)


def test_even_widths_may_be_cheaper_than_their_neighbours():
  knots = latency.Knots.of(32)
  times = np.array([n if n % 8 == 0 else 2.0 * n for n in knots.widths])
  at = lambda n: float(knots.weights(float(n), np) @ times)
  assert (at(15), at(16), at(17)) == pytest.approx((30, 16, 34))
  assert at(16.5) == pytest.approx(0.5 * 16.5 + 0.5 * 33)


# Calibration.


@pytest.mark.parametrize('name', ['convnet', 'multibranch'])
def test_a_bilinear_timer_is_predicted_exactly(name):
  graph, _ = _small(name)
  timed = graph.calibrate(batch=3, timer=_macs_clock)
  wide = graph.at((jax.ShapeDtypeStruct((3, *nets.INPUT), jnp.float32),))
  assert timed.total('latency') >= 1e-9 * wide.total('macs') * 0.999
  for seed in range(3):
    arch = nets.architecture(nets.random_gates(timed, seed))
    function, params = timed.shrink(arch, timed.tree.param_shapes)
    job = stopwatch.Job(function, (params, *wide.tree.input_shapes))
    found = timed.cost_model.absolute(arch.masks(), 'latency', np)
    assert found == pytest.approx(_macs_clock([job])[0], rel=1e-3)


def test_tables_hold_the_times_of_their_layers():
  graph = _dense()
  timed = graph.calibrate(batch=5, timer=_stairs_clock)
  layers = timed.cost_model.measured['latency'].layers
  assert [layer.seconds.shape for layer in layers] == [(5,), (5, 5), (5,)]
  knots = latency.Knots.of(16).widths, latency.Knots.of(20).widths
  for i, a in enumerate(knots[0]):
    for j, b in enumerate(knots[1]):
      shapes = tuple(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((5, a), (a, b)))
      assert layers[1].seconds[i, j] == _stairs_clock([stopwatch.Job(None, shapes)])[0]


def test_gradient_of_latency():
  graph, _ = _small()
  timed = graph.calibrate(batch=2, timer=_stairs_clock)
  exact = lambda g: timed.cost_model.absolute(g, 'latency', np) / timed.total('latency')
  _check_gradient(lambda g: timed.cost(g, 'latency'), exact, _gates(timed, 3))


def test_decide_meets_a_latency_budget():
  graph, params = _small('convnet')
  timed = graph.calibrate(batch=2, timer=_macs_clock)
  theta = timed.init_gates(jax.random.key(0), std=1.0)
  arch = timed.decide(theta, budget=0.5, unit='latency')
  assert 0.49 <= arch.costs['latency']['share'] <= 0.5
  assert set(arch.costs) == {'macs', 'params', 'bytes', 'latency'}
  assert arch.costs['latency']['kept'] < timed.total('latency')
  assert jax.eval_shape(*timed.shrink(arch, params), nets.images(2)).shape == (2, 4)


def test_equal_layers_are_timed_once():
  seen = []

  def clock(jobs):
    seen.append(len(jobs))
    return _stairs_clock(jobs)

  fn = lambda p, x: functools.reduce(lambda h, w: jnp.tanh(h @ w), p, x)
  params = [jax.ShapeDtypeStruct((12, 12), jnp.float32) for _ in range(6)]
  graph = graph_lib.trace(fn, params, jax.ShapeDtypeStruct((1, 12), jnp.float32))
  timed = graph.calibrate(batch=2, timer=clock)
  assert len({layer.name for layer in timed.cost_model.measured['latency'].layers}) == 3
  count = len(latency.Knots.of(12).widths)
  assert seen == [count + count**2 + count + 8]


def test_depthwise_layers_have_one_width_and_lowerings_are_followed():
  calls = []

  def conv(*args, **kwargs):
    calls.append(args[0].shape)
    return overrides.replay(in_loop=False)['conv_general_dilated'](*args, **kwargs)

  graph, _ = _small()
  timed = graph.calibrate(batch=2, timer=_stairs_clock, overrides={'conv_general_dilated': conv})
  shapes = {layer.seconds.ndim for layer in timed.cost_model.measured['latency'].layers}
  assert shapes == {1, 2}
  assert calls


def test_uncalibrated_and_wrong_calls_say_what_to_do():
  graph = _dense()
  gates = graph.init_gates(mean=1.0)
  for call in (graph.cost, lambda g, u: graph.decide(g, unit=u), lambda _, u: graph.total(u)):
    with pytest.raises(ValueError, match=r'not been timed: call graph = graph.calibrate\(batch'):
      call(gates, 'latency')
  with pytest.raises(ValueError, match='batch is 0'):
    graph.calibrate(batch=0)
  params = {'a': np.ones((6, 8), np.float32), 'b': np.ones((8, 2), np.float32)}
  scaled = graph_lib.trace(
    lambda p, x, s: jnp.tanh(x @ p['a'] * s) @ p['b'], params, np.ones((1, 6)), 1.0
  )
  with pytest.raises(ValueError, match='share the batch as their first axis'):
    scaled.calibrate(batch=2)


# Times on this machine.


def test_times_are_kept_on_disk(tmp_path, monkeypatch):
  monkeypatch.setenv('DAPT_JAX_CACHE', str(tmp_path))
  seen = []

  def clock(jobs):
    seen.append(len(jobs))
    return _stairs_clock(jobs)

  monkeypatch.setattr(stopwatch, 'measure', clock)
  graph = _dense()
  first = graph.calibrate(batch=2).total('latency')
  assert graph.calibrate(batch=2).total('latency') == first
  assert len(seen) == 1
  files = sorted(tmp_path.rglob('*.json'))
  assert len(files) == 4
  assert not list(tmp_path.rglob('*.tmp'))
  content = json.loads(files[0].read_text())
  assert content['machine'] == stopwatch.machine()
  files[0].write_text('{"seconds": [1')
  files[1].write_text(json.dumps({'seconds': [-1.0] * len(content['seconds'])}))
  with pytest.warns(UserWarning, match='is damaged; its layer is timed again'):
    assert graph.calibrate(batch=2).total('latency') == first
  assert len(seen) == 2
  graph.calibrate(batch=3)
  assert len(seen) == 3
  monkeypatch.setattr(stopwatch, 'machine', lambda: {'processor': 'another'})
  graph.calibrate(batch=2)
  assert len(seen) == 4
  graph.calibrate(batch=2, cache=False)
  assert len(seen) == 5


def test_real_times_are_positive_and_in_order(monkeypatch):
  monkeypatch.setattr(stopwatch, '_MEMORY', 100)
  shapes = [jax.ShapeDtypeStruct((n,), jnp.float32) for n in (4, 8, 32)]
  jobs = [stopwatch.Job(jnp.sin, (s,)) for s in shapes]
  assert [len(part) for part in stopwatch._parts(jobs)] == [2, 1]
  times = stopwatch.measure(jobs)
  assert len(times) == 3
  assert all(0 < t < 10 for t in times)


def test_functions_are_timed_in_turn():
  called = []
  calls = [lambda: called.append('a'), lambda: called.append('b')]
  rounds = list(stopwatch.interleaved(calls, 3))
  assert called == ['a', 'b'] * 3
  assert [len(times) for times in rounds] == [2] * 3


def test_signatures_tell_programs_apart():
  shape = jax.ShapeDtypeStruct((4,), jnp.float32)
  job = lambda fn: timings.signature(stopwatch.Job(fn, (shape,)), [])
  assert job(lambda x: jnp.sin(x)) == job(lambda y: jnp.sin(y)) != job(lambda x: jnp.cos(x))
