"""Reads a program as often as it takes to settle what its reshapes leave open to cuts.

An axis that a reshape splits (features into heads) can be cut in whole heads or across all heads,
axes that it merges in one of them only. Which of them something can carry gates for is known when
everything has been read; so a first reading leaves these axes whole, and the next ones follow the
first candidate, and the next where the rest of the program refuses that one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dapt_jax.graph import analysis as analysis_lib
from dapt_jax.graph import labels
from dapt_jax.graph import program as program_lib
from dapt_jax.graph.primitives import rules

_RESHAPE = 'a reshape'
_MOST = 8


def settle(
  program: program_lib.Program,
  num_params: int,
  close: Callable[[analysis_lib.Analysis], None],
  weights: bool,
) -> analysis_lib.Analysis:
  """The final reading of a program.

  Args:
    program: its inputs are the parameters, then the inputs of the function.
    num_params: number of parameters.
    close: says what holds for the results (they stay whole, or are new state).
    weights: whether gates may act as weights in reductions.
  """
  tried: dict[analysis_lib.Place, set[int]] = {}
  choices: dict[analysis_lib.Place, int | None] = {}
  for _ in range(_MOST):
    analysis = _read(program, num_params, close, analysis_lib.Record(choices, weights))
    if not analysis.record.sites:
      break
    verdict = _Verdict(analysis, num_params)
    new = _next(analysis, verdict, choices, tried, verdict.hard)
    if new == choices:  # only now can a reshape that stays closed be the reason
      new = _next(analysis, verdict, choices, tried, verdict.refused)
    if new == choices:
      break
    choices = new
  return analysis  # whatever was chosen last is sound: a choice only ever ties and refuses


def _next(analysis, verdict, choices, tried, refused):
  """Choices for the next reading: another candidate wherever the last one is refused."""
  new = dict(choices)
  for site in analysis.record.sites:
    chosen = choices.get(site.key)
    if chosen is not None and not verdict.touches(dict(site.candidates).get(chosen), refused):
      continue
    before = tried.setdefault(site.key, set())
    left = [a for a in verdict.candidates(site) if a not in before]
    new[site.key] = left[0] if left else None
    before.update(left[:1])
  return new


def _read(program, num_params, close, record):
  space = labels.LabelSpace()
  inputs = []
  for number, value in enumerate(program.inputs):
    shape = program.shape(value)
    own = rules.View(value, tuple((i,) for i in range(len(shape))))
    is_parameter = number < num_params
    inputs.append(
      rules.Given(
        space.fresh_axes(shape),
        (own,) if is_parameter else (),
        not is_parameter,
        frozenset([value] if is_parameter else []),
      )
    )
  analysis = analysis_lib.Analysis(program, space, inputs, record)
  close(analysis)
  return analysis


class _Verdict:
  """What one reading says about the axes of reshapes."""

  def __init__(self, analysis: analysis_lib.Analysis, num_params: int) -> None:
    self.space = analysis.space
    self.components = analysis.space.components()
    refused = [r.labels for r in analysis.space.refusals if not r.reason.startswith(_RESHAPE)]
    self.hard = self._mark(refused)
    self.refused = self._mark([r.labels for r in analysis.space.refusals])
    axes, inputs = analysis.axes, analysis.program.inputs
    self.written = self._mark([axes[v][a] for v, a in analysis.record.writes])
    self.parameter = self._mark([a for v in inputs[:num_params] for a in axes[v]])

  def _mark(self, found: list[np.ndarray]) -> np.ndarray:
    out = np.zeros(int(self.components.max(initial=-1)) + 1, bool)
    if found:
      out[self.components[np.concatenate(found)]] = True
    return out

  def candidates(self, site: analysis_lib.Site) -> list[int]:
    """Axes that nothing but reshapes refuses, those of new channels first."""
    found = []
    for order, (axis, label) in enumerate(site.candidates):
      own = self.components[label]
      channels = own if site.parent is None else self.components[site.parent]
      if (
        not self.hard[own].any()
        and not self.hard[channels].any()
        and self.parameter[channels].any()
      ):
        found.append((not self.written[channels].any(), order, axis))
    return [axis for *_, axis in sorted(found)]

  def touches(self, label: np.ndarray | None, refused: np.ndarray) -> bool:
    """Whether some of these labels are refused (or are no candidate any more)."""
    return label is None or bool(refused[self.components[label]].any())
