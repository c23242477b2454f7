"""Pictures of a graph: what is drawn, where it stands, and what is written beside it."""

import re

import graph_pictures as pictures
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dapt_jax import graph as graph_lib
from dapt_jax.graph.picture import draw, names
from dapt_jax.models import model as model_lib

#: Model -> (shape of an example, fields, layers with a kernel, frames when folded).
NETS = {
  'mlp': ((8, 8, 1), {}, 3, 0),
  'multibranch': (
    (12, 12, 1),
    {'widths': (6, 6, 6), 'operators': ('conv3x3', 'sep3x3', 'max_pool', 'skip')},
    1 + 3 * (1 + 2) + 1,
    0,
  ),
  'resnet20': ((32, 32, 3), {}, 20, 3),
  'densenet121': ((64, 64, 3), {}, 121, 4),
  'mobilenetv2': ((32, 32, 3), {}, 53, 4),
  'vit': ((16, 16, 3), {'width': 24, 'mlp_width': 48, 'depth': 4}, 1 + 4 * 6 + 1, 1),
  'unet': ((32, 32, 3), {}, 4 * 2 + 2 + 4 * 3 + 1, 0),
  'lstm': ((6,), {}, 1 + 8 + 1, 1),
}


@pytest.fixture(scope='module')
def trace():
  known = {}

  def traced(name):
    if name not in known:
      shape, config, *_ = NETS[name]
      network = model_lib.create(name, input_shape=shape, num_classes=5, lowering='lax', **config)
      variables = jax.eval_shape(network.init, jax.random.key(0))
      dtype = np.int32 if len(shape) == 1 else np.float32
      known[name] = graph_lib.trace(
        network.apply, variables, jax.ShapeDtypeStruct((1, *shape), dtype)
      )
    return known[name]

  return traced


def example(p, x):
  h = jax.nn.relu(x @ p['stem'])
  h = h + jnp.tanh(h @ p['up']) @ p['down']
  return jnp.concatenate([h, jnp.sort(h @ p['side'], axis=-1)], 1) @ p['head']


def shapes(**sizes):
  return {name: jax.ShapeDtypeStruct(size, np.float32) for name, size in sizes.items()}


@pytest.fixture(scope='module')
def graph():
  params = shapes(stem=(6, 8), up=(8, 12), down=(12, 8), side=(8, 4), head=(12, 3))
  return graph_lib.trace(example, params, jax.ShapeDtypeStruct((1, 6), np.float32))


def architecture(graph, **kept):
  """Keeps the first gates of the groups named; of all others everything."""
  whole = {n: g.width for n, g in graph.gated_groups.items()}
  return graph_lib.Architecture({n: np.arange(kept.get(n, w)) for n, w in whole.items()}, whole)


def some(graph, seed=0):
  """An architecture that keeps about half of everything."""
  random = np.random.default_rng(seed)
  widths = {n: g.width for n, g in graph.gated_groups.items()}
  kept = {n: np.flatnonzero(random.random(w) < 0.5) for n, w in widths.items()}
  return graph_lib.Architecture(kept, widths)


def walk(graph, fold=None, arch=None):
  masks = None if arch is None else arch.masks()
  return list(draw.plan(graph, masks, fold)[0].walk())


@pytest.mark.parametrize('name', list(NETS))
def test_every_layer_is_drawn_once(trace, name):
  _, _, layers, frames = NETS[name]
  items = [i for i in walk(trace(name), fold=False) if i.kind == 'layer']
  assert len(items) == layers
  folded = walk(trace(name))
  assert sum(len(i.all_copies()) for i in folded if i.kind == 'layer') == layers
  assert sum(i.body is not None for i in folded) == frames


@pytest.mark.parametrize('name', list(NETS))
def test_nothing_overlaps_and_every_gate_has_a_colour(trace, name):
  graph = trace(name)
  arch = some(graph)
  pictures.assert_nothing_overlaps(graph)
  pictures.assert_nothing_overlaps(graph, arch.masks())
  picture = graph.picture(arch)
  legend = pictures.legend(picture)
  assert set(legend) == set(graph.gated_groups)
  for number in legend.values():  # in the legend, and in the drawing
    assert len(re.findall(f'class="group group-{number}"', picture.svg)) > 1
  width, height = map(int, pictures.root(picture).get('viewBox').split()[2:])
  assert width < 1700 and height < 2300


def test_the_text_needs_nothing_else(graph):
  root = pictures.root(graph.picture())
  assert root.tag == f'{pictures.SVG}svg' and root.get('role') == 'img'
  assert '308 MACs' in root.get('aria-label')
  tags = {e.tag.removeprefix(pictures.SVG) for e in root.iter()}
  assert tags == {'svg', 'g', 'rect', 'path', 'circle', 'text', 'title'}
  keys = {k for e in root.iter() for k in e}
  assert not keys & {'href', 'src', 'style', 'id'} and 'url(' not in graph.picture().svg
  assert graph.picture().svg == graph.picture().svg


def test_boxes_say_what_is_done_and_what_is_kept(graph):
  texts = pictures.texts(graph.picture())
  assert {'dense  6 -> 8', 'dense  12 -> 3', 'concat', '+', 'input  1x6', 'output  1x3'} <= set(
    texts
  )
  assert not any('→' in t for t in texts)
  texts = pictures.texts(graph.picture(architecture(graph, stem=3, up=5)))
  assert texts.count('8 → 3') == 4 + 1  # four ends of layers, and the legend
  assert texts.count('12 → 5') == 2 + 1
  assert texts.count('12 → 7') == 1  # the head: three of eight, and four more
  assert 'kept' in texts and 'left: width read, right: width written, before → after' in texts


def test_a_bar_is_as_long_as_the_share_that_stays(graph):
  svg = graph.picture(architecture(graph, up=3)).svg
  row = re.search(r'<title>up</title>\s*(<text.*?)</g>', svg, re.S).group(1)
  whole, kept = map(float, re.findall(r'<rect [^>]*width="([\d.]+)"', row))
  np.testing.assert_allclose(kept / whole, 3 / 12, atol=0.01)


def test_refused_positions_give_their_reason(graph):
  titles = [t.text for t in pictures.root(graph.picture()).iter(f'{pictures.SVG}title')]
  assert graph.groups['side'].refused and f'stays whole: {graph.groups["side"].refused}' in titles
  assert 'stays whole: an output of the function' in titles


def test_a_cut_branch_is_dashed_with_all_that_only_it_needs(graph):
  arch = architecture(graph, **{'branch:down': 0})
  gone = {i.name for i in walk(graph, arch=arch) if not i.alive}
  assert gone == {'up', 'down'}
  picture = graph.picture(arch)
  assert {'cut', 'dashed: cut'} <= set(pictures.texts(picture))
  assert len(re.findall('class="item gone"', picture.svg)) == 2
  whole = graph.picture(architecture(graph)).svg
  assert 'dasharray' not in whole and picture.svg.count('dasharray') == 2 + 3


def test_alike_blocks_are_one_frame_with_a_row_each(trace):
  graph = trace('resnet20')
  kept = {f'stage1_block{i}/conv1': 3 + i for i in (1, 2, 3)}
  texts = pictures.texts(graph.picture(architecture(graph, **kept)))
  assert 'stage1_block[1…3], 3 times' in texts
  assert all(texts.count(f'16 → {3 + i}') == 2 for i in (1, 2, 3))
  assert '16 → 4…6' in texts  # the legend
  legend = pictures.legend(graph.picture())
  assert legend['stage1_block1/conv1'] == legend['stage1_block3/conv1']
  assert legend['stage1_block1/conv1'] != legend['stage2_block1/conv1']
  # Blocks that are cut alike need no rows.
  same = dict.fromkeys(kept, 5)
  assert pictures.texts(graph.picture(architecture(graph, **same))).count('16 → 5') == 2 + 1


def test_growing_blocks_are_folded_with_their_widths(trace):
  texts = pictures.texts(trace('densenet121').picture())
  assert 'block3_layer[1…24], 24 times' in texts and 'conv 1x1  256…992 -> 128' in texts


def test_loops_and_products_of_activations(trace):
  items = walk(trace('lstm'))
  (loop,) = [i for i in items if i.kind == 'loop']
  assert sum(i.kind == 'layer' for i in loop.body.items) == 8
  assert 'scan, 6 turns, cell' in pictures.texts(trace('lstm').picture())
  assert pictures.texts(trace('vit').picture()).count('@') == 2


def test_normalisations_are_part_of_the_layer_or_small(trace):
  texts = pictures.texts(trace('resnet20').picture())
  assert 'stem/conv + bn' in texts and 'stage2_block1/conv2 + bn2' in texts
  kinds = [i.kind for i in walk(trace('densenet121'), fold=False)]
  assert kinds.count('scale') == 58 + 3 + 1


def test_entries_of_kernels_are_marked():
  params = shapes(a=(4, 6), b=(6, 2))
  apply_fn = lambda p, x: jnp.tanh(x @ p['a']) @ p['b']
  x = jax.ShapeDtypeStruct((1, 4), np.float32)
  graph = graph_lib.trace(apply_fn, params, x, levels=('link',))
  legend = pictures.legend(graph.picture())
  assert set(legend) == {'link:a', 'link:b'}
  assert graph.picture().svg.count('group-2"') == 2 + 1  # two in the legend


def test_odd_names_are_escaped():
  odd = '<&"\x00\x1b\'>é'
  params = shapes(**{odd: (4, 6), 'b': (6, 2)})
  x = jax.ShapeDtypeStruct((1, 4), np.float32)
  graph = graph_lib.trace(lambda p, x: jnp.tanh(x @ p[odd]) @ p['b'], params, x)
  picture = graph.picture(architecture(graph))
  assert '<&"\ufffd\ufffd\'>é' in pictures.texts(picture)
  assert set(pictures.legend(picture)) == {'<&"\ufffd\ufffd\'>é'}


def test_save_and_show(graph, tmp_path):
  picture = graph.picture()
  picture.save(tmp_path / 'new' / 'net.svg')
  assert (tmp_path / 'new' / 'net.svg').read_text(encoding='utf-8') == picture.svg
  picture.save(str(tmp_path / 'net.html'))
  page = (tmp_path / 'net.html').read_text(encoding='utf-8')
  assert picture.svg in page and page.startswith('<!DOCTYPE html>')
  assert not re.search(r'(src|href)=|url\(|@import', page)
  assert picture._repr_svg_() == picture.svg and picture.svg in picture._repr_html_()
  with pytest.raises(ValueError, match=r"\.svg or \.html, not as 'net\.png'"):
    picture.save(tmp_path / 'net.png')
  (tmp_path / 'taken.svg').mkdir()
  with pytest.raises(OSError, match='could not save the picture'):
    picture.save(tmp_path / 'taken.svg')
  assert sorted(p.name for p in tmp_path.iterdir()) == ['net.html', 'new', 'taken.svg']


def test_an_architecture_of_another_network_is_refused(graph):
  other = graph_lib.Architecture({'stem': np.arange(3)}, {'stem': 9})
  with pytest.raises(ValueError, match='made for another network'):
    graph.picture(other)


def test_short_names():
  assert names.shared(['a/b1/conv1', 'a/b1/conv2']) == 'a/b1'
  assert names.shared(['l1_in/conv', 'l1/bn']) == 'l1'
  assert names.shared(['conv1', 'conv2']) == ''
  assert names.below('a/b/conv', 'a/b') == 'conv' and names.below('a/b', 'a/b') == 'b'
  assert names.summary(['s1_b1/c', 's1_b2/c', 's1_b10/c']) == 's1_b[1…10]/c'
  assert names.summary(['a', 'b', 'a']) == '[a…b]'
  assert names.summary(['a1', 'b/c']) == 'a1 +1'
  assert names.marks(['b2/x', 'b3/x']) == ['2', '3'] and names.marks(['+', '+']) == ['1', '2']
  assert names.middle('abcdefghij', 5) == 'ab…ij' and names.span(['1', '1']) == '1'
