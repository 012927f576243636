"""Boosted trees on the published scores, left out as `aimcost evidence --accuracy` leaves them out; not a dependency.

``pip install scikit-learn && python docs/boosted_trees.py``. scikit-learn 1.9.1 gives 2.97 points on cells (in twenty
folds), 4.35 on sources and 5.16 on models: what docs/adr/0018 compares the surrogate with.
"""

from __future__ import annotations

from importlib import import_module

import numpy as np

from aimcost.search.scores.held_out import KINDS, blocks_of
from aimcost.search.scores.points import load_points
from aimcost.search.scores.surrogate import Surrogate

FACTORS = ("method", "benchmark", "task", "model", "family", "own")
FOLDS = 20


def error(surrogate: Surrogate, kind: str) -> float:
    """Mean absolute error of the left-out scores, in points; figures count once for each source, as in `leave_out`."""
    trees = import_module("sklearn.ensemble").HistGradientBoostingRegressor
    rows, reached = surrogate.rows, 100 - surrogate.loss
    features = np.column_stack([*(rows.codes[name].astype(float) for name in FACTORS), rows.depth])
    blocks = list(blocks_of(surrogate, kind))
    if kind == "cell":
        order = np.random.default_rng(0).permutation(len(blocks))
        blocks = [np.concatenate([blocks[i] for i in order[fold::FOLDS]]) for fold in range(FOLDS)]
    errors, times = [], []
    for block in blocks:
        known = np.ones(len(reached), dtype=bool)
        known[block] = False
        fitted = trees(categorical_features=list(range(len(FACTORS))), random_state=0)
        predicted = fitted.fit(features[known], reached[known]).predict(features[block])
        errors.append(np.abs(predicted - reached[block]))
        times.append([1 if kind == "source" else len(surrogate.sources[i]) for i in block])
    return float(np.average(np.concatenate(errors), weights=np.concatenate(times)))


if __name__ == "__main__":
    every = Surrogate(load_points())
    for kind in KINDS:
        print(f"{kind}: {error(every, kind):.2f}")
