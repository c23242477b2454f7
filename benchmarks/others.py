"""Models written by others, traced and cut unchanged: the examples of Flax, Linen and NNX.

  git clone --depth=1 https://github.com/google/flax ~/flax
  pip install -e '.[test]' && python -m benchmarks.others --flax-examples ~/flax/examples

Every model is made small, given random weights, traced, and cut twice at random, once to about 70%
and once to about 30% of its gated positions. Shown: channel groups found, gated, refused; gated
branches; seconds of trace and of a cut (decide and shrink); the largest difference between the
masked and the cut network, relative to the largest result (not a number where either has one).
`--reasons` lists what was refused.
Cost: about two minutes, most of it compilation.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax import nnx

import dapt_jax as dapt
from benchmarks import timing
from dapt_jax.models import adapters
from dapt_jax.types import ApplyFn

#: Means of N(m, 1) logits, of which 70% and 30% are positive.
KEPT = {'70%': 0.524, '30%': -0.524}
TOKENS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 0, 0]], np.int32)


class Case(NamedTuple):
  """A model: a function, the shapes of its variables, inputs."""

  apply_fn: ApplyFn
  variables: Any
  inputs: tuple[Any, ...]


def load(examples: pathlib.Path, path: str) -> Any:
  """A module of the examples under a name of its own (most are called `models.py`)."""
  file = examples / path
  if not file.is_file():
    raise FileNotFoundError(f'{file} is missing: give --flax-examples the folder flax/examples')
  spec = importlib.util.spec_from_file_location(f'flax_examples_{file.parent.name}', file)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module  # dataclasses look their module up
  spec.loader.exec_module(module)
  return module


def linen(module: nn.Module, *inputs: Any, rng: str = 'params', **options: Any) -> Case:
  """A Linen module as it is; `rng` names a random stream that it asks for."""
  key = jax.random.key(0)
  start = lambda: module.init({'params': key, rng: key}, *inputs, **options)
  apply_fn = lambda variables, *inputs: module.apply(variables, *inputs, rngs={rng: key}, **options)
  return Case(apply_fn, nn.meta.unbox(jax.eval_shape(start)), inputs)


def images(*shape: int) -> np.ndarray:
  """Normal pixels, two examples."""
  return np.random.default_rng(1).standard_normal((2, *shape)).astype(np.float32)


def convolutional(examples: pathlib.Path) -> Iterator[tuple[str, Callable[[], Case]]]:
  """(name, how to make it) of the models of images."""
  resnet = load(examples, 'imagenet/models.py')
  for name in ('ResNet18', 'ResNet50'):
    module = getattr(resnet, name)(num_classes=5, num_filters=4)
    yield f'imagenet {name}', lambda m=module: linen(m, images(32, 32, 3), train=False)  # type: ignore[misc]
  ppo = load(examples, 'ppo/models.py')
  yield 'ppo ActorCritic', lambda: linen(ppo.ActorCritic(3), images(84, 84, 4))
  vae = load(examples, 'vae/models.py')
  key = jax.random.PRNGKey(0)
  yield 'vae VAE', lambda: linen(vae.VAE(), images(784), key)


def sequential(examples: pathlib.Path) -> Iterator[tuple[str, Callable[[], Case]]]:
  """(name, how to make it) of the models of tokens."""
  sizes = {'vocab_size': 12, 'output_vocab_size': 12, 'num_layers': 2, 'dropout_rate': 0.0}
  sizes |= {'emb_dim': 16, 'num_heads': 4, 'qkv_dim': 16, 'mlp_dim': 24, 'max_len': 8}
  lm1b, wmt, nlp = (load(examples, f'{name}/models.py') for name in ('lm1b', 'wmt', 'nlp_seq'))
  quiet = {**sizes, 'deterministic': True}
  yield (
    'lm1b TransformerLM',
    lambda: linen(lm1b.TransformerLM(lm1b.TransformerConfig(**quiet)), TOKENS),
  )
  yield (
    'wmt Transformer',
    lambda: linen(wmt.Transformer(wmt.TransformerConfig(**quiet)), TOKENS, TOKENS[:, ::-1].copy()),
  )
  yield 'nlp_seq Transformer', lambda: _tagger(nlp, sizes)
  sst2, seq2seq = (load(examples, f'{name}/models.py') for name in ('sst2', 'seq2seq'))
  text = {'embedding_size': 6, 'hidden_size': 5, 'vocab_size': 12, 'output_size': 2}
  off = {'dropout_rate': 0.0, 'word_dropout_rate': 0.0, 'deterministic': True}
  lengths = np.array([6, 4], np.int32)
  yield 'sst2 TextClassifier', lambda: linen(sst2.TextClassifier(**text, **off), TOKENS, lengths)
  letters = np.eye(12, dtype=np.float32)[TOKENS]
  yield (
    'seq2seq Seq2seq',
    lambda: linen(
      seq2seq.Seq2seq(teacher_force=True, hidden_size=12, vocab_size=12),
      letters,
      letters,
      rng='lstm',
    ),
  )
  for kv_heads in (4, 2):
    yield f'gemma, {kv_heads} kv heads', lambda n=kv_heads: gemma(examples, n)  # type: ignore[misc]


def _tagger(nlp: Any, sizes: dict[str, Any]) -> Case:
  """The sequence tagger, which takes its tokens by name only."""
  module = nlp.Transformer(nlp.TransformerConfig(**sizes))
  start = lambda: module.init(jax.random.key(0), inputs=TOKENS, train=False)
  apply_fn = lambda variables, tokens: module.apply(variables, inputs=tokens, train=False)
  return Case(apply_fn, jax.eval_shape(start), (TOKENS,))


def gemma(examples: pathlib.Path, kv_heads: int) -> Case:
  """The Gemma transformer, an NNX module; its files import each other by name."""
  sys.path.insert(0, str(examples / 'gemma'))
  try:
    transformer = load(examples, 'gemma/transformer.py')
  finally:
    sys.path.remove(str(examples / 'gemma'))
  config = sys.modules['transformer_cfg']
  attention = config.AttentionType
  module = transformer.Transformer(
    config.TransformerConfig(
      **{'num_layers': 2, 'num_embed': 12, 'embed_dim': 16, 'hidden_dim': 24, 'num_heads': 4},
      **{'head_dim': 4, 'num_kv_heads': kv_heads, 'final_logit_softcap': 30.0},
      **{'use_post_attn_norm': True, 'use_post_ffw_norm': True, 'sliding_window_size': 4},
      attention_types=(attention.LOCAL_SLIDING, attention.GLOBAL),
    ),
    rngs=nnx.Rngs(0),
  )
  module.eval()
  call, variables = adapters.from_nnx(module)

  def apply_fn(variables: Any, tokens: jax.Array) -> jax.Array:
    mask = tokens != 0
    positions = transformer.build_positions_from_mask(mask)
    attend = transformer.make_causal_attn_mask(mask)
    return call(variables, tokens, positions, None, attend)[0]

  return Case(apply_fn, variables, (TOKENS,))


def randomised(tree: Any) -> Any:
  """Random leaves of these shapes, of a size that keeps activations tame."""
  rng = np.random.default_rng(0)

  def draw(path: Any, leaf: Any) -> np.ndarray:
    if str(path[-1].key) in ('var', 'scale'):
      return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    deviation = max(1, np.prod(leaf.shape[:-1])) ** -0.5 if len(leaf.shape) > 1 else 0.3
    return (deviation * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, tree)


def logits(graph: dapt.ChannelGraph, mean: float, seed: int) -> dict[str, Any]:
  """N(mean, 1), but for one position above zero on every axis and one summand of every sum."""
  drawn = graph.init_gates(jax.random.key(seed), mean=mean, std=1.0)
  theta = {name: np.array(values) for name, values in drawn.items()}
  for name, values in theta.items():
    group = graph.gated_groups[name]
    for layer in group.layers if group.kind == 'channel' else ():
      best = layer[np.argmax(values[layer])]
      values[best] = max(values[best], 0.1)
  for names, is_open in zip(graph.sums, graph.open_sums):
    if not is_open:
      theta[names[0]][:] = 0.1
  return theta


def difference(
  graph: dapt.ChannelGraph,
  arch: dapt.Architecture,
  variables: Any,
  small: Any,
  inputs: tuple[Any, ...],
) -> float:
  """Largest |masked - shrunk|, relative to the largest masked result."""
  masked = graph.apply_gates(variables, arch.gates(graph))
  wanted = jax.tree.leaves(jax.jit(graph.apply_fn)(masked, *inputs))
  found = jax.tree.leaves(jax.jit(small[0])(small[1], *inputs))
  pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(wanted, found)]
  return float(np.max([np.abs(a - b).max() / max(np.abs(a).max(), 1e-6) for a, b in pairs]))


def measure(name: str, case: Case, reasons: collections.Counter[str]) -> dict[str, Any]:
  """One row of the table; adds what was refused to `reasons`."""
  variables = randomised(case.variables)
  start = time.perf_counter()
  graph = dapt.trace(case.apply_fn, variables, *case.inputs)
  row: dict[str, Any] = {'model': name, 'trace s': time.perf_counter() - start}
  channels = [g for g in graph.groups.values() if g.kind == 'channel' and g.width > 1]
  refused = [g.refused for g in channels if g.refused and 'an output' not in g.refused]
  reasons.update(f'{name}: {reason}' for reason in refused)
  row['groups'] = len(channels)
  row['gated'] = sum(g.kind == 'channel' for g in graph.gated_groups.values())
  row['refused'] = len(refused)
  row['branches'] = len(graph.branches)
  for number, (kept, mean) in enumerate(KEPT.items()):
    theta = logits(graph, mean, number)
    start = time.perf_counter()
    arch = graph.decide(theta)
    small = graph.shrink(arch, variables)
    row['cut s'] = time.perf_counter() - start
    row[f'MACs at {kept}'] = arch.costs['macs']['share']
    row[f'difference at {kept}'] = difference(graph, arch, variables, small, case.inputs)
  return row


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--flax-examples', type=pathlib.Path, required=True, metavar='DIR')
  parser.add_argument('--reasons', action='store_true', help='list what was refused and why')
  args = parser.parse_args()
  rows: list[dict[str, Any]] = []
  reasons: collections.Counter[str] = collections.Counter()
  for source in (convolutional, sequential):
    for name, make in source(args.flax_examples):
      try:
        rows.append(measure(name, make(), reasons))
      except ValueError as error:
        rows.append({'model': name, 'error': str(error).split('\n')[0]})
  print(timing.table(rows))
  for reason, count in reasons.items() if args.reasons else ():
    print(f'{count:4d}  {reason}')
  print(timing.save('others', rows, refused=dict(reasons)))


if __name__ == '__main__':
  main()
