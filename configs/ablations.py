"""Parts of the generator of digits, changed one at a time, at a third of the pilot's steps.

Argument: a variant out of `experiments.ablations.GROUPS`, e.g.
`--config='configs/ablations.py:set transformer'` (default: nothing is changed) for the ordinary
apps. The gate is open: what a poor autoencoder costs is part of the question.
Expected (one seed): .94 on unseen classes, .74 on unseen transforms as configured; .20 without an
order of classes. See docs/results.md; the study has not been run in full.
Cost: five to eight CPU-minutes a variant that trains something, more with set transformers.
Command: make study-ablations, or python -m experiments.study_generator
--config=configs/ablations.py --workdir=runs/ablations
"""

from experiments import ablations, generation


def get_config(variant=ablations.BASE):
  """The configuration of one variant."""
  c = generation.default()
  c.title = f'Parts of the generator: {variant}'
  c.condition.images = (10,)  # said apart from sample.support, which variants change
  c.autoencoder.steps, c.autoencoder.gate = 2000, 0.0
  c.generator.steps = 2000
  c.hypernetwork.variants = ()
  c.compare.update({'tasks': 50, 'steps': (0,), 'baselines': ()})
  return ablations.changed(c, variant)
