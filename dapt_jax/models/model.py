"""Reference models as pure functions: `create(name, ...)` gives a `Model`.

model = create('resnet20', input_shape=(32, 32, 3), num_classes=10)
variables = model.init(jax.random.key(0))
logits, batch_statistics = model.apply_train(variables, images)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dapt_jax import types
from dapt_jax.models import (
  conv,
  densenet,
  encoder,
  layers,
  mixer,
  mlp,
  mobilenet,
  multibranch,
  recurrent,
  resized,
  resnet,
  strided,
  unet,
  vgg,
  vit,
)

Variables = dict[str, Any]

#: Module and the fields that the name fixes.
_REGISTRY: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
  'mlp': (mlp.MLP, {}),
  'convnet': (vgg.VGG, {}),
  'strided': (strided.Strided, {}),
  'vgg16': (vgg.VGG, {'stages': vgg.VGG16_STAGES}),
  'vgg19': (vgg.VGG, {'stages': vgg.VGG19_STAGES}),
  'resnet20': (resnet.ResNet, {'blocks': (3, 3, 3), 'bottleneck': False}),
  'resnet56': (resnet.ResNet, {'blocks': (9, 9, 9), 'bottleneck': False}),
  'resnet110': (resnet.ResNet, {'blocks': (18, 18, 18), 'bottleneck': False}),
  'resnet18': (resnet.ImageNetResNet, {'blocks': (2, 2, 2, 2), 'bottleneck': False}),
  'resnet50': (resnet.ImageNetResNet, {'blocks': (3, 4, 6, 3), 'bottleneck': True}),
  'densenet': (densenet.DenseNet, {}),
  'densenet121': (densenet.DenseNet, {'blocks': (6, 12, 24, 16), 'growth': 32}),
  'mobilenetv2': (mobilenet.MobileNetV2, {}),
  'efficientnet_lite0': (mobilenet.EfficientNetLite, {}),
  'unet': (unet.UNet, {}),
  'multibranch': (multibranch.MultiBranch, {}),
  'vit': (vit.ViT, {}),
  'vit_s16': (vit.ViT, vit.S16),
  'vit_b16': (vit.ViT, vit.B16),
  'mixer': (mixer.Mixer, {}),
  'encoder': (encoder.Encoder, {}),
  'lstm': (recurrent.Recurrent, {'cell': 'lstm'}),
  'gru': (recurrent.Recurrent, {'cell': 'gru'}),
}
#: The names that `create` knows.
NAMES = tuple(_REGISTRY)
#: Those with one row of logits for an image; `'unet'` has one for every pixel.
CLASSIFIERS = tuple(
  name
  for name, (module, _) in _REGISTRY.items()
  if name != 'unet' and not getattr(module, 'reads_tokens', False)
)
_NOT_CONFIG = ('parent', 'name', 'num_classes', 'execution')


class Model(NamedTuple):
  """A network as pure functions of its variables.

  `variables` is `{'params': ..., 'batch_stats': ...}`; `batch_stats` is missing without BatchNorm.

  Attributes:
    name: the name given to `create`.
    config: every field that the name leaves open, JSON-ready; `create(name, **config)` rebuilds.
    input_shape: of one example: `(H, W, C)` of an image, `(T,)` of a sequence of token ids.
    num_classes: number of logits.
    init: `init(key) -> variables`.
    apply: `apply(variables, x) -> logits`, with the stored statistics; `x` is `f32[B, H, W, C]` or
      `i32[B, T]`, logits `f32[B, num_classes]`, of a `'unet'` `f32[B, H, W, num_classes]`.
    apply_train: `apply_train(variables, x) -> (logits, new_state)`, normalising with the batch's
      statistics; `new_state` is `{'batch_stats': this batch's statistics}`, `{}` without BatchNorm.
    features: `features(variables, x, train=False) -> f32[B, F]`, the input of the head (of a
      `'unet'` `f32[B, H, W, F]`).
    module: the Linen module behind them.
  """

  name: str
  config: dict[str, Any]
  input_shape: tuple[int, ...]
  num_classes: int
  init: Callable[[types.PRNGKey], Variables]
  apply: Callable[[Variables, jax.Array], jax.Array]
  apply_train: Callable[[Variables, jax.Array], tuple[jax.Array, Variables]]
  features: Callable[..., jax.Array]
  module: nn.Module

  @property
  def spec(self) -> dict[str, Any]:
    """What it takes to make the model again, JSON-ready."""
    return {
      'name': self.name,
      'input_shape': list(self.input_shape),
      'num_classes': self.num_classes,
      'config': self.config,
    }


def create(
  name: str,
  *,
  input_shape: Sequence[int],
  num_classes: int,
  lowering: str = 'auto',
  in_loop: bool = False,
  axis_name: str | None = None,
  layer_widths: Mapping[str, int] | None = None,
  **config: Any,
) -> Model:
  """Makes a reference model.

  Args:
    name: one of `NAMES`.
    input_shape: of one example: `(H, W, C)` of an image; `(T,)` for the models that read token
      ids, `'encoder'`, `'lstm'` and `'gru'`.
    num_classes: number of logits.
    lowering: of convolutions and pooling: `'auto'`, `'lax'` (plain primitives, for tracing) or
      `'patches'`; the same parameters serve all.
    in_loop: the model will run in a loop body or under `vmap` over parameters; heeded by `'auto'`.
    axis_name: mapped axis over which BatchNorm averages its statistics; None means one device.
    layer_widths: output features of single layers by path (`{'stem/conv': 12}`), others than the
      model gives them; what a cut leaves, see `dapt_jax.export.flax_module`.
    **config: fields of the model, for instance `widths` of an `'mlp'`. Lists may stand for tuples.

  Returns:
    The model.

  Raises:
    ValueError: for an unknown name or field (the message lists the allowed), or a bad value.
  """
  if name not in _REGISTRY:
    raise ValueError(f'unknown model {name!r}: choose one of {NAMES}')
  if lowering not in conv.LOWERINGS:
    raise ValueError(f'lowering={lowering!r}: choose one of {conv.LOWERINGS}')
  module_class, fixed = _REGISTRY[name]
  wanted = ('T',) if _reads_tokens(module_class) else ('H', 'W', 'C')
  if len(input_shape) != len(wanted) or num_classes < 1:
    raise ValueError(
      f'input_shape={tuple(input_shape)} of {name!r} must be ({", ".join(wanted)}), '
      f'num_classes={num_classes} >= 1'
    )
  defaults = {
    field.name: field.default
    for field in dataclasses.fields(module_class)
    if field.name not in _NOT_CONFIG and field.name not in fixed
  }
  unknown = sorted(set(config) - set(defaults))
  if unknown:
    raise ValueError(f'unknown fields {unknown} of {name!r}: choose out of {sorted(defaults)}')
  fields = {key: _tupled(config.get(key, default)) for key, default in defaults.items()}
  run: dict[str, Any] = {}
  if 'execution' in module_class.__dataclass_fields__:
    run['execution'] = layers.Execution(lowering, in_loop, axis_name)
  module: nn.Module = module_class(num_classes=num_classes, **run, **fields, **fixed)
  if hasattr(module, 'check'):
    module.check(input_shape)
  plain = {key: _listed(value) for key, value in fields.items()}
  if layer_widths:
    bad = {path: n for path, n in layer_widths.items() if n < 1}
    if bad:
      raise ValueError(f'layer_widths={bad}: a layer needs a width of at least 1')
    module = resized.Resized(module, tuple(sorted(layer_widths.items())))
    plain['layer_widths'] = dict(layer_widths)
  made = _as_model(module, name, plain, tuple(input_shape), num_classes)
  if layer_widths:
    resized.check(jax.eval_shape(made.init, jax.random.key(0))['params'], layer_widths)
  return made


def _reads_tokens(module: type[nn.Module] | nn.Module) -> bool:
  """Whether the module maps `i32[N, T]`; images otherwise."""
  return getattr(module, 'reads_tokens', False)


def _as_model(
  module: nn.Module,
  name: str,
  config: dict[str, Any],
  input_shape: tuple[int, ...],
  num_classes: int,
) -> Model:
  """Wraps a Linen module into pure functions."""
  tokens = _reads_tokens(module)

  def check(x: jax.Array) -> None:
    if x.shape[1:] != input_shape or x.ndim != 1 + len(input_shape):
      raise ValueError(f'{name}: input of shape {x.shape}; expected (batch, *{input_shape})')
    if tokens and not jnp.issubdtype(x.dtype, jnp.integer):
      raise ValueError(f'{name}: input of dtype {x.dtype}; give token ids as int32')

  def init(key: types.PRNGKey) -> Variables:
    x = jax.ShapeDtypeStruct((1, *input_shape), jnp.int32 if tokens else jnp.float32)
    shapes = dict(jax.eval_shape(module.init, key, x))
    return layers.draw(shapes, key, gain=getattr(module, 'init_gain', 2.0))

  def apply(variables: Variables, x: jax.Array) -> jax.Array:
    check(x)
    logits: Any = module.apply(variables, x, train=False)
    return logits

  def apply_train(variables: Variables, x: jax.Array) -> tuple[jax.Array, Variables]:
    check(x)
    logits, state = module.apply(variables, x, train=True, mutable=['batch_stats'])
    return logits, dict(state)

  def features(variables: Variables, x: jax.Array, train: bool = False) -> jax.Array:
    check(x)
    _, state = module.apply(variables, x, train=train, mutable=['intermediates'])
    return state['intermediates']['features'][0]

  return Model(name, config, input_shape, num_classes, init, apply, apply_train, features, module)


def _tupled(value: Any) -> Any:
  """Sequences as tuples, all the way down: Linen fields must be hashable."""
  return tuple(_tupled(v) for v in value) if isinstance(value, list | tuple) else value


def _listed(value: Any) -> Any:
  """Tuples as lists, all the way down, as JSON has them."""
  return [_listed(v) for v in value] if isinstance(value, list | tuple) else value
