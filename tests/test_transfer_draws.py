"""Support sets: balanced, nested, seeded, padded."""

import numpy as np
import pytest

from dapt_jax.transfer import draws

LABELS = np.random.default_rng(0).integers(0, 4, 200).astype(np.int32)


@pytest.mark.parametrize('shots', [1, 3, 10])
def test_draw_is_balanced_without_repeats(shots):
  index = draws.draw(LABELS, shots, seed=3)
  assert index.shape == (4 * shots,) and index.dtype == np.int32
  assert len(set(index)) == len(index)
  # Round by round, one example of every class a round.
  assert LABELS[index].reshape(shots, 4).tolist() == [[0, 1, 2, 3]] * shots


def test_draws_of_a_seed_are_nested_and_seeds_differ():
  small, large = draws.draw(LABELS, 2, 5), draws.draw(LABELS, 7, 5)
  assert large[: len(small)].tolist() == small.tolist()
  assert draws.draw(LABELS, 2, 5).tolist() == small.tolist()
  assert draws.draw(LABELS, 2, 6).tolist() != small.tolist()


def test_a_class_does_not_disturb_the_others():
  """The draw of a class depends on its own examples only."""
  fewer = np.where(LABELS == 3, 2, LABELS)
  first, second = draws.draw(LABELS, 3, 0).reshape(3, 4), draws.draw(fewer, 3, 0).reshape(3, 3)
  assert (first[:, :2] == second[:, :2]).all()


def test_supports_are_padded_shots_major():
  support = draws.supports(LABELS, (1, 2, 5), num_draws=3, seed=10)
  assert support.index.shape == (9, 20)
  assert support.shots.tolist() == [1] * 3 + [2] * 3 + [5] * 3
  assert support.draw.tolist() == [0, 1, 2] * 3
  assert support.count.tolist() == [4] * 3 + [8] * 3 + [20] * 3
  for run in range(9):
    count = support.count[run]
    own = support.index[run, :count]
    assert own.tolist() == draws.draw(LABELS, support.shots[run], 10 + support.draw[run]).tolist()
    assert support.index[run].tolist() == np.resize(own, 20).tolist()


@pytest.mark.parametrize(
  'call, words',
  [
    (lambda: draws.draw(LABELS, 0, 0), 'shots is 0'),
    (lambda: draws.draw(np.array([0, 0, 1, 2, 2]), 2, 0), 'class 1 has 1 training examples, 2 sho'),
    (lambda: draws.draw(np.array([0, 0, 2, 2]), 2, 0), 'class 1 has 0 training examples'),
    (lambda: draws.supports(LABELS, (), 3), 'at least one of each'),
    (lambda: draws.supports(LABELS, (1,), 0), 'num_draws is 0'),
  ],
)
def test_refusals(call, words):
  with pytest.raises(ValueError, match=words):
    call()
