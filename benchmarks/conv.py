"""Guards the rule of `models.conv.choose`: shapes x formulations x places.

  python -m benchmarks.conv

Forward and backward of one convolution with respect to input and kernel, float32. 'chosen' is what
`choose` picks, 'regret' its time over the best of the lowerings on offer; 'nchw' and 'taps' (a sum
of one matmul per kernel position) are formulations we tried and do not offer. Places: 'outside' of
any loop, and 'loop', the body of `lax.map` over two sets of operands (time per set).
Cost: about 3 minutes.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import timing
from dapt_jax.models import conv, windows


class Case(NamedTuple):
  """One convolution, SAME padding: batch, side of the map, channels in and out, kernel, groups."""

  batch: int
  side: int
  channels: int
  width: int
  kernel: int = 3
  stride: int = 1
  groups: int = 1


CASES = (
  Case(32, 14, 8, 8),
  Case(64, 14, 16, 16),
  Case(64, 14, 16, 16, kernel=5),
  Case(64, 14, 16, 16, kernel=1),
  Case(64, 14, 16, 16, groups=16),
  Case(64, 28, 1, 16),
  Case(64, 28, 16, 32, stride=2),
  Case(64, 32, 16, 16),
  Case(64, 16, 32, 32),
  Case(64, 8, 64, 64),
  Case(64, 32, 3, 16),
  Case(64, 32, 3, 64),
  Case(64, 32, 64, 64),
  Case(64, 2, 256, 256),
)
Formulation = Callable[[jax.Array, jax.Array], jax.Array]
#: The lowerings on offer by place; in a loop 'mixed' is as slow as 'lax'.
OFFERED = {'outside': ('lax', 'mixed', 'patches'), 'loop': ('lax', 'patches')}
#: MACs above which `lax` in a loop would take minutes.
TOO_LONG = 1e9


def nchw(x: jax.Array, kernel: jax.Array, case: Case) -> jax.Array:
  """lax.conv with channels first inside; input and output stay NHWC."""
  y = lax.conv_general_dilated(
    x.transpose(0, 3, 1, 2),
    kernel,
    (case.stride, case.stride),
    'SAME',
    dimension_numbers=('NCHW', 'HWIO', 'NCHW'),
    feature_group_count=case.groups,
  )
  return y.transpose(0, 2, 3, 1)


def _windows(x: jax.Array, case: Case) -> list[jax.Array]:
  """Shifted windows of the padded input."""
  window, strides = (case.kernel, case.kernel), (case.stride, case.stride)
  pads = conv.explicit_padding(x.shape[1:3], window, strides, 'SAME')
  return windows.shifted_windows(windows.pad_spatial(x, pads), window, strides)


def taps(x: jax.Array, kernel: jax.Array, case: Case) -> jax.Array:
  """One thin matrix product for every kernel position, summed."""
  flat = kernel.reshape(-1, *kernel.shape[2:])
  products = [window @ tap for window, tap in zip(_windows(x, case), flat)]
  return sum(products[1:], products[0])


def formulations(case: Case, place: str) -> dict[str, Formulation]:
  """The formulations of one case in one place by name; 'nchw' and 'taps' know no groups."""

  def offered(lowering: str) -> Formulation:
    options: Any = {'groups': case.groups, 'lowering': lowering}
    return functools.partial(conv.conv2d, strides=(case.stride, case.stride), **options)

  found = {name: offered(name) for name in OFFERED[place]}
  macs = case.batch * (case.side * case.kernel) ** 2 * case.channels * case.width
  if place == 'loop' and macs > TOO_LONG:
    del found['lax']
  if case.groups == 1 and place == 'outside':
    for tried in (nchw, taps):
      found[tried.__name__] = functools.partial(tried, case=case)
  return found


def _looped(fn: Callable[..., Any]) -> Callable[..., Any]:
  """`fn` in the body of a loop over sets of operands."""
  return lambda *operands: lax.map(lambda one: fn(*one), operands)


def measure(case: Case, place: str, repeats: int) -> dict[str, Any]:
  """One row of the table: milliseconds per set of operands of every formulation."""
  rng = np.random.default_rng(0)
  shape = (case.kernel, case.kernel, case.channels // case.groups, case.width)
  sets = 2 if place == 'loop' else 1
  x = rng.standard_normal((sets, case.batch, case.side, case.side, case.channels), np.float32)
  kernel = rng.standard_normal((sets, *shape), np.float32)
  operands = jax.device_put((x, kernel) if place == 'loop' else (x[0], kernel[0]))
  runs = {}
  for name, fn in formulations(case, place).items():
    grads = jax.grad(lambda x, kernel, fn=fn: jnp.sum(jnp.square(fn(x, kernel))), (0, 1))
    compiled = jax.jit(_looped(grads) if place == 'loop' else grads)
    runs[name] = lambda compiled=compiled: compiled(*operands)
  times = timing.interleaved(runs, repeats=repeats, warmup=1)
  chosen = conv.choose(
    shape,
    (case.side, case.side),
    groups=case.groups,
    in_loop=place == 'loop',
  )
  best = min(found.median for name, found in times.items() if name in OFFERED[place])
  return {
    **case._asdict(),
    'place': place,
    **{name: found.median / sets for name, found in times.items()},
    'chosen': chosen,
    'regret': times[chosen].median / best,
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--repeats', type=int, default=11, help='timed rounds (11)')
  args = parser.parse_args()
  rows = []
  for case in CASES:
    found = [measure(case, place, args.repeats) for place in OFFERED]
    print(timing.table(found), flush=True)
    rows += found
  worst = max(rows, key=lambda row: row['regret'])
  print(f'worst regret of the rule: {worst["regret"]:.2f} (at {worst})')
  print(timing.save('conv', rows, repeats=args.repeats))


if __name__ == '__main__':
  main()
