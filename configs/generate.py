"""Weights drawn for unseen tasks of digits: the pilot's setting.

Two families of digits (scikit-learn's, and MNIST pooled to 8x8), eight transforms, tasks of five of
ten classes in any order. The zoo never sees 50 of the 252 sets of classes, nor images turned by 180
degrees (of MNIST's 270 neither); 4,000 perceptrons of 1,685 weights.
Expected: networks that nobody trained are right in .96 of the images of unseen sets of classes, in
.76 of unseen transforms (random first weights .20); see docs/results.md.
Cost: half an hour of one core.
Command: python -m experiments.build_zoo --config=configs/generate.py --workdir=runs/generate, then
experiments.train_generator and experiments.compare_starts likewise.
"""

from experiments import generation


def get_config():
  """The configuration."""
  c = generation.default()
  c.title = 'Weights drawn for unseen tasks of digits'
  return c
