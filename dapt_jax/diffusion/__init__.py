"""Diffusion and flow matching: learn to draw vectors or tokens given a condition.

This room knows neither what the vectors are nor where conditions come from.

* `schedule`: how noise is added; `objective`: what the network predicts;
* `denoisers`, `dit`: networks; `train`: the (init, update) pair; `sampler`: drawing, with guidance.

The equations, and what is ours, are in `docs/diffusion.md`.
"""

from dapt_jax.diffusion import denoisers, dit, objective, sampler, schedule, train
from dapt_jax.diffusion.denoisers import ResidualMLP
from dapt_jax.diffusion.dit import DiT
from dapt_jax.diffusion.objective import Objective
from dapt_jax.diffusion.sampler import sample
from dapt_jax.diffusion.schedule import Schedule
from dapt_jax.diffusion.train import Training, TrainState, make_training

__all__ = [
  'DiT',
  'Objective',
  'ResidualMLP',
  'Schedule',
  'TrainState',
  'Training',
  'denoisers',
  'dit',
  'make_training',
  'objective',
  'sample',
  'sampler',
  'schedule',
  'train',
]
