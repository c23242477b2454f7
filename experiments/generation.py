"""Configurations of the apps that generate weights: defaults, and rules between fields."""

from __future__ import annotations

from typing import Any

import ml_collections

from dapt_jax.tasks import task as task_lib
from dapt_jax.training import config as config_lib
from dapt_jax.weights import meta
from experiments import generation_schema

SCHEMA = generation_schema.SCHEMA


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
  _check_condition(config)
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


def is_default(config: Any, section: str) -> bool:
  """Whether a section holds what `default` has there."""
  return config[section].to_dict() == _SECTIONS[section]


def free(config: Any) -> tuple[str, ...]:
  """Fields in which a configuration may differ from the one that its generator was trained with."""
  return (*FREE, 'sample.support') if config.condition.images else FREE


def _check_condition(config: Any) -> None:
  c = config.condition
  if c.align != 'none' and c.encoder != 'set_transformer':
    raise config_lib.ConfigError(
      f'condition.align is {c.align!r}, but {c.encoder!r} has no parameters to align; set it to '
      "'none', or take condition.encoder 'set_transformer'"
    )
  if c.width % 2:
    raise config_lib.ConfigError(
      f'condition.width is {c.width}; the set transformer has two heads, so it must be even'
    )
  if max(c.images, default=0) > config.zoo.per_class:
    raise config_lib.ConfigError(
      f'condition.images is {tuple(c.images)}, but networks of the zoo have only zoo.per_class='
      f'{config.zoo.per_class} images to draw conditions from; lower one, raise the other'
    )
  if c.features == 'efficientnet_lite0' and config.fresh.tasks and config.fresh.warped:
    raise config_lib.ConfigError(
      f"condition.features 'efficientnet_lite0' are computed once for stored images, but "
      f'fresh.warped={config.fresh.warped} distorts images in every batch; set fresh.warped to 0, '
      "or take 'pixels' or 'network'"
    )
  if c.features == 'network' and config.model.architecture is not None:
    raise config_lib.ConfigError(
      "condition.features 'network' are those of the zoo's network, but what model.architecture "
      "leaves of it gives logits only; take 'pixels'"
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


#: What `free` always allows.
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
  'condition': {
    'encoder': 'moments',
    'features': 'pixels',
    'slots': True,
    'images': (),
    'width': 64,
    'align': 'none',
    'align_steps': 1000,
  },
  'fresh': {'tasks': 20000, 'mixed': 0.5, 'warped': 0.7},
  'hypernetwork': {
    'network': 'slots',
    'width': 192,
    'blocks': 2,
    'variants': tuple(generation_schema.HYPERNETWORKS),
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

#: Sections that generators of an earlier version do not know: they were trained with the defaults.
ADDED = {'condition': _SECTIONS['condition']}
