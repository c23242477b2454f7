"""Seconds to draw 1,000 vectors of length 128, by sampler, number of steps and guidance.

  python -m benchmarks.diffusion

The denoiser is the residual perceptron at its defaults (width 256, 3 blocks) with a condition of
256 numbers. Target: 30 unguided steps of DDIM in at most 2 CPU-seconds. Cost: about a minute.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax

from benchmarks import timing
from dapt_jax import diffusion

ROWS, LENGTH, CONDITION = 1000, 128, 256
TARGET = 2.0  # CPU-seconds
#: (method, moves, whether guided).
CASES = (
  ('ddim', 30, False),
  ('ddim', 30, True),
  ('ddpm', 30, False),
  ('dpm_solver', 10, False),
  ('dpm_solver', 10, True),
  ('dpm_solver', 20, True),
  ('heun', 15, False),
)


def functions() -> dict[tuple[str, int, bool], Callable[[], jax.Array]]:
  """A function for every case that draws all vectors."""
  goal = diffusion.objective.create('v', diffusion.schedule.create('linear_sqrt', 1000))
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.normal(keys[0], (ROWS, LENGTH))
  condition = jax.random.normal(keys[1], (ROWS, CONDITION))
  init_fn, predict_fn = diffusion.denoisers.functions(diffusion.ResidualMLP(), x, condition)
  params = init_fn(keys[2])

  def case(method: str, num_steps: int, guided: bool) -> Callable[[], jax.Array]:
    @jax.jit
    def draw(params, condition, weight, key):
      return diffusion.sample(
        functools.partial(predict_fn, params),
        goal,
        condition,
        (LENGTH,),
        key,
        method=method,
        num_steps=num_steps,
        guidance=weight if guided else None,
      )

    return lambda: draw(params, condition, 2.0, keys[3])

  return {options: case(*options) for options in CASES}


def measure(repeats: int) -> list[dict[str, Any]]:
  """Rows of the table."""
  rows = []
  for (method, num_steps, guided), times in timing.interleaved(functions(), repeats).items():
    calls = 2 * num_steps - 1 if method == 'heun' else num_steps
    rows.append(
      {
        'method': method,
        'steps': num_steps,
        'guided': guided,
        'rows through the denoiser': calls * ROWS * (1 + guided),
        'seconds': times.median / 1e3,
        'quartiles': f'{times.low / 1e3:.3g} .. {times.high / 1e3:.3g}',
        'CPU seconds': times.cpu / 1e3,
      }
    )
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--repeats', type=int, default=9, help='timed rounds (9)')
  rows = measure(parser.parse_args().repeats)
  print(timing.table(rows))
  print(f'{CASES[0][0]}: {rows[0]["CPU seconds"]:.2f} CPU-seconds, target at most {TARGET}')
  print(timing.save('diffusion', rows, target=TARGET))


if __name__ == '__main__':
  main()
