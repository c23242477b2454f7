"""A network trained on ImageNet, pruned on icons, carried to other icons and to Fashion-MNIST.

EfficientNet-Lite0 with its ImageNet weights, 48x48 images. The source is ten concepts of icons,
the targets ten other concepts by other designers (near) and Fashion-MNIST (far); one source, so
that the same structures are judged on both. Every structure, by whatever criterion, is cut out of
one network: the ImageNet weights trained for a while on the source. It keeps these weights, gets a
fresh readout, and is trained on 10 or 20 examples a class of the target.
Expected: see docs/results.md.
Cost: about an hour of two cores: half of it search and retraining each, most of it compilation.
Command: make study-efficientnet (data: python -m dapt_jax.data.fetch icons fashion_mnist)
"""

from experiments import schema


def get_config():
  """The configuration."""
  c = schema.default()
  c.title = 'Study: EfficientNet-Lite0 from ImageNet, pruned on icons, few-shot targets'
  c.data.source, c.data.targets = 'icons_train', ('icons_unseen', 'fashion_mnist')
  c.data.image_size = 48
  c.data.test_limit = 1000
  c.model.name, c.model.pretrained = 'efficientnet_lite0', True
  c.search.budgets = (0.75, 0.5, 0.25)
  c.search.seeds = (0,)
  c.search.levels = ('channel',)
  c.search.round_to = 8
  c.search.population = 2
  c.search.batch_size = 32
  c.search.steps = 120
  c.search.shots = 0
  c.search.lifetime = 60
  c.search.warmup = 10
  c.search.hold = 10
  # Eleven thousand gates share the price, so each pays little of it: the default never got there.
  c.search.rho, c.search.damping = 0.1, 20.0
  c.search.gate_rate = 0.1
  c.search.weight_rate = 0.001
  c.search.start_channel = 3.0
  c.search.log_every = 10
  c.search.checkpoint_every = 40
  c.transfer.shots = (10, 20)
  c.transfer.draws = 3
  c.transfer.weights = 'inherited'
  c.transfer.source_steps = 150
  c.transfer.steps = 40
  c.transfer.chunk = 10
  c.transfer.batch_size = 32
  c.transfer.learning_rate = 0.001
  c.transfer.stop_loss = 0.05
  c.transfer.random_architectures = 1
  c.transfer.baselines = (
    'random',
    'uniform',
    'magnitude_l2',
    'taylor',
    'bn_scale',
    'pretrained_finetune',
  )
  c.latency.batch_sizes = (1, 64)
  c.latency.methods = ('learned', *(m for m in c.transfer.baselines if m != 'pretrained_finetune'))
  return c
