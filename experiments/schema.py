"""Every field a configuration may have, with its default and what it may hold."""

from __future__ import annotations

from typing import Any, get_args

import ml_collections

from dapt_jax import gates, pruning
from dapt_jax.graph import LEVELS, UNITS
from dapt_jax.models import model as model_lib
from dapt_jax.models import precision
from dapt_jax.training import config as config_lib
from dapt_jax.training import runner
from experiments import generation

Rule = config_lib.Rule
BASELINES = ('dense', 'random', 'uniform', 'same_counts', 'shuffled')
SEARCHES = ('one_temperature', 'fixed_weights')
DENSE = ('inherited', 'pretrained_finetune', 'pretrained_readout')
#: Classical criteria that a baseline may name; as a baseline 'random' is a better sampler.
CRITERIA = tuple(name for name in pruning.criteria.NAMES if name != 'random')

#: An optional section, a whole configuration of `generation`; without it the stage is left out.
FIRST_WEIGHTS = 'first_weights'

_names = Rule(str, min=1)
_share = Rule(float, above=0, max=1)

SCHEMA: config_lib.Schema = {
  'title': Rule(str, help='headline of the report'),
  'seed': Rule(int, min=0, help='of everything that is not a search'),
  'devices': Rule(int, min=0, help='host devices of a search on CPU; 0: one per core, if K allows'),
  'runner': Rule(str, choices=get_args(runner.Kind), help='how a step is put on several devices'),
  'precision': Rule(
    str,
    choices=precision.NAMES,
    help='of layers in searches and source training; all else is float32',
  ),
  'profile': Rule(int, min=0, help='steps of a search to trace with the profiler of JAX'),
  'workers': Rule(int, min=0, help='candidates retrained at a time; 0: one per core'),
  'tensorboard': Rule(bool, help='metrics for TensorBoard, too, beside every metrics.jsonl'),
  'data.source': Rule(str, min=1, help='data set that the structure is learned on'),
  'data.targets': Rule(tuple, min=1, items=_names, help='data sets with few examples'),
  'data.image_size': Rule(int, min=4, help='images are resized to this height and width'),
  'data.data_dir': Rule(str, optional=True, help='None: $DAPT_DATA_DIR or ~/.cache/dapt_jax'),
  'data.origin': Rule(str, choices=('auto', 'tfds', 'package', 'embedded')),
  'data.limit': Rule(int, min=0, help='source examples used; 0: all'),
  'data.test_limit': Rule(int, min=0, help='test examples used; 0: all'),
  'model.name': Rule(str, choices=model_lib.CLASSIFIERS),
  'model.pretrained': Rule(bool, help='first weights from ImageNet, the head fresh; grey repeated'),
  'model.options': Rule(dict, help='fields of the model, e.g. widths'),
  'search.criterion': Rule(
    str,
    choices=('gates', *pruning.criteria.NAMES),
    help='gates: learned; else the whole network is trained on the source and cut by it',
  ),
  'search.rounds': Rule(
    int,
    min=1,
    help='of a classical criterion; 1: one-shot; else `steps` of retraining lie in between',
  ),
  'search.levels': Rule(tuple, min=1, items=Rule(str, choices=LEVELS)),
  'search.weights': Rule(str, choices=pruning.weights.NAMES),
  'search.relaxation': Rule(str, choices=gates.NAMES),
  'search.budgets': Rule(tuple, min=1, items=_share, help='shares of the whole network'),
  'search.unit': Rule(str, choices=UNITS, help='latency: at latency.batch_size, measured first'),
  'search.seeds': Rule(tuple, min=1, items=Rule(int, min=0)),
  'search.population': Rule(int, min=1, help='K, networks side by side'),
  'search.steps': Rule(int, min=1),
  'search.batch_size': Rule(int, min=1, help='of the weights, and of the gates'),
  'search.accumulate': Rule(
    int, min=1, help='parts that a batch is taken in, gradients averaged: less memory'
  ),
  'search.shots': Rule(int, min=0, help='examples a class each network sees in a life; 0: all'),
  'search.lifetime': Rule(int, min=1, help='R, updates between two draws of weights'),
  'search.inner_steps': Rule(int, min=0),
  'search.warmup': Rule(int, min=0, help='updates after a draw without a say on the gates'),
  'search.hold': Rule(int, min=0, help='updates at the start in which no gate moves'),
  'search.ramp': Rule(float, min=0, max=1, help='share of the steps in which the target falls'),
  'search.rho': Rule(float, above=0),
  'search.damping': Rule(float, min=0),
  'search.concave': Rule(float, min=0),
  'search.branch_price': Rule(float, min=0, help='of every open branch, in nats'),
  'search.sharp_cost': Rule(bool, help='price what would be decided, not what is drawn'),
  'search.redraw': Rule(int, min=1, help='updates a network keeps its draw of gates'),
  'search.hard_start': Rule(float, above=0, max=1),
  'search.hard_end': Rule(float, above=0, max=1),
  'search.gate_optimizer': Rule(str, choices=('adam', 'sgd', 'mirror')),
  'search.gate_rate': Rule(float, above=0),
  'search.weight_rate': Rule(float, above=0, help='of Adam'),
  'search.start_channel': Rule(float, help='first logit of channel, input and link gates'),
  'search.start_branch': Rule(float, help='first logit of branch gates'),
  'search.round_to': Rule(int, min=1),
  'search.checkpoint_every': Rule(int, min=1),
  'search.log_every': Rule(int, min=1),
  'transfer.shots': Rule(tuple, min=1, items=Rule(int, min=1)),
  'transfer.draws': Rule(int, min=2),
  'transfer.random_architectures': Rule(int, min=0),
  'transfer.baselines': Rule(
    tuple, items=Rule(str, choices=(*BASELINES, *CRITERIA, *SEARCHES, *DENSE))
  ),
  'transfer.weights': Rule(
    str,
    choices=('fresh', 'inherited'),
    help='first weights of what is cut: drawn, or those of the network trained on the source',
  ),
  'transfer.source_steps': Rule(int, min=1, help='training of the whole network on the source'),
  'transfer.steps': Rule(int, min=1),
  'transfer.batch_size': Rule(int, min=1),
  'transfer.learning_rate': Rule(float, above=0),
  'transfer.weight_decay': Rule(float, min=0),
  'transfer.chunk': Rule(int, min=1),
  'transfer.stop_loss': Rule(float, min=0),
  'latency.batch_sizes': Rule(tuple, min=1, items=Rule(int, min=1)),
  'latency.methods': Rule(tuple, items=_names, help='of which one structure a budget is timed'),
  'latency.repeats': Rule(int, min=3),
}


def default() -> ml_collections.ConfigDict:
  """Defaults of every field: the study's setting; configurations change what they need."""
  c = ml_collections.ConfigDict()
  c.title = 'Structure found, carried, compared'
  c.seed, c.devices, c.workers, c.tensorboard = 0, 0, 0, False
  c.runner, c.precision, c.profile = 'auto', 'float32', 0
  c.data = ml_collections.ConfigDict(
    {
      'source': 'fashion_mnist',
      'targets': ('mnist',),
      'image_size': 14,
      'data_dir': ml_collections.config_dict.placeholder(str),
      'origin': 'auto',
      'limit': 0,
      'test_limit': 2000,
    }
  )
  c.model = ml_collections.ConfigDict({'name': 'multibranch', 'pretrained': False, 'options': {}})
  c.search = ml_collections.ConfigDict(_search())
  c.transfer = ml_collections.ConfigDict(_transfer())
  c.latency = ml_collections.ConfigDict(
    {'batch_sizes': (64,), 'methods': ('learned',), 'repeats': 21}
  )
  return c


def _search() -> dict[str, Any]:
  return {
    'criterion': 'gates',
    'rounds': 1,
    'levels': ('channel', 'branch'),
    'weights': 'fresh',
    'relaxation': 'gumbel_trapezoid',
    'budgets': (0.2,),
    'unit': 'macs',
    'seeds': (0, 1, 2),
    'population': 4,
    'steps': 500,
    'batch_size': 64,
    'accumulate': 1,
    'shots': 10,
    'lifetime': 100,
    'inner_steps': 1,
    'warmup': 20,
    'hold': 20,
    'ramp': 0.5,
    'rho': 0.005,
    'damping': 2.0,
    'concave': 0.0,
    'branch_price': 0.06,
    'sharp_cost': True,
    'redraw': 1,
    'hard_start': 0.1,
    'hard_end': 0.1,
    'gate_optimizer': 'adam',
    'gate_rate': 0.03,
    'weight_rate': 0.003,
    'start_channel': 2.0,
    'start_branch': 0.0,
    'round_to': 1,
    'checkpoint_every': 100,
    'log_every': 20,
  }


def _transfer() -> dict[str, Any]:
  return {
    'shots': (1, 5, 10, 20),
    'draws': 10,
    'random_architectures': 12,
    'baselines': (*BASELINES, 'magnitude_l2', *SEARCHES, *DENSE),
    'weights': 'fresh',
    'source_steps': 600,
    'steps': 300,
    'batch_size': 32,
    'learning_rate': 0.003,
    'weight_decay': 1e-4,
    'chunk': 50,
    'stop_loss': 0.01,
  }


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a configuration with an unknown field or a bad value, before any work.

  Raises:
    training.config.ConfigError: every problem at once, with the allowed names and values.
    ValueError: for fields that do not go together.
  """
  config_lib.check({name: config[name] for name in config if name != FIRST_WEIGHTS}, SCHEMA)
  if FIRST_WEIGHTS in config:
    try:
      generation.check(config[FIRST_WEIGHTS])
    except config_lib.ConfigError as error:
      raise config_lib.ConfigError(f'in the section {FIRST_WEIGHTS}: {error}') from error
  search = config.search
  if search.hard_end > search.hard_start:
    raise ValueError(
      f'search.hard_end is {search.hard_end}, above hard_start {search.hard_start}; the hard '
      'temperature may only fall'
    )
  if search.warmup >= search.lifetime:
    raise ValueError(
      f'search.warmup is {search.warmup}, but weights live for lifetime={search.lifetime} updates'
    )
  if search.weights == 'fresh' and search.inner_steps < 1:
    raise ValueError(
      'search.inner_steps is 0, but fresh weights say nothing until they are trained; set it to 1, '
      "or take weights = 'random_features'"
    )
  if search.batch_size % search.accumulate:
    raise ValueError(
      f'search.accumulate is {search.accumulate}, which does not divide search.batch_size = '
      f'{search.batch_size}'
    )
  if search.accumulate > 1 and search.weights == 'random_features':
    raise ValueError(
      f'search.accumulate is {search.accumulate}, but the readout of random_features is fitted to '
      'a whole batch; set it to 1, or lower search.batch_size'
    )
  if config.model.pretrained and config.model.name != 'efficientnet_lite0':
    raise ValueError(
      f'model.pretrained is set, but there are no weights for {config.model.name!r}; take '
      "'efficientnet_lite0', or leave it False"
    )
  if config.devices and search.population % config.devices:
    raise ValueError(
      f'devices is {config.devices}, which does not divide search.population = {search.population}'
    )
  if (
    config.model.name != 'multibranch'
    and set(search.levels) == {'branch'}
    and ('resnet' not in config.model.name)
  ):
    raise ValueError(f'model {config.model.name!r} has no branches; add "channel" to levels')
