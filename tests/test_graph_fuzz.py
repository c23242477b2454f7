"""Bad input to everything public in `graph`: a clear error, never a raw one, never a result."""

import hashlib
import json

import graph_nets as nets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from dapt_jax import graph as graph_lib
from dapt_jax.graph import Architecture, trace

X = nets.images(2, (6,))
PARAMS = nets.randomised(
  {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in {'a': (6, 8), 'b': (8, 5)}.items()}
)
ONES = np.ones(8, np.float32)
NAN, INF = np.full(8, np.nan), np.full(8, np.inf)
TEXT = np.array(['x'] * 8)


def net(p, x):
  return jnp.sin(x @ p['a']) @ p['b']


def centred(p, x):
  h = x @ p['a']
  return (h - h.mean(-1, keepdims=True)) @ p['b']


GRAPH = trace(net, PARAMS, X)
CENTRED = trace(centred, PARAMS, X, levels=('channel', 'normalised'))
THETA = {'a': np.linspace(-1, 1, 8)}
ARCH = GRAPH.decide(THETA)
SMALL, SMALL_PARAMS = GRAPH.shrink(ARCH, PARAMS)
OTHER = Architecture({'z': [0]}, {'z': 3})


def changed(**leaves):
  return {**PARAMS, **leaves}


def made(index, width=3, **more):
  return Architecture({'a': index}, {'a': width}, **more)


TRACE = [
  (lambda: trace(None, PARAMS, X), TypeError, r'apply_fn is None .*pass a function'),
  (lambda: trace('net', PARAMS, X), TypeError, r"apply_fn is 'net' \(str\)"),
  (lambda: trace(net, PARAMS), TypeError, 'cannot be traced.*missing 1 required positional'),
  (lambda: trace(net, PARAMS, X, X), TypeError, 'cannot be traced.*takes 2 positional'),
  (lambda: trace(net, {}, X), TypeError, "cannot be traced.*KeyError: 'a'"),
  (lambda: trace(net, None, X), TypeError, 'cannot be traced.*not subscriptable'),
  (lambda: trace(net, PARAMS, None), TypeError, 'cannot be traced'),
  (lambda: trace(net, PARAMS, X[:, :5]), TypeError, r'float32\[2, 5\].*structure and shapes'),
  (lambda: trace(net, PARAMS, [[1.0] * 6]), TypeError, 'cannot be traced'),
  (lambda: trace(net, PARAMS, 'image'), TypeError, r"inputs leaf '0' is 'image' \(str\)"),
  (lambda: trace(net, changed(a='w'), X), TypeError, r"params leaf 'a' is 'w' .*numeric arrays"),
  (lambda: trace(net, changed(a=TEXT), X), TypeError, "params leaf 'a' is an array of <U1"),
  (lambda: trace(net, changed(a=object()), X), TypeError, "leaf 'a' is <object"),
  (lambda: trace(lambda p, x: 'text', PARAMS, X), TypeError, 'let it return arrays'),
  (lambda: trace(lambda p, x: None, PARAMS, X), ValueError, 'can be gated in this function'),
  (lambda: trace(lambda p, x: 3.0, PARAMS, X), ValueError, 'can be gated in this function'),
  (lambda: trace(lambda p, x: 1 / 0, PARAMS, X), TypeError, 'ZeroDivisionError'),
  (lambda: trace(lambda p, x: [][0], PARAMS, X), TypeError, 'IndexError'),
  (lambda: trace(lambda p, x: p.a, PARAMS, X), TypeError, 'AttributeError'),
  (lambda: trace(lambda p, x: float(x.sum()), PARAMS, X), TypeError, 'ConcretizationTypeError'),
  (lambda: trace(lambda p, x: x if x[0, 0] else -x, PARAMS, X), TypeError, 'TracerBool'),
  (lambda: trace(net, PARAMS, X, levels='chanel'), ValueError, r"levels has \['chanel'\]"),
  (lambda: trace(net, PARAMS, X, levels=([],)), ValueError, r'levels has \[\[\]\]'),
  (lambda: trace(net, PARAMS, X, levels=None), TypeError, 'levels is None .*some of'),
  (lambda: trace(net, PARAMS, X, levels=()), ValueError, 'can be gated in this function'),
  (lambda: trace(net, PARAMS, X, select=3), TypeError, r'select is 3 \(int\).*regular expression'),
  (lambda: trace(net, PARAMS, X, ignore=b'a'), TypeError, 'ignore is'),
  (lambda: trace(net, PARAMS, X, select=['a']), TypeError, 'select is'),
  (lambda: trace(net, PARAMS, X, tie=str), TypeError, 'tie is'),
  (lambda: trace(net, PARAMS, X, tie='*'), ValueError, "tie='[*]' is no regular expression"),
  (lambda: GRAPH.select(3), TypeError, 'select is 3'),
  (lambda: GRAPH.select(ignore='.'), ValueError, "ignore='.'"),
  (lambda: GRAPH.at(X), TypeError, 'inputs is a ndarray; pass a tuple'),
  (lambda: GRAPH.at(None), TypeError, 'inputs is None'),
  (lambda: GRAPH.at(()), TypeError, 'cannot be traced'),
  (lambda: GRAPH.at(('x',)), TypeError, "inputs leaf '0'"),
]

GATES = [
  (lambda: GRAPH.init_gates(3), TypeError, r'key is 3 \(int\); pass jax.random.key'),
  (lambda: GRAPH.init_gates(np.ones(3)), TypeError, 'key'),
  (lambda: GRAPH.init_gates(mean='0'), TypeError, "mean is '0'"),
  (lambda: GRAPH.init_gates(mean=np.nan), ValueError, 'mean is nan.*finite'),
  (lambda: GRAPH.init_gates(std=-1.0), ValueError, 'std is -1.0.*at least 0'),
  (lambda: GRAPH.apply_gates(PARAMS, None), TypeError, 'gates is None .*init_gates'),
  (lambda: GRAPH.apply_gates(PARAMS, ONES), TypeError, 'gates is a ndarray.*a dict'),
  (lambda: GRAPH.apply_gates(PARAMS, {'z': ONES}), ValueError, "'z', which is not gated here"),
  (lambda: GRAPH.apply_gates(PARAMS, {3: ONES}), ValueError, 'has group 3'),
  (lambda: GRAPH.apply_gates(PARAMS, {'b': ONES}), ValueError, 'refused: an output'),
  (lambda: GRAPH.apply_gates(PARAMS, {'a': ONES[1:]}), ValueError, r'\(7,\).*width 8.*init_gates'),
  (
    lambda: GRAPH.apply_gates(PARAMS, {'a': 1.0}),
    TypeError,
    r'1.0 \(float\), but must be',
  ),
  (lambda: GRAPH.apply_gates(PARAMS, {'a': [1.0] * 8}), TypeError, r"gates\['a'\] is .*list"),
  (lambda: GRAPH.apply_gates(PARAMS, {'a': TEXT}), TypeError, 'dtype <U1, but must be real'),
  (lambda: GRAPH.apply_gates(PARAMS, {'a': ONES * 1j}), TypeError, 'complex.*must be real'),
  (lambda: GRAPH.apply_gates(PARAMS, {'a': NAN}), ValueError, r"gates\['a'\] is not finite"),
  (lambda: GRAPH.apply_gates(PARAMS, {'a': INF}), ValueError, 'is not finite'),
  (lambda: GRAPH.apply_gates(None, {'a': ONES}), ValueError, 'another structure'),
  (lambda: GRAPH.apply_gates([], {'a': ONES}), ValueError, 'another structure'),
  (lambda: GRAPH.apply_gates(changed(c=X), {'a': ONES}), ValueError, 'another structure'),
  (lambda: GRAPH.apply_gates(changed(b=None), {'a': ONES}), TypeError, "params leaf 'b' is None"),
  (
    lambda: GRAPH.apply_gates(changed(b=X), {'a': ONES}),
    ValueError,
    r"leaf 'b' has shape \(2, 6\)",
  ),
  (lambda: GRAPH.apply_gates(changed(b=[X]), {'a': ONES}), TypeError, "params leaf 'b' is"),
  (
    lambda: GRAPH.apply_gates(changed(b=np.ones((8, 5), int)), {'a': ONES}),
    TypeError,
    "leaf 'b' has dtype int.*traced was float32",
  ),
  (lambda: CENTRED.apply_gates(PARAMS, {'a': ONES}), ValueError, r'call graph\.apply'),
  (lambda: CENTRED.apply(PARAMS, {'z': ONES}, X), ValueError, "'z', which is not gated here"),
  (lambda: CENTRED.apply(PARAMS, None, X), TypeError, 'gates is None'),
  (lambda: CENTRED.apply(PARAMS, {'a': ONES}), TypeError, 'cannot be traced'),
  (lambda: CENTRED.apply(PARAMS, {'a': ONES}, X[:, 1:]), TypeError, r'float32\[2, 5\]'),
  (lambda: GRAPH.cost(None), TypeError, 'gates is None'),
  (lambda: GRAPH.cost({'a': NAN}), ValueError, 'not finite'),
  (lambda: GRAPH.cost({'a': -2 * ONES}), ValueError, r'from -2 to 1.*\[0, 1\].*not logits'),
  (lambda: GRAPH.cost({}, 'flops'), ValueError, "unit is 'flops'; allowed are"),
  (lambda: GRAPH.cost({}, ['macs']), ValueError, 'unit is'),
  (lambda: GRAPH.total(None), ValueError, 'unit is None'),
]


def _decide(exception, pattern, **options):
  return (lambda: GRAPH.decide(THETA, **options), exception, pattern)


DECIDE = [
  (lambda: GRAPH.decide(None), TypeError, 'theta is None'),
  (lambda: GRAPH.decide({'a': ['x'] * 8}), TypeError, r"theta\['a'\] is"),
  (lambda: GRAPH.decide({'a': NAN}), ValueError, r"theta\['a'\] is not finite"),
  (lambda: GRAPH.decide({'a': ONES * 1j}), TypeError, 'must be real'),
  (lambda: GRAPH.decide({'z': ONES}), ValueError, "theta has group 'z'"),
  *(_decide(ValueError, r'budget is .*\(0, 1\]', budget=b) for b in (-1, 0, 2, np.nan)),
  *(_decide(TypeError, 'budget is .*a share', budget=b) for b in ('0.5', [0.5], X, {}, 1j, True)),
  *(_decide(ValueError, 'unit is', unit=u) for u in ('x', None, ['macs'])),
  *(_decide(ValueError, 'round_to is .*at least 1', round_to=r) for r in (0, 1.5, np.nan, np.inf)),
  *(_decide(TypeError, 'round_to is', round_to=r) for r in (None, '2', [2], {'a': None}, {3: 2})),
  _decide(ValueError, r"round_to='\(' is no regular expression", round_to={'(': 2}),
  *(_decide(ValueError, 'min_width is', budget=0.5, min_width=m) for m in (-1, {'a': 0})),
  *(_decide(TypeError, 'min_width is', budget=0.5, min_width=m) for m in (None, '3')),
  *(_decide(ValueError, r'max_cut is .*\[0, 1\]', budget=0.5, max_cut=m) for m in (2, np.nan)),
  *(_decide(TypeError, 'max_cut is', budget=0.5, max_cut=m) for m in (None, 'x')),
  *(_decide(TypeError, 'keep_branches is .*True or False', keep_branches=k) for k in ('no', None)),
  *(_decide(TypeError, 'within is .*Architecture', within=w) for w in ('arch', {})),
  _decide(ValueError, "another network: its group 'z'", within=OTHER),
  *(_decide(TypeError, 'provenance is .*a dict', provenance=p) for p in (3, 'x', [('a', 1)])),
  (lambda: GRAPH.explain('arch'), TypeError, r"arch is 'arch' \(str\)"),
  (lambda: GRAPH.explain(OTHER), ValueError, 'another network'),
]

SHRINK = [
  (lambda: GRAPH.shrink(None, PARAMS), TypeError, r'arch is None .*graph\.decide'),
  (lambda: GRAPH.shrink(PARAMS, ARCH), TypeError, 'arch is a dict'),
  (lambda: GRAPH.shrink(OTHER, PARAMS), ValueError, 'another network'),
  (lambda: GRAPH.shrink(ARCH, None), ValueError, 'another structure'),
  (lambda: GRAPH.shrink(ARCH, changed(b='xxx')), TypeError, "leaf 'b' is 'xxx'"),
  (lambda: GRAPH.shrink(ARCH, changed(b=X)), ValueError, "leaf 'b' has shape"),
  (lambda: GRAPH.shrink(ARCH, PARAMS, rescale='yes'), TypeError, 'rescale is'),
  (lambda: GRAPH.shrink(ARCH, PARAMS, overrides=3), TypeError, 'overrides is 3'),
  (lambda: GRAPH.shrink(ARCH, PARAMS, overrides={'x': 3}), TypeError, r"overrides\['x'\] is 3"),
  (lambda: SMALL(None, X), ValueError, 'small_params has another structure'),
  (lambda: SMALL(PARAMS, X), ValueError, r"small_params leaf 'a' has shape \(6, 8\).*\(6, 4\)"),
  (lambda: SMALL({**SMALL_PARAMS, 'b': None}, X), ValueError, "leaf 'b' has shape None"),
  (lambda: SMALL(SMALL_PARAMS), TypeError, 'cannot be traced'),
  (lambda: SMALL(SMALL_PARAMS, X, X), TypeError, 'cannot be traced'),
  (lambda: SMALL(SMALL_PARAMS, X[:, 1:]), TypeError, r'float32\[2, 5\]'),
  (lambda: SMALL(SMALL_PARAMS, 'x'), TypeError, "inputs leaf '0' is 'x'"),
]

ARCHITECTURE = [
  (lambda: Architecture(None, None), TypeError, 'kept is None .*a dict'),
  (lambda: Architecture({'a': [0]}, None), TypeError, 'widths is None'),
  (lambda: Architecture({3: [0]}, {'a': 3}), ValueError, 'different groups'),
  (lambda: Architecture({3: [0]}, {3: 3}), TypeError, 'name of a group is 3'),
  *((lambda i=i: made(i), TypeError, 'must be integers on one axis') for i in (None, 3, 'x')),
  *((lambda i=i: made(i), TypeError, 'must be integers') for i in ([[0, 1]], [0.5], [np.nan])),
  (lambda: made(np.array([True, False])), TypeError, r'not bool.*np\.flatnonzero'),
  *((lambda i=i: made(i), ValueError, 'distinct and increasing') for i in ([2, 0], [1, 1])),
  *((lambda i=i: made(i), ValueError, 'below its width 3') for i in ([3], [-1])),
  *((lambda w=w: made([0], w), TypeError, 'width of group') for w in ('3', None)),
  *((lambda w=w: made([], w), ValueError, 'positive integer') for w in (-3, 2.5, 0)),
  (lambda: made([0], costs=3), TypeError, 'costs is 3'),
  (lambda: made([0], costs={'macs': 3}), ValueError, r"costs\['macs'\] is 3.*share"),
  (lambda: made([0], provenance=3), TypeError, 'provenance is 3'),
  *((lambda g=g: ARCH.gates(g), TypeError, 'pass the ChannelGraph') for g in (None, 'g', net)),
  (lambda: OTHER.gates(GRAPH), ValueError, "another network: its group 'z'"),
  (lambda: ARCH.save(''), ValueError, 'names no file'),
  (lambda: Architecture.load(''), ValueError, 'names no file'),
  (lambda: Architecture.load(None), TypeError, 'PathLike object, not NoneType'),
  (lambda: Architecture.load('/nowhere/a'), FileNotFoundError, 'is missing.*two files'),
]


def _table(name, rows):
  return [pytest.param(*row, id=f'{name}{number}') for number, row in enumerate(rows)]


@pytest.mark.parametrize(
  ('call', 'exception', 'pattern'),
  [
    *_table('trace', TRACE),
    *_table('gates', GATES),
    *_table('decide', DECIDE),
    *_table('shrink', SHRINK),
    *_table('architecture', ARCHITECTURE),
  ],
)
def test_bad_input(call, exception, pattern):
  with pytest.raises(exception, match=f'(?s){pattern}'):
    call()


@pytest.mark.parametrize(
  ('entry', 'value'),
  [
    *(('groups', v) for v in (None, 3, {'a': {}}, {'a': {'width': 'x'}}, {'a': {'width': None}})),
    *(('costs', v) for v in (None, 3, {'macs': 3}, {'macs': {}})),
    *(('provenance', v) for v in (None, 3)),
    *(('sha256', v) for v in (None, 3)),
    *(('version', v) for v in (None, '1')),
    ('format', None),
  ],
)
def test_damaged_heads(entry, value, tmp_path):
  path = tmp_path / 'a.json'
  ARCH.save(path)
  path.write_text(json.dumps({**json.loads(path.read_text()), entry: value}))
  with pytest.raises(ValueError, match=r'damaged|does not fit|version|not an architecture'):
    Architecture.load(path)


@pytest.mark.parametrize(
  'payload',
  [
    b'',
    b'xxxx',
    b'\x00' * 100,
    *(
      safetensors.numpy.save({'a': np.array(index)})
      for index in ([0.5], [[0, 1]], [0, 99], [2, 1], 1)
    ),
    safetensors.numpy.save({'z': np.array([0])}),
  ],
  ids=range(9),
)
def test_damaged_payloads(payload, tmp_path):
  path = tmp_path / 'a.json'
  ARCH.save(path)
  head = {**json.loads(path.read_text()), 'sha256': hashlib.sha256(payload).hexdigest()}
  path.write_text(json.dumps(head))
  path.with_suffix('.safetensors').write_bytes(payload)
  with pytest.raises(ValueError, match=r'a\.safetensors'):
    Architecture.load(path)


def test_odd_but_right_input_works():
  other = trace(net, PARAMS, X[0])  # any rank that the function takes
  assert list(other.gated_groups) == ['a']
  nets.assert_close(SMALL(SMALL_PARAMS, X[0]), SMALL(SMALL_PARAMS, X)[0])
  for gate in (np.ones(8, int), np.ones(8, bool), ONES):
    nets.assert_close(CENTRED.apply(PARAMS, {'a': gate}, X), centred(PARAMS, X))
  closed = Architecture({'a': []}, {'a': 8})
  small_fn, small = GRAPH.shrink(closed, PARAMS)
  np.testing.assert_array_equal(small_fn(small, X), 0.0)
  assert graph_lib.Architecture({}, {}).masks() == {}
