"""The building blocks that the reference models share: convolution, normalisation, dense layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dapt_jax import types
from dapt_jax.models import conv, norm, pooling, transposed

#: Normal with variance 2 / fan_in (He et al., 2015), not truncated.
he_normal = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
#: Normal with variance 1 / width, for tables of tokens or positions `[entries, width]`.
table_normal = nn.initializers.variance_scaling(1.0, 'fan_out', 'normal')
_TABLES = ('embedding', 'position')
_PER_HEAD = ('query', 'key', 'value')
_STACKED = 'layers'
#: The kinds of `stem`.
STEMS = ('imagenet', 'small')


class Execution(NamedTuple):
  """How a model is run; none of it changes parameters or results beyond rounding.

  Attributes:
    lowering: of convolutions and pooling: `'auto'`, `'lax'` or `'patches'`.
    in_loop: the model runs in a loop body or under `vmap` over parameters; `'auto'` heeds it.
    axis_name: mapped axis over which BatchNorm averages its statistics; None means one device.
  """

  lowering: str = 'auto'
  in_loop: bool = False
  axis_name: str | None = None


class Conv(nn.Module):
  """Convolution without bias, SAME padding; parameter `kernel` `f32[k, k, C // groups, O]`.

  Attributes:
    width: number of output channels O.
    size: kernel size k.
    stride: stride of both axes.
    dilation: dilation of both axes.
    depthwise: one group per input channel.
    execution: how to run it.
  """

  width: int
  size: int = 3
  stride: int = 1
  dilation: int = 1
  depthwise: bool = False
  execution: Execution = Execution()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), O]`."""
    groups = x.shape[-1] if self.depthwise else 1
    shape = (self.size, self.size, x.shape[-1] // groups, self.width)
    kernel = self.param('kernel', he_normal, shape)
    return conv.conv2d(
      x,
      kernel,
      strides=(self.stride, self.stride),
      dilation=(self.dilation, self.dilation),
      groups=groups,
      lowering=self.execution.lowering,
      in_loop=self.execution.in_loop,
    )


class ConvTranspose(nn.Module):
  """Up-sampling: every position becomes `factor * factor`; `kernel` `f32[factor, factor, C, O]`.

  Attributes:
    width: number of output channels O.
    factor: how many times larger both axes become; the stride and the kernel size.
    execution: how to run it.
  """

  width: int
  factor: int = 2
  execution: Execution = Execution()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[N, H, W, C]` to `[N, factor * H, factor * W, O]`."""
    shape = (self.factor, self.factor, x.shape[-1], self.width)
    return transposed.upsample(x, self.param('kernel', he_normal, shape), self.execution.lowering)


class ConvBN(nn.Module):
  """`conv` then `bn`, then ReLU unless told otherwise.

  Attributes:
    width: number of output channels.
    size: kernel size.
    stride: stride of both axes.
    depthwise: one group per input channel.
    activation: what follows, or None.
    epsilon: of the normalisation.
    execution: how to run it.
  """

  width: int
  size: int = 3
  stride: int = 1
  depthwise: bool = False
  activation: Callable[[jax.Array], jax.Array] | None = nn.relu
  epsilon: float = 1e-5
  execution: Execution = Execution()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), width]`."""
    run = self.execution
    convolution = Conv(
      self.width, self.size, self.stride, depthwise=self.depthwise, execution=run, name='conv'
    )
    x = norm.BatchNorm(self.epsilon, run.axis_name, name='bn')(convolution(x), train)
    return x if self.activation is None else self.activation(x)


def stem(x: jax.Array, train: bool, width: int, kind: str, execution: Execution) -> jax.Array:
  """The first layers of a network, as a `ConvBN` named `stem` of the calling module.

  Args:
    x: `f32[N, H, W, C]`.
    train: whether to normalise with the batch's statistics.
    width: number of output channels.
    kind: one of `STEMS`: `'imagenet'` is 7x7 with stride 2, then max-pooling 3x3 with stride 2 (He
      et al., 2016); `'small'`, for small images, is 3x3 with stride 1.
    execution: how to run it.

  Returns:
    `f32[N, ceil(H / 4), ceil(W / 4), width]`, or `f32[N, H, W, width]` from a small stem.

  Raises:
    ValueError: for an unknown kind.
  """
  if kind not in STEMS:
    raise ValueError(f'stem={kind!r}: choose one of {STEMS}')
  if kind == 'small':
    return ConvBN(width, execution=execution, name='stem')(x, train)
  x = ConvBN(width, 7, 2, execution=execution, name='stem')(x, train)
  return pooling.max_pool(x, window=(3, 3), lowering=execution.lowering)


def dense(width: int, name: str) -> nn.Dense:
  """A dense layer with He-normal kernel and zero bias."""
  return nn.Dense(width, kernel_init=he_normal, name=name)


def global_mean(x: jax.Array) -> jax.Array:
  """Mean over the spatial axes: `[N, H, W, C]` to `[N, C]`."""
  return jnp.mean(x, axis=(1, 2))


def draw(shapes: Any, key: types.PRNGKey, gain: float = 2.0) -> Any:
  """Initial variables: normal kernels and tables, scales and variances one, all else zero.

  What `module.init` gives, from the same distribution (but for normal in place of truncated
  normal or orthogonal kernels of the token models), out of one draw: XLA needs about 1.5 s of
  compilation for every normal draw of a new shape, a minute for a ResNet-20.

  Args:
    shapes: the pytree of `ShapeDtypeStruct` that `jax.eval_shape(module.init, ...)` gives.
    key: PRNG key.
    gain: variance of a kernel times its fan-in: 2 before ReLU (He et al., 2015), else 1. See
      `fan_in` for the names that are kernels and tables.

  Returns:
    A pytree of arrays of these shapes.
  """
  flat, treedef = jax.tree_util.tree_flatten_with_path(shapes)
  paths = [[entry.key for entry in path] for path, _ in flat]
  fans = [fan_in(path, leaf.shape) for path, (_, leaf) in zip(paths, flat)]
  sizes = [leaf.size if fan else 0 for fan, (_, leaf) in zip(fans, flat)]
  noise = jax.random.normal(key, (sum(sizes),))
  ends = np.cumsum(sizes)
  leaves = []
  for path, fan, size, end, (_, leaf) in zip(paths, fans, sizes, ends, flat):
    if fan:
      deviation = np.float32(np.sqrt(gain / fan))
      leaves.append(noise[end - size : end].reshape(leaf.shape) * deviation)
    else:
      leaves.append(jnp.full(leaf.shape, float(path[-1] in ('scale', 'var')), leaf.dtype))
  return jax.tree.unflatten(treedef, leaves)


def fan_in(path: Sequence[str], shape: Sequence[int]) -> int:
  """Number of terms in the sums that a random variable enters, told by its names; 0 if not random.

  Args:
    path: names of the modules and of the variable, outermost first. Under a module named `layers`
      the first axis counts layers; a `kernel` of `query`, `key` or `value` is `[D, H, head]`; any
      other `kernel` ends in its outputs. Tables, `embedding` and `position`, count their width.
    shape: its shape.
  """
  own = shape[1:] if _STACKED in path else shape
  if path[-1] in _TABLES:
    return own[-1]
  if path[-1] != 'kernel':
    return 0
  return own[0] if path[-2] in _PER_HEAD else math.prod(own[:-1])
