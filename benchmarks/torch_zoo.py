"""Many small networks in PyTorch: one after the other, and stacked with `torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import func, nn
from torch.nn import functional


def perceptron(image: tuple[int, int, int], widths: Sequence[int], classes: int) -> nn.Module:
  """The zoo's `mlp`: dense layers with ReLU between them, on images `[N, C, H, W]`."""
  layers: list[nn.Module] = [nn.Flatten()]
  last = image[0] * image[1] * image[2]
  for width in widths:
    layers += [nn.Linear(last, width), nn.ReLU()]
    last = width
  return nn.Sequential(*layers, nn.Linear(last, classes))


def strided_net(
  image: tuple[int, int, int], stages: Sequence[tuple[int, int, int]], classes: int
) -> nn.Module:
  """The zoo's `strided`: convolutions of (width, size, stride), a dense head on all positions."""
  layers: list[nn.Module] = []
  last, edge = image[2], image[0]
  for width, size, stride in stages:
    out = -(-edge // stride)
    missing = max((out - 1) * stride + size - edge, 0)
    if missing % 2:
      raise ValueError(f'a size of {size} and a stride of {stride} pad {edge} unevenly')
    layers += [nn.Conv2d(last, width, size, stride, missing // 2), nn.ReLU()]
    last, edge = width, out
  return nn.Sequential(*layers, nn.Flatten(), nn.Linear(last * edge**2, classes))


def conv_net(
  image: tuple[int, int, int], stages: Sequence[Sequence[int]], classes: int
) -> nn.Module:
  """The zoo's `convnet`, a convolution a stage; BatchNorm without running statistics."""
  layers: list[nn.Module] = []
  last = image[2]
  for (width,) in stages:
    layers += [nn.Conv2d(last, width, 3, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(width, track_running_stats=False), nn.ReLU()]
    layers += [nn.MaxPool2d(2, ceil_mode=True)]
    last = width
  return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes))


#: By the name of the model that each stands beside.
KINDS: dict[str, Callable[..., nn.Module]] = {
  'mlp': perceptron,
  'strided': strided_net,
  'convnet': conv_net,
}


class Tasks:
  """Training images of many tasks.

  Attributes:
    images: f32[n, C, H, W].
    rows: i64[N, P], the images of every task.
    labels: i64[P], the same for every task.
  """

  def __init__(self, images: np.ndarray, rows: np.ndarray):
    """Takes NumPy arrays: images f32[n, H, W, C], rows i32[N, classes, k]."""
    self.images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    self.rows = torch.from_numpy(rows.reshape(len(rows), -1).astype('int64'))
    self.labels = torch.arange(rows.shape[1]).repeat_interleave(rows.shape[2])


def train_loop(
  make: Callable[[], nn.Module], tasks: Tasks, steps: int, batch: int, rate: float
) -> list[nn.Module]:
  """One network after the other, by Adam on batches drawn with replacement."""
  trained = []
  for rows in tasks.rows:
    network = make()
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    chosen = torch.randint(len(rows), (steps, batch))
    for pick in chosen:
      loss = functional.cross_entropy(network(tasks.images[rows[pick]]), tasks.labels[pick])
      optimizer.zero_grad(set_to_none=True)
      loss.backward()
      optimizer.step()
    trained.append(network)
  return trained


def train_stacked(
  make: Callable[[], nn.Module], tasks: Tasks, steps: int, batch: int, rate: float
) -> dict[str, torch.Tensor]:
  """All networks side by side: parameters with a leading axis, one Adam for the stack."""
  count, size = tasks.rows.shape
  networks = [make() for _ in range(count)]
  params, _ = func.stack_module_state(networks)
  base = networks[0].to('meta')

  def loss(own, images, labels):
    return functional.cross_entropy(func.functional_call(base, own, (images,)), labels)

  gradients = func.vmap(func.grad(loss))
  params = {name: p.detach() for name, p in params.items()}
  optimizer = torch.optim.Adam(params.values(), lr=rate)
  chosen = torch.randint(size, (steps, count, batch))
  for pick in chosen:
    shown = tasks.images[torch.gather(tasks.rows, 1, pick)]
    found = gradients(params, shown, tasks.labels[pick])
    for name, p in params.items():
      p.grad = found[name]
    optimizer.step()
  return params


def accuracy_of_loop(networks: list[nn.Module], tasks: Tasks) -> float:
  """Mean share of the training images that the networks get right."""
  with torch.inference_mode():
    right = [
      (n(tasks.images[rows]).argmax(-1) == tasks.labels).float().mean()
      for n, rows in zip(networks, tasks.rows)
    ]
  return float(torch.stack(right).mean())


def accuracy_of_stack(
  make: Callable[[], nn.Module], params: dict[str, torch.Tensor], tasks: Tasks
) -> float:
  """The same of stacked networks."""
  base = make()
  with torch.inference_mode():
    logits = [
      func.functional_call(base, {k: p[i] for k, p in params.items()}, (tasks.images[rows],))
      for i, rows in enumerate(tasks.rows)
    ]
    right = [(own.argmax(-1) == tasks.labels).float().mean() for own in logits]
  return float(torch.stack(right).mean())
