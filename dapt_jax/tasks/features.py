"""What the images of tasks look like to an encoder: features, computed once for a whole bank.

Row n of the features belongs to row n of `Bank.images`, so the rows of a draw index both, and the
array stays on the device beside the rows: nothing is computed twice. With `cache_dir` the features
also outlive the program, under a hash of all they depend on.
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from dapt_jax import files
from dapt_jax.data import pixels as pixels_lib
from dapt_jax.models import model as model_lib
from dapt_jax.models import pretrained
from dapt_jax.tasks import bank
from dapt_jax.training import progress

#: The kinds of features that `extract` knows.
NAMES = ('pixels', 'network', 'efficientnet_lite0')
#: EfficientNet-Lite0 halves a picture five times; below this nothing of it is left.
LEAST_SIZE = 32

_FILES = files.Pair(
  format='dapt_jax.features', version=1, what='stored features', suffix='.safetensors'
)
_Apply = Callable[[Any, jax.Array], jax.Array]


def extract(
  name: str,
  images: np.ndarray,
  *,
  model: model_lib.Model | None = None,
  variables: model_lib.Variables | None = None,
  size: int = 64,
  batch_size: int = 64,
  cache_dir: str | pathlib.Path | None = None,
) -> np.ndarray:
  """Features of images.

  Args:
    name: 'pixels', the standardised pixels themselves; 'network', what the head of `model` reads;
      'efficientnet_lite0', the same of EfficientNet-Lite0 with frozen weights from ImageNet (1280).
    images: f32[n, H, W, C] in [0, 1], for instance `Bank.pictures`.
    model: of 'network'; it is given the images standardised, as in a bank.
    variables: of `model`.
    size: side that images are resized to for 'efficientnet_lite0', at least 32.
    batch_size: images at one time.
    cache_dir: where to keep features between runs; None keeps nothing.

  Returns:
    f32[n, F].

  Raises:
    ImportError: if the weights of EfficientNet-Lite0 are not installed; names the extra.
    ValueError: for an unknown name, images of another scale or shape, or a missing model.
  """
  _check(name, images, size, batch_size)
  images = np.asarray(images, np.float32)
  if name == 'pixels':
    return bank.standardise(images).reshape(len(images), -1)
  parts: tuple[Any, ...] = (name, images)
  if name == 'network':
    made, weights = _check_network(model, variables, images)
    parts += (made.name, sorted(made.config.items()), weights)
    compute = lambda: _run(made.features, weights, bank.standardise, images, batch_size)
  else:
    parts += (size,)
    compute = lambda: _efficientnet(images, size, batch_size)
  if cache_dir is None:
    return compute()
  return _cached(pathlib.Path(cache_dir) / f'{name}-{_digest(parts)[:32]}', len(images), compute)


class Scaling(NamedTuple):
  """What brings every feature to mean 0 and standard deviation 1.

  Attributes:
    mean: f32[F].
    std: f32[F].
  """

  mean: np.ndarray
  std: np.ndarray

  @classmethod
  def fit(cls, features: np.ndarray, rows: np.ndarray, least: float = 1e-3) -> Scaling:
    """From some rows, which should be training images of the zoo.

    Args:
      features: f32[n, F].
      rows: i32[...], those that count, each once.
      least: smaller deviations count as this much.
    """
    chosen = features[np.unique(rows)]
    return cls(chosen.mean(0), np.maximum(chosen.std(0), np.float32(least)))

  def apply(self, features: Any) -> Any:
    """Scales f32[..., F]."""
    return (features - self.mean) / self.std


def _efficientnet(images: np.ndarray, size: int, batch_size: int) -> np.ndarray:
  net, weights = pretrained.efficientnet_lite0(input_shape=(size, size, 3))
  prepare = lambda part: pretrained.prepare(pixels_lib.resize(part, size))
  return _run(net.features, weights, prepare, images, batch_size)


def _run(
  apply: _Apply,
  variables: model_lib.Variables,
  prepare: Callable[[np.ndarray], np.ndarray],
  images: np.ndarray,
  batch_size: int,
) -> np.ndarray:
  """Applies a network batch by batch; the last one is filled up, so that one program serves all."""
  width = min(batch_size, len(images))
  starts = range(0, len(images), width)
  # Weights are arguments: as constants of the program they would take minutes to compile.
  compiled = jax.jit(apply)
  out = []
  with contextlib.closing(progress.Progress(len(starts), name='features', shown=())) as bar:
    for step, start in enumerate(starts, 1):
      part = prepare(images[start : start + width])
      full = np.pad(part, ((0, width - len(part)), (0, 0), (0, 0), (0, 0)))
      out.append(np.asarray(compiled(variables, full), np.float32)[: len(part)])
      bar.advance()
      bar.report(step, {})
  return np.concatenate(out)


def _cached(path: pathlib.Path, count: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
  """What is stored under a path; a missing or damaged file is computed and written again."""
  try:
    stored = safetensors.numpy.load(_FILES.load(path)[1])['features']
    if len(stored) == count:
      return stored
  except (FileNotFoundError, ValueError, KeyError, safetensors.SafetensorError):
    pass
  found = compute()
  _FILES.save(path, {'shape': found.shape}, safetensors.numpy.save({'features': found}))
  return found


def _digest(parts: tuple[Any, ...]) -> str:
  """SHA-256 of arrays (shape, type and content) and of plain values."""
  total = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(parts):
    array = np.ascontiguousarray(leaf)
    total.update(f'{jax.tree_util.keystr(path)} {array.shape} {array.dtype} '.encode())
    total.update(array.tobytes())
  return total.hexdigest()


def _check(name: str, images: np.ndarray, size: int, batch_size: int) -> None:
  if name not in NAMES:
    raise ValueError(f'features {name!r}: choose one of {list(NAMES)}')
  if np.ndim(images) != 4 or not len(images):
    raise ValueError(f'images have shape {np.shape(images)}; expected [n, H, W, C] with n > 0')
  low, high = float(np.min(images)), float(np.max(images))
  if not 0.0 <= low <= high <= 1.0:
    raise ValueError(
      f'images span {low:g}..{high:g}; expected [0, 1]: divide bytes by 255, of a bank take '
      'Bank.pictures'
    )
  if batch_size < 1:
    raise ValueError(f'batch_size={batch_size}: a batch has at least 1 image')
  if name == 'efficientnet_lite0':
    if size < LEAST_SIZE:
      raise ValueError(f'size={size}: {name!r} needs images of at least {LEAST_SIZE} pixels')
    if images.shape[-1] not in (1, 3):
      raise ValueError(f'images have {images.shape[-1]} channels; {name!r} reads grey or RGB')


def _check_network(
  model: model_lib.Model | None, variables: model_lib.Variables | None, images: np.ndarray
) -> tuple[model_lib.Model, model_lib.Variables]:
  if model is None or variables is None:
    raise ValueError("features 'network' are those of a network; give model and variables")
  if model.input_shape != images.shape[1:]:
    raise ValueError(
      f'images are {images.shape[1:]}, {model.name!r} was made for {model.input_shape}; resize '
      'them with Dataset.resize'
    )
  example = jax.ShapeDtypeStruct((1, *model.input_shape), np.float32)
  shape = jax.eval_shape(model.features, variables, example).shape
  if len(shape) != 2:
    raise ValueError(f'{model.name!r} has features {shape}; an encoder needs one vector an image')
  return model, variables
