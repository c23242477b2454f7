"""The networks of `benchmarks.cut` in PyTorch: same layers, widths and initial distributions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional


def conv_bn(
  inputs: int, width: int, size: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
  """Convolution without bias, BatchNorm."""
  conv = nn.Conv2d(inputs, width, size, stride, size // 2, groups=groups, bias=False)
  return nn.Sequential(conv, nn.BatchNorm2d(width))


class Classifier(nn.Module):
  """`body`, mean over the image, dense `head`."""

  def __init__(self, body: nn.Module, width: int, num_classes: int):
    super().__init__()
    self.body, self.head = body, nn.Linear(width, num_classes)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps `f32[N, 3, H, W]` to logits `f32[N, num_classes]`."""
    return self.head(self.body(x).mean((2, 3)))


class Residual(nn.Module):
  """Convolutions with BatchNorm, a projection in the shortcut if the shape changes (He, 2016)."""

  def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool):
    super().__init__()
    inner = width // 4
    plain = (conv_bn(inputs, width, 3, stride), nn.ReLU(), conv_bn(width, width))
    narrow = (conv_bn(inputs, inner, 1), nn.ReLU(), conv_bn(inner, inner, 3, stride), nn.ReLU())
    layers = (*narrow, conv_bn(inner, width, 1)) if bottleneck else plain
    self.residual = nn.Sequential(*layers)
    same = inputs == width and stride == 1
    self.shortcut = nn.Identity() if same else conv_bn(inputs, width, 1, stride)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps `f32[N, C, H, W]` to `f32[N, width, H / stride, W / stride]`."""
    return functional.relu(self.shortcut(x) + self.residual(x))


def resnet(
  blocks: tuple[int, ...], width: int, bottleneck: bool, imagenet: bool, num_classes: int
) -> Classifier:
  """Stages that double the width and, but for the first, halve the image."""
  stem = (conv_bn(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
  layers = list(stem if imagenet else (conv_bn(3, width), nn.ReLU()))
  inputs = width
  for stage, count in enumerate(blocks):
    wanted = width * 2**stage * (4 if bottleneck else 1)
    for i in range(count):
      layers.append(Residual(inputs, wanted, 2 if stage and not i else 1, bottleneck))
      inputs = wanted
  return Classifier(nn.Sequential(*layers), inputs, num_classes)


def norm_conv(inputs: int, width: int, size: int) -> nn.Sequential:
  """BatchNorm, ReLU, convolution."""
  conv = nn.Conv2d(inputs, width, size, padding=size // 2, bias=False)
  return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), conv)


class Dense(nn.Module):
  """A layer of a dense block: its input, and `growth` channels appended to it (Huang, 2017)."""

  def __init__(self, inputs: int, growth: int):
    super().__init__()
    self.made = nn.Sequential(norm_conv(inputs, 4 * growth, 1), norm_conv(4 * growth, growth, 3))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps `f32[N, C, H, W]` to `f32[N, C + growth, H, W]`."""
    return torch.cat([x, self.made(x)], 1)


def densenet(blocks: tuple[int, ...], growth: int, num_classes: int) -> Classifier:
  """DenseNet-BC with the stem of the ImageNet networks."""
  width = 2 * growth
  layers: list[nn.Module] = [conv_bn(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
  for number, count in enumerate(blocks):
    if number:
      layers += [norm_conv(width, width // 2, 1), nn.AvgPool2d(2)]
      width //= 2
    for _ in range(count):
      layers.append(Dense(width, growth))
      width += growth
  return Classifier(nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU()), width, num_classes)


class Inverted(nn.Module):
  """Expansion, depthwise convolution, projection; added to an input like it (Sandler, 2018)."""

  def __init__(self, inputs: int, width: int, stride: int, expansion: int):
    super().__init__()
    wide = expansion * inputs
    expand = [] if expansion == 1 else [conv_bn(inputs, wide, 1), nn.ReLU6()]
    depthwise = (conv_bn(wide, wide, 3, stride, groups=wide), nn.ReLU6())
    self.layers = nn.Sequential(*expand, *depthwise, conv_bn(wide, width, 1))
    self.added = inputs == width and stride == 1

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps `f32[N, C, H, W]` to `f32[N, width, H / stride, W / stride]`."""
    return x + self.layers(x) if self.added else self.layers(x)


def mobilenetv2(num_classes: int) -> Classifier:
  """The network of the paper with multiplier 1."""
  layers: list[nn.Module] = [conv_bn(3, 32, 3, 2), nn.ReLU6()]
  widths, blocks, strides = (
    (16, 24, 32, 64, 96, 160, 320),
    (1, 2, 3, 4, 3, 3, 1),
    (1, 2, 2, 2, 1, 2, 1),
  )
  inputs = 32
  for width, count, first in zip(widths, blocks, strides):
    for i in range(count):
      layers.append(Inverted(inputs, width, 1 if i else first, 1 if width == 16 else 6))
      inputs = width
  return Classifier(nn.Sequential(*layers, conv_bn(320, 1280, 1), nn.ReLU6()), 1280, num_classes)


class Attention(nn.Module):
  """Self-attention with one layer for queries, keys and values.

  Attributes:
    heads: to be set anew when heads are cut.
    fused: one kernel for the product, which the dependency graph need not follow.
  """

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.heads, self.scale, self.fused = heads, (width // heads) ** -0.5, False

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps `f32[N, T, D]` to the same shape."""
    n, t, _ = x.shape
    split = self.qkv(x).reshape(n, t, 3, self.heads, self.qkv.out_features // (3 * self.heads))
    q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
    if self.fused:
      mixed = functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
    else:
      mixed = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
    return self.out(mixed.transpose(1, 2).reshape(n, t, -1))


class Layer(nn.Module):
  """Pre-norm transformer block."""

  def __init__(self, width: int, heads: int, hidden: int):
    super().__init__()
    self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
    self.attention = Attention(width, heads)
    gelu = nn.GELU(approximate='tanh')
    self.mlp = nn.Sequential(nn.Linear(width, hidden), gelu, nn.Linear(hidden, width))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps `f32[N, T, D]` to the same shape."""
    x = x + self.attention(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
  """Patches, class token, positions, transformer blocks, head (Dosovitskiy, 2021)."""

  def __init__(self, side: int, width: int, depth: int, heads: int, num_classes: int):
    super().__init__()
    self.patches = nn.Conv2d(3, width, 16, 16)
    self.token = nn.Parameter(torch.zeros(1, 1, width))
    self.position = nn.Parameter(torch.randn(1, 1 + (side // 16) ** 2, width) * width**-0.5)
    self.layers = nn.Sequential(*[Layer(width, heads, 4 * width) for _ in range(depth)])
    self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, num_classes)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps `f32[N, 3, H, W]` to logits `f32[N, num_classes]`."""
    x = self.patches(x).flatten(2).transpose(1, 2)
    x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
    return self.head(self.norm(self.layers(x))[:, 0])


#: `maker(side of the image) -> network` by the name that the same network has in dapt_jax.
MAKERS: dict[str, Callable[[int], nn.Module]] = {
  'resnet50': lambda side: resnet((3, 4, 6, 3), 64, True, True, 1000),
  'resnet56': lambda side: resnet((9, 9, 9), 16, False, False, 10),
  'densenet121': lambda side: densenet((6, 12, 24, 16), 32, 1000),
  'mobilenetv2': lambda side: mobilenetv2(1000),
  'vit_b16': lambda side: ViT(side, 768, 12, 12, 1000),
}


def create(name: str, side: int) -> nn.Module:
  """A network for inference, its kernels drawn as those of dapt_jax are."""
  torch.manual_seed(0)
  network = MAKERS[name](side).eval()
  for module in network.modules():
    if isinstance(module, nn.Conv2d | nn.Linear):
      gain = 'linear' if isinstance(network, ViT) else 'relu'
      nn.init.kaiming_normal_(module.weight, nonlinearity=gain)
      if module.bias is not None:
        nn.init.zeros_(module.bias)
  return network


def fuse_attention(network: nn.Module) -> None:
  """One kernel for queries, keys and values, as for inference."""
  for module in network.modules():
    if isinstance(module, Attention):
      module.fused = True


def count_macs(network: nn.Module, image: torch.Tensor) -> int:
  """Multiply-accumulates of convolutions, linear layers and attention for one image."""
  total = 0

  def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    nonlocal total
    if isinstance(module, Attention):
      total += 2 * output.shape[1] ** 2 * module.out.in_features
    elif isinstance(module, nn.Conv2d | nn.Linear):
      width = output.shape[1 if isinstance(module, nn.Conv2d) else -1]
      total += output[0].numel() // width * module.weight.numel()

  hooks = [module.register_forward_hook(add) for module in network.modules()]
  with torch.inference_mode():
    network(image)
  for hook in hooks:
    hook.remove()
  return total
