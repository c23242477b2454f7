"""Classical criteria: values by hand, what must not change them, and what they cut first."""

import experiments_tiny
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pruning_toys
import pytest

import dapt_jax as dapt
from dapt_jax import graph as graph_lib
from dapt_jax.models import model as model_lib
from dapt_jax.pruning import criteria, losses, saliency, schedule
from experiments import candidates, prune, report
from experiments import task as task_lib

DATA_FREE = ('magnitude_l1', 'magnitude_l2', 'bn_scale', 'fpgm')


def _network(params, x):
  """A residual stream of 4 with two writers, normalised; a block of 5 between them."""
  h = x @ params['stem'] * params['scale1'] + params['bias1']
  y = jnp.tanh(h @ params['up'] * params['scale2'])
  h = h + y @ params['down'] * params['scale3']
  return jnp.tanh(h) @ params['head']


def _case(levels=('channel',), seed=0):
  shapes = {'stem': (3, 4), 'up': (4, 5), 'down': (5, 4), 'head': (4, 2)}
  shapes |= {'scale1': (4,), 'bias1': (4,), 'scale2': (5,), 'scale3': (4,)}
  rng = np.random.default_rng(seed)
  params = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
  graph = graph_lib.trace(
    _network, params, jax.ShapeDtypeStruct((1, 3), jnp.float32), levels=levels
  )
  return graph, params


def _loss(params, batch):
  return jnp.mean((_network(params, batch['x']) - batch['y']) ** 2)


def _batches(count=2, size=16):
  rng = np.random.default_rng(7)
  return [
    {'x': jnp.asarray(rng.normal(size=(size, 3))), 'y': jnp.asarray(rng.normal(size=(size, 2)))}
    for _ in range(count)
  ]


def _all(graph, params, name, **options):
  given = {'key': jax.random.key(3), 'loss_fn': _loss, 'batches': _batches(), **options}
  return criteria.scores(name, graph, params, **given)


def _relative(values):
  return values / np.mean(values) - 1


@pytest.fixture(scope='module')
def normalised():
  """A perceptron with BatchNorm: (graph, params with statistics, loss, batches)."""
  made = model_lib.create(
    'mlp', input_shape=(4, 4, 1), num_classes=3, lowering='lax', widths=(10, 8), batch_norm=True
  )
  params = made.init(jax.random.key(0))
  image = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
  graph = graph_lib.trace(made.apply, params, image, levels=('channel',))
  batch = pruning_toys.examples(0, inputs=16)
  batch = {'image': batch['image'].reshape(-1, 4, 4, 1), 'label': batch['label']}
  return graph, params, losses.cross_entropy(lambda p, x: (made.apply(p, x), {})), [batch]


@pytest.mark.parametrize('order', [1, 2])
def test_magnitude_sums_all_writers(order):
  graph, params = _case()
  logits = _all(graph, params, f'magnitude_l{order}')
  both = np.concatenate([params['stem'], params['down']])
  np.testing.assert_allclose(
    logits['stem'], _relative(np.linalg.norm(both, order, axis=0)), rtol=1e-4, atol=2e-6
  )
  np.testing.assert_allclose(
    logits['up'], _relative(np.linalg.norm(params['up'], order, axis=0)), rtol=1e-4, atol=2e-6
  )


def test_magnitude_of_links_inputs_and_branches():
  graph, params = _case(('link', 'input', 'branch'))
  logits = _all(graph, params, 'magnitude_l2')
  flat = np.abs(params['head']).ravel()
  np.testing.assert_allclose(logits['link:head'], _relative(flat), rtol=1e-4, atol=2e-6)
  rows = np.linalg.norm(params['stem'], axis=1)  # nothing writes an input: what reads it counts
  np.testing.assert_allclose(logits['input:axis1'], _relative(rows), rtol=1e-4, atol=2e-6)
  [name] = graph.sums[0]
  assert float(logits[name][0]) == pytest.approx(1.0)  # the only such branch: at their mean, open


def test_bn_scale_takes_scales_only():
  graph, params = _case()
  logits = _all(graph, params, 'bn_scale')
  total = np.abs(params['scale1']) + np.abs(params['scale3'])
  np.testing.assert_allclose(logits['stem'], _relative(total), rtol=1e-4, atol=2e-6)
  np.testing.assert_allclose(
    logits['up'], _relative(np.abs(params['scale2'])), rtol=1e-4, atol=2e-6
  )
  other = {**params, 'bias1': 9 * params['bias1'], 'stem': 9 * params['stem']}
  jax.tree.map(np.testing.assert_array_equal, logits, _all(graph, other, 'bn_scale'))


def test_bn_scale_of_a_batchnorm(normalised):
  graph, params, *_ = normalised
  scale = jnp.linspace(0.1, 2.0, 10).at[3].set(-3.0)
  params = jax.tree.map(lambda x: x, params)
  params['params']['bn1']['scale'] = scale
  params['batch_stats']['bn1']['mean'] += 50.0 * jnp.arange(10)
  logits = criteria.scores('bn_scale', graph, params)
  [name] = [n for n, g in graph.gated_groups.items() if g.width == 10]
  np.testing.assert_allclose(logits[name], _relative(np.abs(scale)), rtol=1e-4, atol=2e-6)


def test_groups_without_a_scale_stay_whole():
  graph, params = _case(('channel', 'input'))
  logits = _all(graph, params, 'bn_scale')
  assert set(logits) == {'stem', 'up'}
  arch = graph.decide(logits, budget=0.6)
  assert 'input:axis1' not in arch.kept and arch.costs['macs']['share'] <= 0.6 + 1e-6
  plain, init, _ = pruning_toys.mlp()
  with pytest.raises(ValueError, match=r"'bn_scale' finds no scale.*magnitude_l2"):
    criteria.scores('bn_scale', plain, init(jax.random.key(0)))


def test_fpgm_is_the_sum_of_distances():
  graph, params = _case()
  wanted = {'stem': 0.0, 'up': 0.0}
  for group, kernel in (('stem', 'stem'), ('stem', 'down'), ('up', 'up')):
    filters = params[kernel].T
    wanted[group] += np.array([sum(np.linalg.norm(f - g) for g in filters) for f in filters])
  logits = _all(graph, params, 'fpgm')
  for name, values in wanted.items():
    np.testing.assert_allclose(logits[name], _relative(values), rtol=1e-4, atol=2e-6)


def test_fpgm_of_equal_filters():
  """All equal: exactly 0. Most equal: these lie at the median and go first."""
  graph, params = _case()
  alive = {'stem': np.ones(4, bool), 'up': np.ones(5, bool)}
  same = {**params, 'up': np.tile(params['up'][:, :1], 5)}
  np.testing.assert_array_equal(saliency.fpgm(graph, same, alive)['up'], np.zeros(5))
  same['up'][:, 4] *= -2.0
  found = saliency.fpgm(graph, same, alive)['up']
  assert (found[:4] == found[0]).all() and found[0] < found[4]
  # What has been cut is no other filter to compare with.
  alive['up'][4] = False
  np.testing.assert_array_equal(saliency.fpgm(graph, same, alive)['up'][:4], np.zeros(4))
  links, params = _case(('link',))
  with pytest.raises(ValueError, match="'fpgm' finds no filters"):
    _all(links, params, 'fpgm')


@pytest.mark.parametrize('levels', [('channel', 'branch'), ('link',)])
def test_taylor_is_the_squared_slope_of_the_loss_by_the_gate(levels):
  """By central differences, and as weight times gradient summed over the reading slices."""
  graph, params = _case(levels)
  batches = _batches()
  found = saliency.taylor(graph, params, _loss, batches)
  ones = {n: jnp.ones(g.width) for n, g in graph.gated_groups.items()}
  loss = jax.jit(lambda gates, batch: _loss(graph.apply_gates(params, gates), batch))
  step = 0.03
  for name, group in graph.gated_groups.items():
    for i in range(0, group.width, 3):
      moved = [{**ones, name: ones[name].at[i].add(d)} for d in (step, -step)]
      slopes = [(loss(moved[0], b) - loss(moved[1], b)) / (2 * step) for b in batches]
      wanted = np.mean(np.square(slopes))
      assert found[name][i] == pytest.approx(wanted, rel=0.05, abs=1e-5)
  gradients = [jax.jit(jax.grad(_loss))(params, b) for b in batches]
  products = [g['down'] * params['down'] for g in gradients]
  name, rows = 'link:down', [p.ravel() for p in products]
  if levels != ('link',):
    name, rows = 'up', [p.sum(1) for p in products]
  np.testing.assert_allclose(found[name], np.mean(np.square(rows), 0), rtol=1e-4)


def test_hessian_is_half_the_curvature_by_the_gate(monkeypatch):
  monkeypatch.setattr(saliency, 'PROBES', 300)
  graph, params = _case()
  batches = _batches()
  found = saliency.hessian(graph, params, _loss, batches, jax.random.key(0))
  ones = {n: jnp.ones(g.width) for n, g in graph.gated_groups.items()}
  of_gates = lambda gates, batch: _loss(graph.apply_gates(params, gates), batch)
  exactly = jax.jit(jax.hessian(of_gates))
  wanted = [exactly(ones, batch) for batch in batches]
  for name in ('stem', 'up'):
    exact = 0.5 * np.mean([np.diag(w[name][name]) for w in wanted], 0)
    np.testing.assert_allclose(found[name], np.maximum(exact, 0), atol=0.12 * exact.max())


def test_hessian_without_mixed_terms_is_exact():
  """One probe gives the diagonal where the gates do not interact: loss = mean sum (h_j w_jj)^2."""
  widths = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
  params = {'w': np.eye(4, dtype=np.float32) * 2, 'v': np.diag(widths)}
  network = lambda p, x: (x @ p['w']) @ p['v']
  graph = graph_lib.trace(network, params, np.ones((1, 4), np.float32), levels=('channel',))
  x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
  loss = lambda p, batch: jnp.mean(jnp.sum(network(p, batch) ** 2, -1))
  found = saliency.hessian(graph, params, loss, [jnp.asarray(x)], jax.random.key(0))
  np.testing.assert_allclose(found['w'], (4 * widths**2 * (x**2).mean(0)), rtol=1e-5)


@pytest.mark.parametrize('name', criteria.NAMES)
def test_every_criterion_meets_a_budget_and_keeps_its_key(name, normalised):
  graph, params, loss, batches = normalised
  options = {'loss_fn': loss, 'batches': batches}
  first, again, other = (
    criteria.scores(name, graph, params, key=jax.random.key(k), **options) for k in (0, 0, 1)
  )
  jax.tree.map(np.testing.assert_array_equal, first, again)
  changed = any((first[n] != other[n]).any() for n in first)
  assert changed == (name in ('random', 'hessian'))
  for logits in first.values():
    assert logits.min() >= -1 and abs(float(logits.mean())) < 1e-5
  arch = graph.decide(first, budget=0.4)
  assert 0.3 <= arch.costs['macs']['share'] <= 0.4 + 1e-6


@pytest.mark.parametrize('name', [n for n in criteria.NAMES if n != 'random'])
def test_silent_channels_go_first(name, normalised):
  graph, params, loss, batches = normalised
  params = jax.tree.map(lambda x: x, params)
  silent = jnp.isin(jnp.arange(10), jnp.array([1, 4, 7]))
  layer = params['params']
  for leaf in ('scale', 'bias'):
    layer['bn1'][leaf] = jnp.where(silent, 0.0, layer['bn1'][leaf])
  layer['dense1']['kernel'] = jnp.where(silent, 0.0, layer['dense1']['kernel'])
  key = jax.random.key(0)
  logits = criteria.scores(name, graph, params, key=key, loss_fn=loss, batches=batches)
  [group] = [n for n, g in graph.gated_groups.items() if g.width == 10]
  assert set(np.argsort(logits[group])[:3]) == {1, 4, 7}
  if name != 'fpgm':
    np.testing.assert_allclose(logits[group][silent], -1.0, atol=1e-5)
  cut = graph.decide({group: logits[group]}, budget=0.8)
  assert not {1, 4, 7} & set(cut.kept[group].tolist())


def test_branches_are_compared_inside_their_sum():
  made = model_lib.create(
    'multibranch',
    input_shape=(6, 6, 1),
    num_classes=3,
    lowering='lax',
    cells=2,
    widths=(4, 4),
    reductions=(2,),
    operators=('conv1x1', 'conv3x3', 'skip'),
  )
  params = made.init(jax.random.key(0))
  image = jax.ShapeDtypeStruct((1, 6, 6, 1), jnp.float32)
  graph = graph_lib.trace(made.apply, params, image)
  equal = criteria.scores('magnitude_l2', graph, params)
  # Scales are 1 and biases 0: a tie, in which every branch stays.
  assert all(float(equal[n][0]) > 0 for names in graph.sums for n in names)
  params['params']['cell1']['skip']['bn']['scale'] *= 5.0
  for name in ('magnitude_l1', 'magnitude_l2', 'bn_scale'):
    logits = criteria.scores(name, graph, params)
    open_ = {n: float(logits[n][0]) > 0 for n in graph.sums[0]}
    assert [n for n, yes in open_.items() if yes] == ['branch:cell1/skip/bn']
    assert all(float(logits[n][0]) > 0 for n in graph.sums[1])  # another sum, another mean
    arch = graph.decide(logits, budget=0.5)
    assert arch.kept['branch:cell1/skip/bn'].size and arch.costs['macs']['share'] <= 0.5 + 1e-6
  # Kernels of 1 and 9 taps are no filters to compare: branches count as average.
  assert all(float(criteria.scores('fpgm', graph, params)[n][0]) > 0 for n in graph.sums[0])


def test_blocks_of_a_residual_network_stay_unless_they_do_nothing():
  made = model_lib.create('resnet20', input_shape=(6, 6, 1), num_classes=3, lowering='lax', width=2)
  params = made.init(jax.random.key(0))
  image = jax.ShapeDtypeStruct((1, 6, 6, 1), jnp.float32)
  graph = graph_lib.trace(made.apply, params, image)
  blocks = [names[0] for names in graph.sums]
  carriers = graph.groups[blocks[2]].carriers
  leaves = graph.tree.flatten_whole(params)
  for i in carriers:
    leaves[i] = leaves[i] * 0.0
  silent = jax.tree.unflatten(graph.tree.param_treedef, leaves)
  arch = graph.decide(criteria.scores('magnitude_l1', graph, silent), budget=0.6)
  assert [len(arch.kept[b]) for b in blocks] == [int(i != 2) for i in range(9)]


@pytest.mark.parametrize('path', schedule.PATHS)
def test_budgets_fall_to_the_last_one(path):
  found = schedule.budgets(0.2, 4, path)
  assert found == sorted(found, reverse=True) and found[-1] == 0.2 and found[0] < 1
  wanted = {'polynomial': 0.2 + 0.8 * 0.75**3, 'geometric': 0.2**0.25}
  assert found[0] == pytest.approx(wanted[path])
  assert schedule.budgets(0.3, 1, path) == [0.3]


def test_a_sum_does_not_lose_half_of_its_branches_in_every_step():
  """Branches that are cut count as 0 in the mean that the others are held against."""
  network = lambda p, x: sum(x @ p[f'w{i}'] for i in range(4)) @ p['head']
  params = {f'w{i}': np.full((3, 3), v, np.float32) for i, v in enumerate((1, 2, 3, 4))}
  params['head'] = np.ones((3, 2), np.float32)
  graph = graph_lib.trace(network, params, np.ones((1, 3), np.float32), levels=('branch',))
  first = graph.decide(criteria.scores('magnitude_l1', graph, params))
  second = criteria.scores('magnitude_l1', graph, params, within=first)
  assert sum(len(k) for k in first.kept.values()) == 2
  assert graph.decide(second, within=first).fingerprint() == first.fingerprint()


@pytest.mark.parametrize(
  'given, said',
  [
    ((0.0, 1, 'geometric'), 'budget is 0.0'),
    ((0.5, 0, 'geometric'), 'steps is 0'),
    ((0.5, 2, 'linear'), "path is 'linear'; allowed are"),
  ],
)
def test_bad_schedules_are_refused(given, said):
  with pytest.raises(ValueError, match=said):
    schedule.budgets(*given)


@pytest.mark.parametrize(
  'levels, round_to', [(('channel', 'branch'), 1), (('channel',), 2), (('link',), 1)]
)
def test_what_is_cut_stays_cut(levels, round_to):
  """Even where the scores are dice, thrown again in every step; and weights go through."""
  made = model_lib.create(
    'multibranch',
    input_shape=(6, 6, 1),
    num_classes=3,
    lowering='lax',
    cells=3,
    widths=(8, 12, 16),
    reductions=(2,),
    operators=('conv1x1', 'conv3x3', 'avg_pool', 'skip'),
  )
  params = made.init(jax.random.key(0))
  image = jax.ShapeDtypeStruct((1, 6, 6, 1), jnp.float32)
  graph = graph_lib.trace(made.apply, params, image, levels=levels)
  calls = []

  def retrain(params, gates, number):
    calls.append((number, gates))
    return jax.tree.map(lambda x: x + 1, params)

  for seed in range(3):
    calls.clear()
    pruned = schedule.prune(
      graph,
      params,
      'random',
      0.2,
      steps=4,
      key=jax.random.key(seed),
      retrain=retrain,
      round_to=round_to,
    )
    shares = [a.costs['macs']['share'] for a in pruned.decisions]
    for share, budget in zip(shares, schedule.budgets(0.2, 4)):
      assert 0.7 * budget <= share <= budget * (1 + 1e-6)
    for earlier, later in zip(pruned.decisions, pruned.decisions[1:]):
      assert all(set(later.kept[n]) <= set(earlier.kept[n]) for n in later.kept)
    assert pruned.decisions[-1] is pruned.architecture
    assert [number for number, _ in calls] == [1, 2, 3]
    for (_, gates), arch in zip(calls, pruned.decisions):
      jax.tree.map(np.testing.assert_array_equal, gates, arch.gates(graph))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b + 3, 1e-5), pruned.params, params)
    if levels == ('channel',):
      assert all(len(k) % round_to == 0 for k in pruned.architecture.kept.values())
  assert pruned.architecture.provenance['pruning']['steps'] == 4


def test_scores_of_a_cut_network_count_only_what_is_left():
  """The same as in the network that was really cut."""
  graph, params = _case()
  arch = graph.decide({'stem': jnp.array([1.0, -1, 1, 1]), 'up': jnp.array([1.0, 1, -1, 1, 1])})
  small_fn, small = graph.shrink(arch, params)
  small_graph = graph_lib.trace(
    small_fn, small, jax.ShapeDtypeStruct((1, 3), jnp.float32), levels=('channel',)
  )
  small_loss = lambda p, batch: jnp.mean((small_fn(p, batch['x']) - batch['y']) ** 2)
  for name in (*DATA_FREE, 'taylor'):
    found = _all(graph, params, name, within=arch)
    wanted = _all(small_graph, small, name, loss_fn=small_loss)
    for group in ('stem', 'up'):
      np.testing.assert_allclose(
        found[group][arch.kept[group]], wanted[group], rtol=1e-3, atol=1e-5
      )
      assert float(jnp.delete(found[group], arch.kept[group])[0]) == pytest.approx(-1, abs=1e-5)


def test_decisions_within_another():
  graph, _ = _case()
  theta = {'stem': jnp.array([3.0, 2, 1, -1]), 'up': jnp.array([3.0, 2, 1, -1, -2])}
  first = graph.decide(theta)
  turned = {n: -t for n, t in theta.items()}
  mixed = {'stem': turned['stem'].at[0].set(1.0), 'up': theta['up']}  # 0 and 3 are above zero
  assert graph.decide(mixed, within=first).kept['stem'].tolist() == [0]
  inside = graph.decide(turned, budget=0.3, within=first)
  assert all(set(inside.kept[n]) <= set(first.kept[n]) and len(inside.kept[n]) for n in theta)
  with pytest.raises(ValueError, match=r"decided on the groups \['up'\], which theta leaves out"):
    graph.decide({'stem': theta['stem']}, budget=0.3, within=first)


@pytest.mark.parametrize(
  'name, given, said',
  [
    ('taylor', {'batches': [1]}, "'taylor' needs loss_fn; pass loss_fn="),
    ('taylor', {'loss_fn': _loss, 'batches': []}, "'taylor' needs batches"),
    ('hessian', {'loss_fn': _loss, 'batches': [1]}, "'hessian' needs key"),
    ('random', {}, "'random' needs key"),
    ('l1', {}, "criterion is 'l1'; allowed are"),
  ],
)
def test_missing_arguments_are_named(name, given, said):
  with pytest.raises(ValueError, match=said):
    criteria.scores(name, *_case(), **given)


def test_diverged_weights_are_refused():
  graph, params = _case()
  params['up'][0, 0] = np.nan
  with pytest.raises(ValueError, match="'magnitude_l1' is not finite in group 'up'"):
    _all(graph, params, 'magnitude_l1')


@pytest.fixture(scope='module')
def task():
  return task_lib.load(experiments_tiny.get_config('mlp'))


def test_app_cuts_by_a_criterion_in_rounds(task, tmp_path):
  config = experiments_tiny.get_config('mlp')
  config.search.update({'criterion': 'taylor', 'rounds': 2, 'steps': 3})
  [(name, arch)] = prune.run_all(config, task, str(tmp_path)).items()
  assert arch.costs['macs']['share'] <= 0.4 + 1e-6
  assert arch.provenance['method'] == 'taylor'
  assert arch.provenance['pruning'] == {'criterion': 'taylor', 'steps': 2, 'path': 'polynomial'}
  assert set(arch.provenance['theta']) == set(arch.kept)
  rounds = [p.name for p in (tmp_path / 'search' / name).glob('round*')]
  assert rounds == ['round1'] and (tmp_path / 'source').is_dir()
  assert report.describe(task, str(tmp_path), name, arch)['history']['step'] == []
  again = prune.run_all(config, task, str(tmp_path))[name]
  assert again.fingerprint() == arch.fingerprint()
  assert dapt.Architecture.load(tmp_path / 'search' / name / 'architecture').kept.keys()


def test_baselines_name_any_criterion(task, tmp_path):
  config = experiments_tiny.get_config('mlp')
  config.search.criterion = 'magnitude_l2'
  config.transfer.baselines = ('magnitude_l2', 'fpgm', 'bn_scale')
  learned = prune.run_all(config, task, str(tmp_path))
  made = candidates.make(config, task, str(tmp_path), learned)
  assert [c.method for c in made] == ['learned', 'magnitude_l2', 'bn_scale', 'fpgm']
  assert made[0].content == made[1].content != made[3].content  # one definition for both


def test_retraining_leaves_what_is_cut_alone(task, tmp_path):
  from experiments import source

  config = experiments_tiny.get_config('mlp')
  config.search.update({'rounds': 2, 'steps': 3})
  params = task.fast.init(jax.random.key(0))
  [group] = [n for n, g in task.graph.gated_groups.items() if g.width == 8]
  gates = {group: (jnp.arange(8) < 5).astype(jnp.float32)}
  after = source.retrain(config, task, tmp_path / 'round1', params, gates, seed=0)
  moved = np.abs(after['params']['dense1']['kernel'] - params['params']['dense1']['kernel']).sum(0)
  assert (moved[:5] > 0).all() and not moved[5:].any()
  assert optax.tree.norm(after['params']['head']) != optax.tree.norm(params['params']['head'])
