"""Many networks in one program, and the zoo that keeps them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights_toys

from dapt_jax.training import repeated
from dapt_jax.weights import first_weights, joint, members, meta, starts, widths, zoo

RECIPE = members.Recipe(steps=60, batch_size=8, learning_rate=0.02, group=3)
PLAN = zoo.Plan(size=5, per_class=8, test_per_class=5, shard=2, seed=3, starts=2)
NARROWER = [weights_toys.model(widths=(3,))]


@pytest.fixture(scope='module')
def bank():
  return weights_toys.make_bank()


@pytest.fixture(scope='module')
def model():
  return weights_toys.model()


@pytest.fixture(scope='module')
def built(bank, model, tmp_path_factory):
  path = tmp_path_factory.mktemp('zoo') / 'small'
  seen = []
  found = zoo.build(
    path, model, bank, PLAN, RECIPE, narrower=NARROWER, on_shard=lambda *a: seen.append(a[:2])
  )
  assert seen == [(1, 3), (2, 3), (3, 3)]
  return path, found


def _problem(bank, model, count=4):
  flat = members.flatten(model)
  tasks = bank.split.draw('zoo', count, 0)
  train = jnp.asarray(bank.draw(tasks, 'zoo', 'train', 8, 0))
  test = jnp.asarray(bank.draw(tasks, 'zoo', 'test', 5, 0))
  start = jnp.broadcast_to(flat.ravel(model.init(jax.random.key(0))), (count, flat.size))
  keys = jax.random.split(jax.random.key(1), count)
  return flat, start, jnp.asarray(bank.images), train, test, keys


def test_networks_learn_their_own_task(bank, model):
  flat, start, images, train, test, keys = _problem(bank, model)
  run = members.train(flat, RECIPE, start, images, train, keys)
  before = members.accuracy(flat, start, images, test)
  after = members.accuracy(flat, run.vector, images, test)
  assert after.min() > 0.8 > before.mean()
  other = members.accuracy(flat, run.vector, images, jnp.roll(test, 1, axis=0))
  assert other.mean() < after.mean() - 0.2  # a network knows its own task, not the next one
  assert run.loss.max() < 0.5


def test_training_in_parts_or_other_groups_is_the_same(bank, model):
  flat, start, images, train, _, keys = _problem(bank, model)
  whole = members.train(flat, RECIPE, start, images, train, keys)
  parts = members.begin(RECIPE, start)
  for first, last in ((0, 7), (7, 8), (8, 60)):
    parts = members.advance(flat, RECIPE, parts, images, train, keys, first, last)
  np.testing.assert_array_equal(whole.vector, parts.vector)
  np.testing.assert_array_equal(whole.loss, parts.loss)
  single = members.train(flat, dataclasses.replace(RECIPE, group=1), start, images, train, keys)
  np.testing.assert_allclose(whole.vector, single.vector, atol=2e-4)


def test_batch_norm_statistics_follow_the_training(bank):
  model = weights_toys.model(batch_norm=True)
  flat, start, images, train, test, keys = _problem(bank, model)
  run = members.train(flat, RECIPE, start, images, train, keys)
  first, last = (flat.unravel(v[0])['batch_stats']['bn1']['mean'] for v in (start, run.vector))
  assert np.abs(first - last).max() > 0.1
  decayed = dataclasses.replace(RECIPE, weight_decay=0.5, learning_rate=1e-6)
  shrunk = members.train(flat, decayed, start, images, train, keys)
  pulled = dataclasses.replace(RECIPE, learning_rate=1e-6)
  plain = members.train(flat, pulled, start, images, train, keys)
  stats = [flat.unravel(r.vector[0])['batch_stats'] for r in (shrunk, plain)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), *stats)
  assert members.accuracy(flat, run.vector, images, test).mean() > 0.7


def test_curve_starts_at_the_start(bank, model):
  flat, start, images, train, test, keys = _problem(bank, model)
  found = members.curve(flat, RECIPE, start, images, train, test, keys, (0, 1, 60))
  np.testing.assert_array_equal(found[0], members.accuracy(flat, start, images, test))
  trained = members.train(flat, RECIPE, start, images, train, keys)
  np.testing.assert_array_equal(found[2], members.accuracy(flat, trained.vector, images, test))
  for steps in ((0, 0), (3, 2), (0, 61)):
    with pytest.raises(ValueError, match='must increase, from 0 to 60'):
      members.curve(flat, RECIPE, start, images, train, test, keys, steps)


def test_a_zoo_reads_back(built, bank, model):
  path, found = built
  assert found.vectors.shape == (5, members.flatten(model).size) and len(found.tasks) == 5
  bank.split.require(found.tasks, 'zoo')
  assert found.accuracy.mean() > 0.8
  again = zoo.load(path)
  np.testing.assert_array_equal(again.vectors, found.vectors)
  assert again.records == found.records and again.tasks == found.tasks
  assert found.head['model']['config']['widths'] == [6]
  # Members differ although some start alike, and tasks differ between shards.
  assert len({r['task'] for r in found.records}) > 3


def test_a_build_that_was_stopped_goes_on(built, bank, model, tmp_path):
  _, found = built
  short = zoo.build(tmp_path, model, bank, PLAN, RECIPE, narrower=NARROWER)
  for name in ('shard-0001.json', 'shard-0002.safetensors'):
    (tmp_path / name).unlink()
  kept = (tmp_path / 'shard-0000.safetensors').stat().st_mtime_ns
  seen = []
  report = lambda *a: seen.append(a[:2])
  again = zoo.build(tmp_path, model, bank, PLAN, RECIPE, narrower=NARROWER, on_shard=report)
  assert seen == [(2, 3), (3, 3)]
  assert (tmp_path / 'shard-0000.safetensors').stat().st_mtime_ns == kept
  for other in (short, again):
    np.testing.assert_array_equal(other.vectors, found.vectors)


def test_first_weights_of_their_own(bank, model, tmp_path):
  plan = dataclasses.replace(PLAN, size=2, start='independent', starts=1)
  still = dataclasses.replace(RECIPE, learning_rate=1e-9)
  own = zoo.build(tmp_path / 'own', model, bank, plan, still).vectors
  shared = zoo.build(
    tmp_path / 'one', model, bank, dataclasses.replace(plan, start='shared'), still
  )
  assert np.abs(own[0] - own[1]).max() > 0.1
  np.testing.assert_allclose(shared.vectors[0], shared.vectors[1], atol=1e-5)


def test_networks_of_several_widths_in_one_program(built, bank, model):
  _, found = built
  several = widths.make([model, *NARROWER])
  flat, narrow = members.flatten(model), members.flatten(NARROWER[0])
  own = found.vectors[found.widths == 1]
  assert sorted(np.bincount(found.widths).tolist()) == [2, 3]
  assert not own[:, several.masks[1] == 0].any() and own[:, several.masks[1] == 1].all()
  assert found.accuracy[found.widths == 1].mean() > 0.6
  assert found.head['narrower'] == [NARROWER[0].spec]
  # Cut out and put back, they are the same network with the same gradient.
  cut = several.cut(1, flat.unravel(own[0]))
  np.testing.assert_array_equal(flat.ravel(several.embed(cut)), own[0])
  images = jnp.asarray(bank.images[:8])
  loss = lambda f: lambda vector: jnp.square(f.logits(vector, images)).sum()
  whole = jax.grad(loss(flat))(jnp.asarray(own[0]))
  alone = narrow.unravel(jax.grad(loss(narrow))(narrow.ravel(cut)))
  np.testing.assert_allclose(whole, flat.ravel(several.embed(alone)), rtol=1e-4, atol=1e-4)


def test_networks_that_do_not_fit_into_the_widest(model):
  for other, words in (
    (weights_toys.model(widths=(7,)), r'shape \(7,\), there \(6,\); give the widest'),
    (weights_toys.model(widths=(4, 4)), "'dense2'.*vary widths only"),
  ):
    with pytest.raises(ValueError, match=words):
      widths.make([model, other])
  other = NARROWER[0]._replace(apply=lambda v, x: 2 * NARROWER[0].apply(v, x))
  with pytest.raises(ValueError, match='computes something else'):
    widths.make([model, other])


def test_networks_begin_at_one_of_a_few(model):
  flat, several = members.flatten(model), widths.make([model, *NARROWER])
  rng = np.random.default_rng(0)
  drawn = first_weights.draw(flat, several, 12, 3, 5, rng, jax.random.key(0))
  assert set(drawn.start) == {0, 1, 2} and np.bincount(drawn.width).tolist() == [6, 6]
  for number in (0, 1):
    known = np.asarray(first_weights.shared(flat, several, 5, 3, number))
    mine = drawn.width == number
    np.testing.assert_array_equal(drawn.vectors[mine], known[drawn.start[mine]])
  np.testing.assert_array_equal(
    first_weights.shared(flat, several, 5, 1)[0],
    flat.ravel(model.init(first_weights.shared_key(5))),
  )


def test_damaged_and_foreign_zoos(built, bank, model, tmp_path):
  path, _ = built
  with pytest.raises(FileNotFoundError, match='build one first'):
    zoo.load(tmp_path / 'nothing')
  copy = tmp_path / 'copy'
  copy.mkdir()
  for file in path.iterdir():
    (copy / file.name).write_bytes(file.read_bytes())
  with pytest.raises(ValueError, match=r"another zoo: \['narrower', 'recipe'\] differ"):
    zoo.build(copy, model, bank, PLAN, dataclasses.replace(RECIPE, steps=61))
  shard = copy / 'shard-0001.safetensors'
  data = bytearray(shard.read_bytes())
  data[-1] ^= 1
  shard.write_bytes(data)
  for use in (
    lambda: zoo.load(copy),
    lambda: zoo.build(copy, model, bank, PLAN, RECIPE, narrower=NARROWER),
  ):
    with pytest.raises(ValueError, match=r'shard-0001\.safetensors is damaged'):
      use()
  shard.unlink()
  with pytest.raises(FileNotFoundError, match='shard-0001'):
    zoo.load(copy)
  head = json.loads((copy / 'zoo.json').read_text())
  assert head['plan']['seed'] == 3


@pytest.mark.parametrize(
  'changes', [{'size': 0}, {'starts': 0}, {'start': 'own'}, {'start': 'independent'}]
)
def test_bad_plans(changes):
  with pytest.raises(ValueError, match=r'at least 1|choose one of|none is shared'):
    dataclasses.replace(PLAN, **changes)


def test_a_diverged_network_is_not_kept(bank, model, tmp_path):
  with pytest.raises(FloatingPointError, match='lower the learning rate'):
    zoo.build(tmp_path, model, bank, PLAN, dataclasses.replace(RECIPE, learning_rate=1e30))
  assert not list(tmp_path.glob('shard*'))


def test_starts_that_need_no_generator(built, bank, model):
  _, found = built
  flat, _, images, _, _, _ = _problem(bank, model)
  support = bank.draw(found.tasks, 'zoo', 'train', 8, 5)
  # A task of the zoo itself: the network that was trained on it is the best stored one.
  best = starts.best_of_zoo(flat, found.vectors, images, support)
  right = [np.abs(found.vectors - b[0]).max(1).argmin() for b in np.asarray(best)]
  accuracy = lambda v: members.accuracy(flat, v, images, jnp.asarray(support))
  every = [accuracy(jnp.broadcast_to(v, (5, flat.size))) for v in found.vectors]
  np.testing.assert_array_equal(accuracy(best[:, 0]), jnp.stack(every).max(0))
  assert sorted(right) != [right[0]] * 5
  codes = np.eye(5, 7, dtype=np.float32)
  near = starts.nearest(found.vectors, codes, codes[[3, 1]] * 0.9, k=2)
  np.testing.assert_array_equal(near[:, 0], found.vectors[[3, 1]])
  noisy = starts.noisy(found.vectors, codes, codes[[3]], 4, 0.0, jax.random.key(0))
  np.testing.assert_array_equal(noisy[0], found.vectors[[3] * 4])
  np.testing.assert_allclose(starts.mean(found.vectors, 2)[1, 0], found.vectors.mean(0), rtol=1e-5)
  fresh = starts.random(flat, model, 2, 3, jax.random.key(0))
  assert fresh.shape == (2, 3, flat.size) and np.abs(fresh[0, 0] - fresh[0, 1]).max() > 0.1
  # Of candidates the one that is best on the support images is taken.
  others = [jnp.broadcast_to(v, (5, flat.size)) for v in (fresh[0, 0], fresh[0, 1])]
  candidates = jnp.stack([others[0], best[:, 0], others[1]], axis=1)
  assert starts.choose(flat, candidates, images, support).tolist() == [1] * 5


def test_meta_learned_weights_adapt_faster(bank, model):
  flat, start, images, _, test, keys = _problem(bank, model, 8)
  tasks = bank.split.draw('zoo', 32, 7)
  rows = jnp.asarray(bank.draw(tasks, 'zoo', 'train', 8, 7))
  inner = members.Recipe(steps=5, batch_size=8, learning_rate=0.02, group=8)
  mask = meta.head(model)
  assert mask.sum() == 3 * 7  # six features and a bias for each of three classes
  made = meta.make(meta.Settings('anil', inner, 0.03, 60), flat, mask)
  run = jax.jit(repeated.repeated(made.update, meta.episodes(8, 4), 60))
  state, _ = run(made.init(start[0], jax.random.key(2)), (rows, images))
  support = jnp.asarray(bank.draw(bank.split.draw('zoo', 8, 0), 'zoo', 'train', 4, 1))
  learned = jnp.broadcast_to(state.params, start.shape)
  tune = lambda v: members.curve(flat, inner, v, images, support, test, keys, (0, 5)).mean(1)
  before, after = tune(start), tune(learned)
  assert after[1] > before[1] + 0.1
  # No start can know the order of the labels.
  assert after[0] < after[1] - 0.2


def test_the_outer_step_is_made_of_adapted_networks(bank, model):
  flat, start, images, train, _, _ = _problem(bank, model)
  inner = members.Recipe(steps=3, batch_size=8, learning_rate=0.02, group=4)
  batch = meta.Episodes(images, train[:, :, :4], train[:, :, 4:])
  mask = meta.head(model)
  keys = jax.random.split(jax.random.fold_in(jax.random.key(2), 0), 4)
  moved = {}
  for method in meta.METHODS:
    made = meta.make(meta.Settings(method, inner, 1e-3, 10), flat, mask)
    after, metrics = jax.jit(made.update)(made.init(start[0], jax.random.key(2)), batch)
    moved[method] = np.asarray(after.params - start[0]), float(metrics['loss'])
  # Reptile goes where the networks go; the first step of Adam has the signs of its gradient.
  way = np.asarray(members.train(flat, inner, start, images, batch.support, keys).vector - start)
  clear = np.abs(way.mean(0)) > 1e-4
  np.testing.assert_array_equal(np.sign(moved['reptile'][0])[clear], np.sign(way.mean(0))[clear])
  # The loss of ANIL is that of networks of which only the head has moved; its step moves the body.
  alone = members.train(meta.only(flat, mask), inner, start, images, batch.support, keys).vector
  np.testing.assert_array_equal((alone - start)[:, mask == 0], 0.0)
  loss = lambda v: float(meta._cross_entropy(flat, v, batch))
  assert moved['anil'][1] == pytest.approx(loss(alone), rel=1e-5) != loss(start)
  assert np.abs(moved['anil'][0][mask == 0]).max() > 0
  with pytest.raises(ValueError, match=r"choose one of \['reptile'"):
    meta.Settings('leap', inner)


def test_a_joint_body_serves_new_heads(bank, model):
  tasks = bank.split.draw('zoo', 12, 7)
  rows = bank.draw(tasks, 'zoo', 'train', 8, 7)
  data = joint.labelled(tasks, rows, jnp.asarray(bank.images))
  # Every image once, under its own view and class.
  assert len(np.unique(data.rows)) == len(data.rows) and int(data.view.max()) == 2
  names = sorted({t.view for t in tasks})
  place = {int(r): (names[v], int(c)) for r, v, c in zip(data.rows, data.view, data.label)}
  for task, own in zip(tasks, rows):
    for source_class, images in zip(task.classes, own):
      assert {place[i] for i in images.tolist()} == {(task.view, source_class)}
  made = joint.make(joint.Settings(3, weights_toys.CLASSES, 0.02, 150), model)
  run = jax.jit(repeated.repeated(made.update, joint.draw(16), 150))
  state, metrics = run(made.init(jax.random.key(0)), data)
  assert metrics['error'] < 0.5
  variables = joint.with_zeros(model, state.params)
  flat, _, images, train, test, _ = _problem(bank, model)
  assert not np.asarray(model.apply(variables, images[:9])).any()
  means = jax.jit(jax.vmap(lambda s: flat.ravel(joint.with_means(model, variables, images, s))))
  asked = members.accuracy(flat, means(train), images, test).mean()
  other = members.accuracy(flat, means(jnp.roll(train, 1, axis=1)), images, test).mean()
  assert asked > 0.8 and other < 0.2  # the head follows the labels of its support
