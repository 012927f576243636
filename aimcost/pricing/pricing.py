"""A run, priced by its estimator; and the same run without reduction."""

from __future__ import annotations

from ..inputs.run import Run
from .estimator import estimator_of
from .result import Estimate

__all__ = ["estimate_run", "unreduced"]


def estimate_run(run: Run) -> Estimate:
    """Price a resolved run: `ESTIMATOR` of ``pricing/estimators/<run.estimator>.py`` does.

    `aimcost.inputs.discover.estimator` imports that file by name.
    """
    return estimator_of(run.estimator).estimate(run)


def unreduced(run: Run) -> Run:
    """The same run without reduction: every token in every layer."""
    convention = run.method.get("convention", "executed")
    return run.with_method({"name": "none", "convention": convention})
