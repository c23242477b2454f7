"""The networks of `benchmarks.training_step` in PyTorch: same layers, widths and statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional


def conv_bn(channels: int, width: int, stride: int = 1) -> nn.Sequential:
  """3x3 convolution without bias, BatchNorm."""
  conv = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
  return nn.Sequential(conv, nn.BatchNorm2d(width))


class Block(nn.Module):
  """Residual block with shortcut option A."""

  def __init__(self, channels: int, width: int, stride: int):
    super().__init__()
    self.first, self.second = conv_bn(channels, width, stride), conv_bn(width, width)
    self.stride, self.missing = stride, width - channels

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps `[N, C, H, W]` to `[N, width, H / stride, W / stride]`."""
    y = self.second(functional.relu(self.first(x)))
    if self.stride != 1:
      x = x[:, :, :: self.stride, :: self.stride]
    if self.missing:
      low = self.missing // 2
      x = functional.pad(x, (0, 0, 0, 0, low, self.missing - low))
    return functional.relu(x + y)


def resnet(channels: int, blocks: int, width: int, num_classes: int) -> nn.Sequential:
  """CIFAR ResNet of depth 6 blocks + 2."""
  layers: list[nn.Module] = [conv_bn(channels, width), nn.ReLU()]
  current = width
  for stage in range(3):
    for i in range(blocks):
      wanted = width * 2**stage
      layers.append(Block(current, wanted, 2 if stage and not i else 1))
      current = wanted
  return nn.Sequential(*layers, *_head(current, num_classes))


def vgg(channels: int, stages: Sequence[Sequence[int]], num_classes: int) -> nn.Sequential:
  """Stages of convolution, BatchNorm, ReLU, each closed by 2x2 max-pooling."""
  layers: list[nn.Module] = []
  for widths in stages:
    for width in widths:
      layers += [conv_bn(channels, width), nn.ReLU()]
      channels = width
    layers.append(nn.MaxPool2d(2, ceil_mode=True))
  return nn.Sequential(*layers, *_head(channels, num_classes))


def _head(width: int, num_classes: int) -> list[nn.Module]:
  """Global average pooling and the dense layer."""
  return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)]


def training_step(
  network: nn.Module, shape: tuple[int, int, int], batch: int, channels_last: bool
) -> Callable[[], float]:
  """A function that does one step of SGD with momentum each time and returns the loss."""
  height, width, channels = shape
  x, y = torch.randn(batch, channels, height, width), torch.randint(0, 10, (batch,))
  if channels_last:
    network = network.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
  network.train()
  optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)

  def step() -> float:
    optimizer.zero_grad(set_to_none=True)
    loss = functional.cross_entropy(network(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()

  return step
