"""A network with other widths in single layers, as an ordinary Linen module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

#: What layers call their number of output features, and the parameter whose last axis it is.
_FIELDS = ('features', 'width')
KERNELS = ('kernel', 'embedding')


class Resized(nn.Module):
  """`inner` with the same parameter paths, but other widths in the layers that are named.

  Works for every layer whose output features are a field `features` or `width`; what follows a
  layer has to take its width from its input, as normalisation does.

  Attributes:
    inner: the network.
    widths: (path of a layer, number of its output features), such as ('stem/conv', 12).
  """

  inner: nn.Module
  widths: tuple[tuple[str, int], ...]

  @property
  def reads_tokens(self) -> bool:
    """Whether `inner` maps token ids."""
    return getattr(self.inner, 'reads_tokens', False)

  def setup(self) -> None:
    """Gives `inner` the scope of this module, so that no path gets longer."""
    nn.share_scope(self, self.inner)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Calls `inner`."""
    with nn.intercept_methods(_resizer(dict(self.widths))):
      return self.inner(*args, **kwargs)


def _resizer(widths: Mapping[str, int]) -> Callable[..., Any]:
  def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    module = context.module
    width = widths.get('/'.join(module.path))
    field = next((f for f in _FIELDS if hasattr(module, f)), None)
    if width is None or field is None or context.method_name != '__call__':
      return call(*args, **kwargs)
    if getattr(module, field) == width:
      return call(*args, **kwargs)
    # A copy in the same scope: its parameters lie where those of the layer would.
    change: Any = {field: width}
    return module.clone(parent=module.scope, **change)(*args, **kwargs)

  return intercept


def check(params: Mapping[str, Any], widths: Mapping[str, int]) -> None:
  """Checks that every named layer exists and got its width.

  Args:
    params: shapes of the 'params' collection of the resized module.
    widths: width by path.

  Raises:
    ValueError: naming the path, and the paths there are.
  """
  found = layer_widths(params)
  for path, width in widths.items():
    if found.get(path) != width:
      have = f'has width {found[path]}' if path in found else 'is not there'
      raise ValueError(
        f'layer_widths[{path!r}] = {width}: this layer {have}; layers whose width can be set: '
        f'{sorted(found)}'
      )


def layer_widths(params: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, int]:
  """Output features of every layer with a kernel: `{'stem/conv': 16, ...}`.

  Args:
    params: arrays or shapes of the 'params' collection; None leaves are left out.
    path: of `params` itself.
  """
  out = {}
  for name, value in params.items():
    if isinstance(value, Mapping):
      out.update(layer_widths(value, (*path, name)))
    elif name in KERNELS and value is not None:
      out['/'.join(path)] = int(value.shape[-1])
  return out
