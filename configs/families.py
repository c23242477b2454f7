"""Weights of convolutional networks drawn for unseen data sets of the families.

The zoo sees 11 sets of icons, 16 scripts and MNIST, in three transforms, tasks of five of ten
classes in any order. Held out are 3 sets of icons and 5 scripts (near), Fashion-MNIST (far), and 50
of the 252 sets of classes. Training images are of other designers and fonts than test images.
Argument: none for a small convolutional network at 28x28; 'pruned' for the structure that a search
finds on MNIST at 14x14 (branches, with BatchNorm).
Expected (three seeds): weights that were drawn have .76 on unseen classes, .70 on unseen icon sets,
.68 on unseen scripts, .72 on Fashion-MNIST without a step; random ones after 300 steps .70, .69,
.52, .80. Pruned (two seeds): .75, .66, .68, .73; random ones after 300 steps .76, .74, .64, .82.
See docs/results.md.
Cost: 45 minutes of one core and 3.4 GB; pruned an hour.
Command: make study-families, make study-families-pruned
"""

from configs import demo
from dapt_jax.data import glyphs, icon_concepts
from experiments import generation

#: Data sets that no zoo sees. Those that are alike (`data.families.KIN`) are on one side.
HELD = (
  *('icons/10', 'icons/11', 'icons/13'),
  *('glyphs/armenian', 'glyphs/ethiopic', 'glyphs/khmer', 'glyphs/lao', 'glyphs/thai'),
  'fashion_mnist',
)
#: What `experiments.prune --config=configs/demo.py --workdir=runs/families-search` finds.
ARCHITECTURE = 'runs/families-search/search/learned-macs0.2-seed0/architecture.json'


def get_config(network=''):
  """The configuration of one network."""
  c = generation.default()
  scripts = (f'glyphs/{name}' for name in glyphs.SCRIPTS)
  c.data.sources = (*icon_concepts.FAMILY, *scripts, 'mnist', 'fashion_mnist')
  c.data.held_views = tuple(f'{name}/*' for name in HELD)
  c.data.transforms = ('rot0', 'rot90', 'rot0+inverted')
  c.data.split, c.data.origin = 'given', 'auto'
  c.data.per_class, c.data.test_per_class = 60, 20
  c.zoo.update({'size': 3000, 'shard': 250, 'steps': 300, 'batch_size': 16, 'group': 1})
  c.zoo.test_per_class = 20
  c.autoencoder.update({'steps': 3000, 'gate': 0.5})
  c.generator.update({'shown': 16, 'steps': 3000})
  c.hypernetwork.steps = 3000
  c.reptile.steps = c.anil.steps = 500
  c.training.batch_size = 32
  c.compare.tasks, c.compare.steps = 30, (0, 1, 3, 10, 30, 100, 300)
  families = ('icons', 'glyphs', 'fashion_mnist')
  c.compare.parts = ('new_classes', *(f'new_view/{name}' for name in families))
  if network == 'pruned':
    c.title = 'Weights of a pruned network drawn for unseen data sets'
    c.data.image_size = 14
    c.model.name, c.model.options = 'multibranch', demo.get_config().model.options
    c.model.architecture = ARCHITECTURE
    # A step takes six times as long as with the small network: pooling, BatchNorm, five branches.
    c.zoo.update({'size': 800, 'shard': 100})
    c.autoencoder.steps = c.generator.steps = c.hypernetwork.steps = 2000
    c.compare.update({'tasks': 13, 'baselines': ('reptile', 'anil')})
    c.reptile.steps = c.anil.steps = 100
  elif not network:
    c.title = 'Weights of convolutional networks drawn for unseen data sets'
    c.data.image_size = 28
    c.model.name, c.model.options = 'strided', {'stages': ((12, 4, 4), (16, 3, 2))}
  else:
    raise ValueError(f'families.py:{network}: write families.py or families.py:pruned')
  return c
