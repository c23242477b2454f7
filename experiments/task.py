"""What a configuration describes: data, the whole network, its graph."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dapt_jax as dapt
from dapt_jax import data
from dapt_jax.models import model as model_lib
from dapt_jax.models import overrides, pretrained
from dapt_jax.transfer import protocol


@dataclasses.dataclass(frozen=True)
class Task:
  """Everything the stages share.

  Attributes:
    source: training split of the source data set.
    source_test: its test split.
    targets: the tasks with little data.
    standardizer: what the network is shown of images in [0, 1]: fitted on the source, or what
      pretrained weights expect.
    traced: the whole network with plain primitives, for tracing and cutting.
    fast: the same network lowered for populations on this backend; same parameters.
    alone: the same, lowered for calls outside of loops.
    graph: traced from the network with stored statistics.
    train_graph: traced from the network with the batch's statistics.
  """

  source: data.Dataset
  source_test: data.Dataset
  targets: tuple[protocol.Target, ...]
  standardizer: Callable[[np.ndarray], np.ndarray]
  traced: model_lib.Model
  fast: model_lib.Model
  alone: model_lib.Model
  graph: dapt.ChannelGraph
  train_graph: dapt.ChannelGraph

  def synchronised(self, axis_name: str | None) -> model_lib.Model:
    """`fast`, its normalisation averaged over the devices of a mapped axis."""
    m = self.fast
    if axis_name is None:
      return m
    shape, classes = m.input_shape, m.num_classes
    return model_lib.create(
      m.name, in_loop=True, axis_name=axis_name, input_shape=shape, num_classes=classes, **m.config
    )

  def fingerprints(self) -> dict[str, Any]:
    """What tells data sets apart that have one name: {name: (source, examples, checksum)}."""
    sets = [self.source, *[t.train for t in self.targets]]
    return {s.name: [s.source, len(s), zlib.crc32(s.labels.tobytes())] for s in sets}

  @property
  def data_sources(self) -> list[str]:
    """Where the images came from, a line per data set."""
    sets = [self.source, *[t.train for t in self.targets]]
    return [f'{s.name}: {s.source}' for s in sets]


def load(config: Any) -> Task:
  """Loads the data, makes the network and traces it.

  Raises:
    ValueError: for data or fields that do not fit; the message says what to do.
    FileNotFoundError: for data that is not there; the message says how to bring it.
  """
  source, source_test = (_load(config, config.data.source, s) for s in ('train', 'test'))
  if config.data.limit:
    source = _limit(source, config.data.limit)
  fitted = data.Standardizer.fit(source)
  standardizer = pretrained.prepare if config.model.pretrained else fitted
  targets = []
  for name in config.data.targets:
    train, test = (_load(config, name, s) for s in ('train', 'test'))
    if train.image_shape[2] != source.image_shape[2]:
      raise ValueError(
        f'target {name!r} has {train.image_shape[2]} channels, source {source.name!r} has '
        f'{source.image_shape[2]}; take data sets of the same number of channels'
      )
    test = _limit(test, config.data.test_limit) if config.data.test_limit else test
    targets.append(protocol.Target(train.name, source.name, train, test, standardizer))
  classes = {source.num_classes, *[t.train.num_classes for t in targets]}
  if len(classes) > 1:
    raise ValueError(
      f'source and targets have {sorted(classes)} classes; the readout is part of the network, so '
      'take data sets with as many classes, or choose classes with Dataset.classes'
    )
  return _network(config, source, source_test, tuple(targets), standardizer)


def _network(config, source, source_test, targets, standardizer) -> Task:
  input_shape = standardizer(source.take(np.arange(1))[0]).shape[1:]
  options = {
    'input_shape': input_shape,
    'num_classes': source.num_classes,
    **config.model.options.to_dict(),
  }
  traced = model_lib.create(config.model.name, lowering='lax', **options)
  fast = model_lib.create(config.model.name, in_loop=True, **options)
  alone = model_lib.create(config.model.name, **options)
  if config.model.pretrained:
    first = pretrained.with_weights(traced).init
    traced, fast, alone = (m._replace(init=first) for m in (traced, fast, alone))
  shapes = jax.eval_shape(traced.init, jax.random.key(0))
  image = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
  levels = tuple(config.search.levels)
  graph = dapt.trace(traced.apply, shapes, image, levels=levels)
  if config.search.unit == 'latency':
    lowering = overrides.replay(in_loop=False)
    graph = graph.calibrate(batch=config.latency.batch_size, overrides=lowering)
  train_graph = dapt.trace(traced.apply_train, shapes, image, levels=levels)
  return Task(source, source_test, targets, standardizer, traced, fast, alone, graph, train_graph)


def _load(config: Any, name: str, split: str) -> data.Dataset:
  return data.load(
    name,
    split,
    data_dir=config.data.data_dir,
    image_size=config.data.image_size,
    source=config.data.origin,
  )


def _limit(dataset: data.Dataset, count: int) -> data.Dataset:
  """The first examples of a seeded permutation, in the order of the data set."""
  if count >= len(dataset):
    return dataset
  chosen = np.random.default_rng(0).permutation(len(dataset))[:count]
  return dataset.subset(np.sort(chosen))
