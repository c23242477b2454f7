"""ResNet-56 for CIFAR in PyTorch, for comparisons only."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
  """Two 3x3 convolutions with BatchNorm, and a shortcut."""

  def __init__(self, inputs: int, width: int, stride: int, shortcut: str):
    super().__init__()
    self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    self.stride, self.missing = stride, width - inputs
    self.projection: nn.Module | None = None
    if self.missing and shortcut == 'projection':
      convolution = nn.Conv2d(inputs, width, 1, stride, bias=False)
      self.projection = nn.Sequential(convolution, nn.BatchNorm2d(width))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps `f32[N, C, H, W]` to `f32[N, width, H / stride, W / stride]`."""
    y = functional.relu(self.bn1(self.conv1(x)))
    y = self.bn2(self.conv2(y))
    if self.projection is not None:
      x = self.projection(x)
    elif self.missing:
      low = self.missing // 2
      strided = x[:, :, :: self.stride, :: self.stride]
      x = functional.pad(strided, (0, 0, 0, 0, low, self.missing - low))
    return functional.relu(x + y)


class ResNet(nn.Module):
  """He et al. (2016), section 4.2: depth `6 * blocks + 2`, widths 16, 32, 64.

  Args:
    blocks: per stage; 9 makes ResNet-56.
    shortcut: 'pad' (option A: every second position, zero channels on both sides) or 'projection'
      (a 1x1 convolution with BatchNorm) where the width changes.
  """

  def __init__(self, blocks: int = 9, shortcut: str = 'pad', num_classes: int = 10):
    super().__init__()
    if shortcut not in ('pad', 'projection'):
      raise ValueError(f"shortcut is {shortcut!r}; allowed are 'pad' and 'projection'")
    self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
    inputs, layers = 16, []
    for stage, width in enumerate((16, 32, 64)):
      for number in range(blocks):
        stride = 2 if stage and not number else 1
        layers.append(Block(inputs, width, stride, shortcut))
        inputs = width
    self.blocks = nn.Sequential(*layers)
    self.head = nn.Linear(64, num_classes)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps `f32[N, 3, 32, 32]` to logits `f32[N, num_classes]`."""
    x = self.blocks(functional.relu(self.stem(x)))
    return self.head(x.mean((2, 3)))


def count_macs(model: nn.Module, images: torch.Tensor) -> int:
  """Multiply-accumulates of the convolutions and linear layers for one of `images`."""
  total = 0

  def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    nonlocal total
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    total += output[0].numel() * weight[0].numel()

  kinds = (nn.Conv2d, nn.Linear)
  hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, kinds)]
  with torch.no_grad():
    model(images)
  for hook in hooks:
    hook.remove()
  return total
