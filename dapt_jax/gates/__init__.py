"""Gates: from real logits to binary decisions, as pure maths over dict pytrees.

This room knows neither networks nor data. It holds

* `base`: the interface of a relaxation and the checks of temperatures;
* `relaxation`: gates with two temperatures, deterministic or with logistic noise;
* `peers`: relaxations to compare with; `registry`: all of them by name, behind one interface;
* `mirror`: mirror descent for gates, and step sizes that guarantee descent;
* `penalty`: a term that binarises, and a certificate for rounding;
* `schedules`: hard temperature as a function of the step;
* `budget`: multiplier, penalty path and the final decision at an exact cost.

The method, its equations and the theorems that the tests check are in `docs/gates.md`.
"""

from dapt_jax.gates.base import Relaxation, check_temperatures
from dapt_jax.gates.budget import (
  Decision,
  DualAscent,
  PenaltyPath,
  complexity,
  decide_budget,
  dual_ascent,
  log_grid,
  penalty_path,
  threshold,
)
from dapt_jax.gates.mirror import (
  MirrorState,
  lipschitz_by_power_iteration,
  max_stable_learning_rate,
  mirror_descent,
  mirror_inverse,
  mirror_map,
)
from dapt_jax.gates.peers import (
  hard_concrete,
  hard_concrete_expected_l0,
  one_temperature,
  straight_through,
)
from dapt_jax.gates.penalty import Certificate, certificate, concave, concave_per_gate
from dapt_jax.gates.registry import NAMES, get
from dapt_jax.gates.relaxation import (
  binary,
  gumbel_gates,
  logistic_noise,
  noisy_gates,
  probability,
  two_temperature,
)

__all__ = [
  'NAMES',
  'Certificate',
  'Decision',
  'DualAscent',
  'MirrorState',
  'PenaltyPath',
  'Relaxation',
  'binary',
  'certificate',
  'check_temperatures',
  'complexity',
  'concave',
  'concave_per_gate',
  'decide_budget',
  'dual_ascent',
  'get',
  'gumbel_gates',
  'hard_concrete',
  'hard_concrete_expected_l0',
  'lipschitz_by_power_iteration',
  'log_grid',
  'logistic_noise',
  'max_stable_learning_rate',
  'mirror_descent',
  'mirror_inverse',
  'mirror_map',
  'noisy_gates',
  'one_temperature',
  'penalty_path',
  'probability',
  'straight_through',
  'threshold',
  'two_temperature',
]
