"""What every app leaves beside its results: versions, and metrics for other tools."""

from __future__ import annotations

import contextlib
import importlib.metadata
import pathlib
from collections.abc import Iterator
from typing import Any

import dapt_jax as dapt
from dapt_jax.training import writers

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def versions() -> dict[str, str]:
  """Versions of this package and of what its results hang on."""
  found = {p: importlib.metadata.version(p) for p in _PACKAGES}
  return {'dapt_jax': dapt.__version__} | found


@contextlib.contextmanager
def more_writers(config: Any, path: pathlib.Path) -> Iterator[list[writers.Writer]]:
  """The writers that a configuration asks for beside `metrics.jsonl`, closed at the end.

  Raises:
    ImportError: `tensorboard` is set, but tensorboardX is not installed.
  """
  if not config.tensorboard:
    yield []
    return
  with contextlib.closing(writers.TensorboardWriter(path / 'tensorboard')) as writer:
    yield [writer]
