"""Every field that a configuration of the apps that generate weights has, and what it may hold."""

from __future__ import annotations

from dapt_jax.diffusion import objective, sampler, schedule
from dapt_jax.models import model as model_lib
from dapt_jax.tasks import alignment, conditioning, features
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
  'condition.encoder': Rule(
    str, choices=conditioning.ENCODERS, help='of the images of a task; the second is trained along'
  ),
  'condition.features': Rule(
    str, choices=features.NAMES, help="of images; 'network': a body trained on the zoo's images"
  ),
  'condition.slots': Rule(bool, help='False: all classes are told alike, the ablation'),
  'condition.images': Rule(
    tuple,
    items=_count,
    help='images a class in training, one number drawn for every task; (): sample.support',
  ),
  'condition.width': Rule(int, min=2, help='of the set transformer'),
  'condition.align': Rule(
    str,
    choices=('none', *alignment.LOSSES),
    help='stage before the generator, of the set transformer',
  ),
  'condition.align_steps': _count,
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
