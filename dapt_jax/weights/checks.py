"""Does a generator listen to its condition? Tests on held-out tasks, with rules and verdicts.

A sampler can look good without using what it is told: if tasks are alike, or if labels always come
in one order. So its networks are tested on tasks of which it was told something else:

* the condition of another task: accuracy must fall to chance;
* the task's own classes in another order: the network must follow the new labels, and be wrong
  under the old ones;
* nothing, where the model can be sampled without a condition: the condition must help.

All versions share their noise, so they differ in the condition alone. What the public code of D2NWG
(Soro et al., 2025) leaves open is the second point: an encoder without class slots cannot pass it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax.types import PRNGKey
from dapt_jax.weights import bootstrap, members

#: Weights f32[B, size] of networks for conditions f32[B, classes, ...].
Sampler = Callable[[jax.Array, PRNGKey], jax.Array]

#: Share of the way from the own condition's accuracy to chance that a fall must cover.
FALL = 0.5
#: How much worse than the own order another order of the classes may be.
MARGIN = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Checks:
  """What was measured.

  Attributes:
    accuracy: {version: f32[T]}, means over the draws. Versions: 'own', 'shuffled', 'permuted'
      (under the permuted labels), 'permuted, old labels', and 'unconditional' where there is one.
    chance: accuracy of guessing.
  """

  accuracy: dict[str, np.ndarray]
  chance: float

  def rows(self) -> list[dict[str, Any]]:
    """Rows of `bootstrap.compare` with the own condition as reference."""
    return bootstrap.compare(self.accuracy, 'own')

  def verdicts(self) -> list[dict[str, Any]]:
    """A row a check: `check`, `verdict` ('passed' or 'failed'), `rule`; `mean`, `low`, `high`.

    The last three are of the quantity that the rule is about; `low` decides.
    """
    own = self.accuracy['own']
    fallen = lambda name: own - self.accuracy[name] - FALL * (own - self.chance)
    fall = f'covers more than {FALL:.0%} of the way to chance ({self.chance:.2f})'
    rows = [
      _verdict('condition is used', fallen('shuffled'), f'fall with shuffled conditions {fall}'),
      _verdict(
        'label order is followed',
        self.accuracy['permuted'] - own + MARGIN,
        f'permuted classes, measured under their labels, cost less than {MARGIN:.2f}',
      ),
      _verdict(
        'old labels are left',
        fallen('permuted, old labels'),
        f'fall with permuted classes under the old labels {fall}',
      ),
    ]
    if 'unconditional' in self.accuracy:
      lost = fallen('unconditional')
      rows.append(_verdict('condition helps', lost, f'fall without a condition {fall}'))
    return rows


def run(
  sample: Sampler,
  conditions: np.ndarray,
  flat: members.Flat,
  images: jax.Array,
  tests: np.ndarray,
  key: PRNGKey,
  *,
  unconditional: Sampler | None = None,
  draws: int = 4,
) -> Checks:
  """Measures all versions on held-out tasks.

  Args:
    sample: the generator; also a hypernetwork that ignores the key.
    conditions: f32[T, classes, ...], of training images; entry c of a task speaks of label c.
    flat: the network.
    images: f32[n, H, W, C].
    tests: i32[T, classes, m], test images of the tasks as rows of `images`.
    key: of the samples, and of what is exchanged.
    unconditional: the same generator with the condition dropped (guidance 0, for instance).
    draws: samples a task; their accuracies are averaged.

  Raises:
    ValueError: for shapes that do not fit, too few tasks or classes, or a sampler that returns
      something else than f32[T, size].
  """
  conditions, tests = np.asarray(conditions), np.asarray(tests)
  _check(conditions, tests, draws)
  count, classes = tests.shape[:2]
  to_exchange, to_draw = jax.random.split(key)
  rng = np.random.default_rng(np.asarray(jax.random.key_data(to_exchange)))
  slots = np.stack([_moved(classes, rng) for _ in range(count)])
  moved = lambda array: np.take_along_axis(
    array, slots.reshape(*slots.shape, *[1] * (array.ndim - 2)), axis=1
  )
  other = conditions[_moved(count, rng)]
  versions: dict[str, tuple[Sampler, np.ndarray, list[np.ndarray]]] = {
    'own': (sample, conditions, [tests]),
    'shuffled': (sample, other, [tests]),
    'permuted': (sample, moved(conditions), [moved(tests), tests]),
  }
  if unconditional is not None:
    versions['unconditional'] = (unconditional, conditions, [tests])
  keys = jax.random.split(to_draw, draws)
  found: dict[str, np.ndarray] = {}
  for name, (draw, told, asked) in versions.items():
    names = (name, f'{name}, old labels')
    vectors = [_drawn(draw, told, k, flat.size) for k in keys]
    for label, index in zip(names, asked):
      scores = [members.accuracy(flat, v, images, jnp.asarray(index)) for v in vectors]
      found[label] = np.mean([np.asarray(s) for s in scores], axis=0)
  return Checks(found, 1.0 / classes)


def _drawn(sample: Sampler, conditions: np.ndarray, key: PRNGKey, size: int) -> jax.Array:
  vectors = sample(jnp.asarray(conditions), key)
  if vectors.shape != (len(conditions), size):
    raise ValueError(
      f'the sampler returned shape {vectors.shape}; it must return the weights of one network a '
      f'condition, {(len(conditions), size)}'
    )
  return vectors


def _moved(count: int, rng: np.random.Generator) -> np.ndarray:
  """A permutation i64[count] that is one cycle: nothing stays where it was."""
  order = rng.permutation(count)
  out = np.empty(count, np.int64)
  out[order] = np.roll(order, 1)
  return out


def _check(conditions: np.ndarray, tests: np.ndarray, draws: int) -> None:
  if conditions.ndim < 3 or tests.ndim != 3 or conditions.shape[:2] != tests.shape[:2]:
    raise ValueError(
      f'conditions have shape {conditions.shape} and tests {tests.shape}; they must be '
      '[tasks, classes, entries ...] and [tasks, classes, images] of the same tasks and classes'
    )
  if min(tests.shape[:2]) < 2 or draws < 1:
    raise ValueError(
      f'{tests.shape[0]} tasks of {tests.shape[1]} classes and {draws} draws; exchanging needs two '
      'tasks and two classes or more, and at least one draw'
    )


def _verdict(check: str, value: np.ndarray, rule: str) -> dict[str, Any]:
  found = bootstrap.interval(value)
  rule = f'{rule}: the 95% interval over tasks says so'
  verdict = 'passed' if found.low > 0 else 'failed'
  return {'check': check, 'verdict': verdict, 'rule': rule, **found._asdict()}
