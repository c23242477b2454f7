"""Zoos with several modes for every task, at half the pilot's size and a third of its steps.

Argument: a zoo out of `experiments.modes.MODES`, e.g. `--config='configs/modes.py:3 starts'`
(default: one shared initialisation) for the ordinary apps. The gate is open: what a zoo without an
order costs is part of the question.
Expected (one seed): from weights alone the best of 20 draws beats regression in every zoo (.85 to
.77 with one initialisation, .77 to .46 with three); with a loss on images with one initialisation,
and with independent ones aligned by activations. See docs/results.md.
Cost: eight CPU-minutes a zoo and seed; --seeds and --zoo choose some.
Command: make study-modes, or python -m experiments.study_modes --config=configs/modes.py
--workdir=runs/modes
"""

from experiments import generation, modes


def get_config(mode='shared'):
  """The configuration of one zoo."""
  c = generation.default()
  c.title = f'Several modes for every task: {mode}'
  c.zoo.size = 2000
  c.autoencoder.steps, c.autoencoder.gate = 2000, 0.0
  c.generator.steps, c.fresh.tasks = 2000, 0
  c.hypernetwork.steps, c.hypernetwork.variants = 1500, ('regression', 'both')
  c.compare.tasks, c.compare.steps = 50, (0,)
  return modes.changed(c, mode)
