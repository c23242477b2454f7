"""Fields of a configuration of the apps that generate weights, with defaults and rules."""

from __future__ import annotations

from typing import Any

import ml_collections

from dapt_jax.diffusion import objective, sampler, schedule
from dapt_jax.models import model as model_lib
from dapt_jax.tasks import task as task_lib
from dapt_jax.training import config as config_lib
from dapt_jax.weights import codec, first_weights, generator, meta

Rule = config_lib.Rule

_names = Rule(str, min=1)
_count = Rule(int, min=1)

#: {variant: weights of the squared error to the zoo's weights and of the loss on images}
HYPERNETWORKS = {'regression': (1.0, 0.0), 'both': (1.0, 1.0), 'task': (0.0, 1.0)}
#: How networks of a zoo are brought into one order before anything is learned from them.
ALIGNMENTS = ('none', 'weights', 'activations')

SCHEMA: config_lib.Schema = {
  'title': Rule(str, help='headline of the tables'),
  'seed': Rule(int, min=0, help='of split, zoo and generator'),
  'devices': Rule(int, min=0, help='host devices that shards are spread over; 0: one per core'),
  'tensorboard': Rule(bool, help='metrics for TensorBoard, too'),
  'data.sources': Rule(tuple, min=1, items=_names, help='data sets, all of equal classes'),
  'data.transforms': Rule(tuple, min=1, items=Rule(str, choices=task_lib.TRANSFORMS)),
  'data.held_views': Rule(
    tuple, items=_names, help="'SOURCE/TRANSFORM', or 'SOURCE/*', that the zoo never sees"
  ),
  'data.split': Rule(
    str,
    choices=('random', 'given'),
    help='of images into training and test: random, or as the sources come',
  ),
  'data.per_class': Rule(int, min=0, help='training images a class that are kept; 0: all'),
  'data.test_per_class': Rule(int, min=0, help='test images a class that are kept; 0: all'),
  'data.held_sets': Rule(int, min=0, help='unordered sets of classes that the zoo never sees'),
  'data.num_classes': Rule(int, min=2, help='classes of a task'),
  'data.image_size': Rule(int, min=4, help='images are resized to this height and width'),
  'data.data_dir': Rule(str, optional=True, help='None: $DAPT_DATA_DIR or ~/.cache/dapt_jax'),
  'data.origin': Rule(str, choices=('auto', 'tfds', 'package', 'embedded')),
  'model.name': Rule(str, choices=model_lib.CLASSIFIERS),
  'model.options': Rule(dict, help='fields of the model, e.g. widths'),
  'model.architecture': Rule(
    str, optional=True, help='architecture.json of a search; None: the whole network'
  ),
  'model.narrower': Rule(
    tuple, items=Rule(dict), help='options that change in narrower networks of the same zoo'
  ),
  'zoo.size': _count,
  'zoo.per_class': Rule(int, min=1, help='training images a class of every network'),
  'zoo.test_per_class': _count,
  'zoo.start': Rule(
    str, choices=first_weights.STARTS, help='of networks: initialisations they share, or their own'
  ),
  'zoo.starts': Rule(int, min=1, help='how many initialisations are shared'),
  'zoo.align': Rule(str, choices=ALIGNMENTS, help='brings units into one order, by what they are'),
  'zoo.shard': Rule(int, min=1, help='networks a file'),
  'zoo.steps': _count,
  'zoo.batch_size': _count,
  'zoo.learning_rate': Rule(float, above=0, help='of Adam'),
  'zoo.group': Rule(int, min=1, help='networks side by side in one program'),
  'autoencoder.scale': Rule(
    str, choices=codec.SCALES, help='weights are standardised one by one, or array by array'
  ),
  'autoencoder.network': Rule(
    str, choices=generator.NETWORKS, help='reads weights whole, or in tokens: for larger networks'
  ),
  'autoencoder.latent': Rule(int, min=1, help='slots: entries for what all classes share'),
  'autoencoder.per_class': Rule(int, min=1, help='slots: entries for every class'),
  'autoencoder.chunk': Rule(int, min=1, help='weights a token, of hypernetworks, too'),
  'autoencoder.per_token': Rule(int, min=1, help='tokens: entries for every token'),
  'autoencoder.width': _count,
  'autoencoder.blocks': _count,
  'autoencoder.noise': Rule(float, min=0),
  'autoencoder.latent_noise': Rule(float, min=0),
  'autoencoder.kl': Rule(float, min=0),
  'autoencoder.probe': Rule(float, min=0, help='weight of the term in function space'),
  'autoencoder.probes': Rule(int, min=1, help='images that networks are compared on'),
  'autoencoder.learning_rate': Rule(float, above=0),
  'autoencoder.steps': _count,
  'autoencoder.gate': Rule(
    float, min=0, max=1, help='least accuracy of reconstructions over that of the originals'
  ),
  'generator.objective': Rule(str, choices=objective.NAMES),
  'generator.schedule': Rule(str, choices=schedule.NAMES),
  'generator.network': Rule(
    str, choices=generator.NETWORKS, help="'tokens' needs those of the autoencoder"
  ),
  'generator.width': Rule(int, min=2),
  'generator.blocks': _count,
  'generator.task': Rule(float, min=0, help='weight of the task term'),
  'generator.fresh': Rule(float, min=0, help='weight of the task term on tasks without a network'),
  'generator.shown': Rule(int, min=1, help='images that the task term looks at'),
  'generator.drop_rate': Rule(float, min=0, max=1),
  'generator.ema_decay': Rule(float, min=0, below=1),
  'generator.learning_rate': Rule(float, above=0),
  'generator.steps': _count,
  'fresh.tasks': Rule(
    int, min=0, help="tasks of the zoo's part that no network is trained on, for the task terms"
  ),
  'fresh.mixed': Rule(float, min=0, max=1, help='share of them with a view of its own a class'),
  'fresh.warped': Rule(
    float, min=0, max=1, help='share of them that is turned, slanted, stretched'
  ),
  'hypernetwork.network': Rule(str, choices=generator.NETWORKS),
  'hypernetwork.width': _count,
  'hypernetwork.blocks': _count,
  'hypernetwork.variants': Rule(
    tuple,
    min=1,
    items=Rule(str, choices=tuple(HYPERNETWORKS)),
    help='what they are trained on: weights of the zoo, images of its tasks, or both',
  ),
  'hypernetwork.learning_rate': Rule(float, above=0),
  'hypernetwork.steps': _count,
  **{
    f'{method}.{field}': rule
    for method in meta.METHODS
    for field, rule in {
      'inner_steps': Rule(
        int, min=1, help='of zoo.learning_rate, on sample.support images a class'
      ),
      'learning_rate': Rule(float, above=0, help='of the outer steps'),
      'steps': Rule(int, min=1, help='outer steps, on training.batch_size tasks each'),
    }.items()
  },
  'joint.batch_size': Rule(int, min=1, help='images a batch'),
  'joint.learning_rate': Rule(float, above=0),
  'joint.steps': _count,
  'training.batch_size': Rule(int, min=1, help='networks a batch, of all three trainings'),
  'training.repeat': Rule(int, min=1, help='updates in one call of the compiled program'),
  'training.checkpoint_every': Rule(int, min=1, help='calls'),
  'sample.support': Rule(int, min=1, help='images a class that a task shows the generator'),
  'sample.candidates': Rule(int, min=1, help='draws, of which the best on the support is taken'),
  'sample.guidance': Rule(float, min=0),
  'sample.width': Rule(int, min=0, help='0: of model.options; k: of the k-th of model.narrower'),
  'sample.method': Rule(str, choices=sampler.METHODS),
  'sample.steps': _count,
  'compare.tasks': Rule(int, min=2, help='held-out tasks of every part'),
  'compare.parts': Rule(tuple, min=1, items=_names, help="'PART', or 'PART/FAMILY' of sources"),
  'compare.steps': Rule(tuple, min=1, items=Rule(int, min=0), help='of fine-tuning, to look at'),
  'compare.baselines': Rule(
    tuple, items=Rule(str, choices=(*meta.METHODS, 'joint')), help='first weights for all tasks'
  ),
  'compare.trained': Rule(int, min=2, help='networks trained on every held-out task, as a ceiling'),
}


def default() -> ml_collections.ConfigDict:
  """Defaults: two families of digits at 8x8 pixels, tasks of five classes, a small perceptron."""
  c = ml_collections.ConfigDict()
  c.title, c.seed, c.devices, c.tensorboard = 'Weights drawn for unseen tasks', 0, 0, False
  for name, fields in _SECTIONS.items():
    c[name] = ml_collections.ConfigDict(fields)
  c.data.data_dir = ml_collections.config_dict.placeholder(str)
  c.model.architecture = ml_collections.config_dict.placeholder(str)
  return c


def check(config: Any) -> None:
  """Raises ConfigError listing everything that is wrong with a configuration."""
  config_lib.check(config, SCHEMA)
  _check_compare(config)
  for view in config.data.held_views:
    source, _, transform = view.rpartition('/')
    if source not in config.data.sources or transform not in (*config.data.transforms, '*'):
      raise config_lib.ConfigError(
        f"data.held_views has {view!r}; write 'SOURCE/TRANSFORM' or 'SOURCE/*' with a source out "
        f'of {list(config.data.sources)}'
      )
  if config.sample.width > len(config.model.narrower):
    raise config_lib.ConfigError(
      f'sample.width is {config.sample.width}, but model.narrower has {len(config.model.narrower)} '
      'entries; 0 is the network of model.options'
    )
  if config.model.architecture is not None and config.model.narrower:
    raise config_lib.ConfigError(
      f'model.narrower has {len(config.model.narrower)} entries, but a network cut by '
      'model.architecture has one width; leave one of them out'
    )
  if config.generator.network == 'tokens' and config.autoencoder.network != 'tokens':
    raise config_lib.ConfigError(
      "generator.network is 'tokens', but autoencoder.network is "
      f'{config.autoencoder.network!r}, whose latents are none; change one of them'
    )
  if config.zoo.starts > 1 and config.zoo.start == 'independent':
    raise config_lib.ConfigError(
      f"zoo.starts is {config.zoo.starts}, but zoo.start 'independent' shares none; set one of them"
    )
  if config.sample.support > config.zoo.per_class:
    raise config_lib.ConfigError(
      f'sample.support is {config.sample.support}, but networks of the zoo have only '
      f'zoo.per_class={config.zoo.per_class} images to draw conditions from; lower one, raise the '
      'other'
    )
  learned = sorted(set(config.compare.baselines) & set(meta.METHODS))
  if learned and 2 * config.sample.support > config.zoo.per_class:
    raise config_lib.ConfigError(
      f'{learned} of compare.baselines take twice sample.support={config.sample.support} images a '
      f'class, but zoo.per_class is {config.zoo.per_class}; leave them out, or change one of these'
    )


def _check_compare(config: Any) -> None:
  """The comparison comes last: what it would refuse is refused before the trainings."""
  steps = list(config.compare.steps)
  if steps != sorted(set(steps)):
    raise config_lib.ConfigError(f'compare.steps is {steps}; the steps must increase')
  if steps[-1] > config.zoo.steps:
    raise config_lib.ConfigError(
      f'compare.steps ends at {steps[-1]}, but networks are trained for zoo.steps='
      f'{config.zoo.steps}; lower one, raise the other'
    )
  held: dict[str, tuple[str, ...]] = {'new_classes': ('held_sets',), 'new_view': ('held_views',)}
  held['new_both'] = held['new_classes'] + held['new_view']
  for part in config.compare.parts:
    if part.partition('/')[0] not in held:
      raise config_lib.ConfigError(
        f'compare.parts has {part!r}; choose out of {list(held)}, with /FAMILY behind it for the '
        'sources of one family'
      )
    empty = [f'data.{name}' for name in held[part.partition('/')[0]] if not config.data[name]]
    if empty:
      raise config_lib.ConfigError(
        f'compare.parts has {part!r}, but {" and ".join(empty)} hold nothing out; leave the part '
        'away, or hold something out'
      )


#: Fields in which a configuration may differ from the one that a generator was trained with.
FREE = (
  *('title', 'devices', 'tensorboard', 'data.data_dir', 'data.origin', 'training.checkpoint_every'),
  *('model.architecture', 'autoencoder.gate', 'compare'),  # an architecture has a fingerprint
  *('sample.candidates', 'sample.guidance', 'sample.method', 'sample.steps', 'sample.width'),
  *('reptile', 'anil', 'joint'),
)

_SECTIONS: dict[str, dict[str, Any]] = {
  'data': {
    'sources': ('digits', 'mnist'),
    'transforms': task_lib.TRANSFORMS,
    'held_views': (
      *('digits/rot180', 'digits/rot180+inverted', 'mnist/rot180', 'mnist/rot180+inverted'),
      *('mnist/rot270', 'mnist/rot270+inverted'),
    ),
    'split': 'random',
    'per_class': 0,
    'test_per_class': 0,
    'held_sets': 50,
    'num_classes': 5,
    'image_size': 8,
    'origin': 'embedded',
  },
  'model': {'name': 'mlp', 'options': {'widths': (24,)}, 'narrower': ()},
  'zoo': {
    'size': 4000,
    'per_class': 40,
    'test_per_class': 50,
    'start': 'shared',
    'starts': 1,
    'align': 'none',
    'shard': 500,
    'steps': 500,
    'batch_size': 32,
    'learning_rate': 3e-3,
    'group': 32,
  },
  'autoencoder': {
    'scale': 'weight',
    'network': 'slots',
    'latent': 112,
    'per_class': 16,
    'chunk': 256,
    'per_token': 16,
    'width': 192,
    'blocks': 1,
    'noise': 0.02,
    'latent_noise': 0.0,
    'kl': 1e-4,
    'probe': 1.0,
    'probes': 16,
    'learning_rate': 1e-3,
    'steps': 4000,
    'gate': 0.9,
  },
  'generator': {
    'objective': 'v',
    'schedule': 'linear_sqrt',
    'network': 'slots',
    'width': 192,
    'blocks': 3,
    'task': 3.0,
    'fresh': 3.0,
    'shown': 32,
    'drop_rate': 0.1,
    'ema_decay': 0.999,
    'learning_rate': 1e-3,
    'steps': 6000,
  },
  'fresh': {'tasks': 20000, 'mixed': 0.5, 'warped': 0.7},
  'hypernetwork': {
    'network': 'slots',
    'width': 192,
    'blocks': 2,
    'variants': tuple(HYPERNETWORKS),
    'learning_rate': 1e-3,
    'steps': 4000,
  },
  'reptile': {'inner_steps': 20, 'learning_rate': 1e-2, 'steps': 1000},
  'anil': {'inner_steps': 10, 'learning_rate': 3e-3, 'steps': 1000},
  'joint': {'batch_size': 128, 'learning_rate': 1e-2, 'steps': 5000},
  'training': {'batch_size': 64, 'repeat': 50, 'checkpoint_every': 20},
  'sample': {
    'support': 10,
    'candidates': 20,
    'guidance': 2.0,
    'width': 0,
    'method': 'dpm_solver',
    'steps': 10,
  },
  'compare': {
    'tasks': 100,
    'parts': ('new_classes', 'new_view'),
    'steps': (0, 1, 5, 10, 20, 50, 100, 300),
    'baselines': (*meta.METHODS, 'joint'),
    'trained': 4,
  },
}
