"""The big network of the architecture search: cells that sum many operators over the same input.

Every operator ends in its own BatchNorm, an affine map, so a gate on the summand is carried by that
normaliser's scale and bias (multiplying both by the gate multiplies the summand), pools and skip
included. One gate per operator then chooses what a cell computes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from dapt_jax.models import layers, norm, pooling

#: Kernel size, dilation and whether a depthwise convolution comes first, by operator name.
_CONVOLUTIONS = {
  'conv1x1': (1, 1, False),
  'conv3x3': (3, 1, False),
  'conv5x5': (5, 1, False),
  'sep3x3': (3, 1, True),
  'dil3x3': (3, 2, False),
}
_POOLS = {'avg_pool': pooling.avg_pool, 'max_pool': pooling.max_pool}
#: The operators that a cell may hold.
OPERATORS = (*_CONVOLUTIONS, *_POOLS, 'skip')
#: What the head may read.
READOUTS = ('mean', 'flatten')


class Operator(nn.Module):
  """One summand of a cell, ended by BatchNorm `bn` without a non-linearity.

  Attributes:
    kind: one of `OPERATORS`; pools are 3x3 with stride 1.
    width: number of output channels; of the input channels too, unless the operator convolves.
    inner: width of a bottleneck (1x1 convolution + BatchNorm + ReLU) before a convolution; None
      means no bottleneck. Without effect on pools and skip.
    execution: how to run it.
  """

  kind: str
  width: int
  inner: int | None = None
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to `f32[N, H, W, width]`."""
    if self.kind in _POOLS:
      pool = _POOLS[self.kind]
      x = pool(x, window=(3, 3), strides=(1, 1), lowering=self.execution.lowering)
    elif self.kind in _CONVOLUTIONS:
      x = self._convolve(x, train)
    return norm.BatchNorm(axis_name=self.execution.axis_name, name='bn')(x, train)

  def _convolve(self, x: jax.Array, train: bool) -> jax.Array:
    """The bottleneck, the depthwise part and the convolution, as far as this kind has them."""
    size, dilation, separable = _CONVOLUTIONS[self.kind]
    run = self.execution
    if self.inner is not None:
      x = layers.ConvBN(self.inner, size=1, execution=run, name='inner')(x, train)
    if separable:
      depthwise = layers.Conv(x.shape[-1], size, depthwise=True, execution=run, name='depthwise')
      x, size = depthwise(x), 1
    return layers.Conv(self.width, size, dilation=dilation, execution=run, name='conv')(x)


class Cell(nn.Module):
  """`relu(sum of operators(x))`, after an optional reduction and projection of the input.

  Attributes:
    width: number of output channels.
    operators: names of the summands.
    reduce: whether 2x2 max-pooling halves the input first.
    project: whether a 1x1 convolution brings the input to `width` first.
    inner: bottleneck width of the convolving operators, or None.
    execution: how to run it.
  """

  width: int
  operators: tuple[str, ...] = OPERATORS
  reduce: bool = False
  project: bool = False
  inner: int | None = None
  execution: layers.Execution = layers.Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to `f32[N, H', W', width]`; H' is ceil(H / 2) after a reduction."""
    if self.reduce:
      x = pooling.max_pool(x, lowering=self.execution.lowering)
    if self.project:
      projection = layers.ConvBN(self.width, size=1, execution=self.execution, name='projection')
      x = projection(x, train)
    summands = [
      Operator(kind, self.width, self.inner, self.execution, name=kind)(x, train)
      for kind in self.operators
    ]
    return nn.relu(functools.reduce(jnp.add, summands))


class MultiBranch(nn.Module):
  """Stem, cells of parallel operators, readout.

  Attributes:
    num_classes: number of logits.
    cells: number of cells, named `cell1`, `cell2`, ...
    widths: output channels of every cell; the stem has the first of them.
    operators: the summands of every cell, out of `OPERATORS`.
    reductions: numbers (from 1) of the cells whose input is halved by max-pooling.
    inner: bottleneck width of the convolving operators, or None.
    readout: what the dense head reads: 'mean' over space, or 'flatten' (every position).
    execution: how to run it.
  """

  num_classes: int
  cells: int = 3
  widths: tuple[int, ...] = (16, 32, 32)
  operators: tuple[str, ...] = OPERATORS
  reductions: tuple[int, ...] = (2, 3)
  inner: int | None = None
  readout: str = 'mean'
  execution: layers.Execution = layers.Execution()

  def check(self, input_shape: Sequence[int]) -> None:
    """Raises ValueError where the fields do not fit each other."""
    check(self.cells, self.widths, self.operators, self.reductions)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `f32[N, H, W, C]` to logits `f32[N, num_classes]`."""
    if self.readout not in READOUTS:
      raise ValueError(f'readout={self.readout!r}: choose one of {READOUTS}')
    check(self.cells, self.widths, self.operators, self.reductions)
    x = layers.ConvBN(self.widths[0], execution=self.execution, name='stem')(x, train)
    for number, (before, width) in enumerate(zip((self.widths[0], *self.widths), self.widths), 1):
      # Asked of the configuration, not of x: a cut may make the two widths equal or unequal.
      cell = Cell(
        width,
        self.operators,
        reduce=number in self.reductions,
        project=before != width,
        inner=self.inner,
        execution=self.execution,
        name=f'cell{number}',
      )
      x = cell(x, train)
    x = layers.global_mean(x) if self.readout == 'mean' else x.reshape(x.shape[0], -1)
    self.sow('intermediates', 'features', x)
    return layers.dense(self.num_classes, 'head')(x)


def check(
  cells: int, widths: Sequence[int], operators: Sequence[str], reductions: Sequence[int]
) -> None:
  """Checks the configuration of a `MultiBranch`.

  Args:
    cells: number of cells.
    widths: one width per cell.
    operators: operator names.
    reductions: numbers of cells, from 1.

  Raises:
    ValueError: naming the field, its value and what is allowed.
  """
  if len(widths) != cells:
    raise ValueError(f'widths={tuple(widths)}: give one width for each of the {cells} cells')
  unknown = [name for name in operators if name not in OPERATORS]
  if unknown or not operators or len(set(operators)) != len(operators):
    raise ValueError(f'operators={tuple(operators)}: choose distinct names out of {OPERATORS}')
  if any(not 1 <= number <= cells for number in reductions):
    raise ValueError(f'reductions={tuple(reductions)}: give cell numbers between 1 and {cells}')
