"""How hard the data sets of the families are for the simplest classifiers.

  python -m benchmarks.families

Given are, on pixels in [0, 1]: the accuracy of the nearest neighbour among the training images for
the test images ('1-NN'; of glyphs and icons these are other font families and other designers), the
same within the training split, each image left out in turn ('1-NN within'), and of logistic
regression. At most 2,000 training and 1,000 test images of a set, balanced, are used.
Cost: about half a minute on two cores (OMP_NUM_THREADS=1 where they are shared).
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import numpy as np
from sklearn import linear_model, neighbors

from benchmarks import timing
from dapt_jax import data
from dapt_jax.data import families, splits


def measure(
  family: str, name: str, data_dir: pathlib.Path | None, train: int, test: int
) -> dict[str, Any]:
  """The row of one data set."""
  sets = {split: data.load(name, split, data_dir=data_dir) for split in ('train', 'test')}
  x, y = _some(sets['train'], train)
  x_test, y_test = _some(sets['test'], test)
  linear = linear_model.LogisticRegression(C=0.1, max_iter=300).fit(x, y)
  nearest = neighbors.KNeighborsClassifier(1).fit(x, y)
  other = nearest.kneighbors(return_distance=False)[:, 0]  # of the training images, not themselves
  smallest = [int(np.bincount(found.labels).min()) for found in sets.values()]
  return {
    'family': family,
    'name': name,
    'train': len(sets['train']),
    'test': len(sets['test']),
    'smallest class': f'{smallest[0]} + {smallest[1]}',
    '1-NN': float(nearest.score(x_test, y_test)),
    '1-NN within': float(np.mean(y[other] == y)),
    'logistic regression': float(linear.score(x_test, y_test)),
  }


def _some(dataset: data.Dataset, most: int) -> tuple[np.ndarray, np.ndarray]:
  """At most so many images f32[n, pixels] with their labels i32[n]."""
  if len(dataset) > most:
    dataset = dataset.subset(splits.stratified(dataset.labels, [most], seed=0)[0])
  return dataset.images.reshape(len(dataset), -1), dataset.labels


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The median and the range of every family."""
  out = []
  for family in dict.fromkeys(row['family'] for row in rows):
    row: dict[str, Any] = {'family': family}
    for column in ('1-NN', '1-NN within', 'logistic regression'):
      values = [r[column] for r in rows if r['family'] == family]
      row[column] = f'{np.median(values):.3f} ({min(values):.3f} .. {max(values):.3f})'
    out.append(row)
  return out


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--data_dir', type=pathlib.Path, help='where the data lie')
  parser.add_argument('--families', nargs='+', help='some families only')
  parser.add_argument('--train', type=int, default=2000, help='most training images (2000)')
  parser.add_argument('--test', type=int, default=1000, help='most test images (1000)')
  args = parser.parse_args()
  rows = [
    measure(family, name, args.data_dir, args.train, args.test)
    for family, names in families.names(args.data_dir).items()
    if not args.families or family in args.families
    for name in names
  ]
  print(timing.table(rows))
  print(timing.table(summary(rows)))
  settings = {'train': args.train, 'test': args.test}
  print(timing.save('families', rows, settings=settings))


if __name__ == '__main__':
  main()
