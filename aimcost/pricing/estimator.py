"""Estimator: one way of pricing a run. A file in pricing/estimators/ registers by holding one.

A file ``estimators/<name>.py`` with an ``ESTIMATOR`` is known to `aimcost list`, ``--estimator``, the
JSON Schema and every command; nothing else names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import AimcostError, InvalidValueError
from ..frozen import dataclass
from ..inputs import discover
from ..inputs.run import Run
from ..inputs.schema import validate
from ..types.stages import STAGES
from ..types.strict import Strict, pydantic_model
from .priced import PricedTable
from .result import Estimate

if TYPE_CHECKING:
    from ..types.strict_model import StrictModel

__all__ = ["Estimator", "estimator_of", "options_schema"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """One way of pricing a run.

    Attributes
    ----------
    name, summary
        The name of its file, and a line for `aimcost list estimators`.
    time_means
        What its times are, for the header of reports.
    price
        Operations of a run with their times; raises `AimcostError` where it cannot price them.
    has_band
        Whether times have an uncertainty band; ``confidence`` needs one.
    uses_calibration
        Whether times rest on coefficients measured on the machine or on a relative of it.
    uses_stack
        Whether the software stack acts; where it does not, a stack that the run names is noted and ignored.
    has_host_time
        Whether waiting for launches is priced, and `Run.host_time` has an effect.
    stages
        Stages that it prices.
    prices_parallel
        Whether it prices tensor and pipeline parallel runs.
    options
        Its keys under ``estimator_options:``; those of another estimator are ignored with a note.
    """

    name: str
    summary: str
    time_means: str
    price: Callable[[Run], PricedTable]
    has_band: bool = False
    uses_calibration: bool = False
    uses_stack: bool = False
    has_host_time: bool = False
    stages: tuple[str, ...] = STAGES
    prices_parallel: bool = True
    options: type[Strict] | None = None

    def estimate(self, run: Run) -> Estimate:
        """Price a run.

        Raises
        ------
        AimcostError
            What this estimator does not price, a time that is no finite number, or options that no estimator has.
        """
        where = run.source
        if run.parallel.devices > 1 and not self.prices_parallel:
            raise InvalidValueError(
                "parallel", f"omitted: {self.name} prices one device", asdict(run.parallel), where=where
            )
        ignored = self._ignored(run.estimator_options, where or "run")
        if run.stack_given and not self.uses_stack:
            ignored = (*ignored, f"stack {run.stack.name} ignored: {self.name} prices no software stack")
        priced = self.price(run)
        _require_finite(priced)
        return Estimate(
            run=run,
            priced=priced,
            estimator=self.name,
            stages_priced=self.stages,
            notes=(*run.notes, *ignored, *_unknown_ops(run, priced), *priced.notes),
        )

    def _ignored(self, options: Mapping[str, Any], where: str) -> tuple[str, ...]:
        """A note on the options of other estimators.

        Raises
        ------
        UnknownNameError, InvalidValueError
            A key that no estimator has, or a value of the wrong type.
        """
        if not options:
            return ()
        validate(_options_file(), {"estimator_options": dict(options)}, where=where)
        own = self.options.names() if self.options is not None else ()
        ignored = [key for key in options if key not in own]
        return (f"estimator_options ignored by {self.name}: {', '.join(ignored)}",) if ignored else ()


def _require_finite(priced: PricedTable) -> None:
    """Raise where a time is no number: no sum of it may leave an estimate."""
    finite = np.isfinite(priced.seconds)
    if not finite.all():
        row = int(finite.argmin())
        segment = next(segment for segment in priced.table.segments if row < segment.stop)
        what = f"{segment.name} of stage {segment.stage} takes {priced.seconds[row]} s"
        raise AimcostError(f"the run cannot be priced: {what}, no finite time")


def _unknown_ops(run: Run, priced: PricedTable) -> tuple[str, ...]:
    """A note on the ops of a trace of which nothing but the memory moved is known, and their share of the time."""
    traced = run.model.decoder.traced
    if traced is None or not traced.unknown:
        return ()
    here = priced.table.spread([segment.name in traced.unknown for segment in priced.table.segments])
    share = float(priced.seconds[here].sum() / priced.seconds.sum())
    return (f"priced by the memory they move alone: {', '.join(traced.unknown)} ({share:.1%} of the time)",)


def estimator_of(name: str) -> Estimator:
    """The estimator of this name (`aimcost.inputs.discover.estimator_names` lists them)."""
    found: Estimator = discover.estimator(name)
    return found


def options_schema() -> type[StrictModel]:
    """The options of all estimators, as the schema of ``estimator_options:``."""
    from pydantic import create_model

    from ..types.strict_model import StrictModel

    options = [estimator_of(name).options for name in discover.estimator_names()]
    fields: dict[str, Any] = {
        key: (field.annotation, field)
        for each in options
        if each is not None
        for key, field in pydantic_model(each).model_fields.items()
    }
    schema: type[StrictModel] = create_model("EstimatorOptions", __base__=StrictModel, __doc__=_OPTIONS_DOC, **fields)
    return schema


_OPTIONS_DOC = "Options per estimator; those of an estimator that is not selected are ignored with a note."


def _options_file() -> type[StrictModel]:
    """The options under their key, so that errors name it."""
    from pydantic import create_model

    from ..types.strict_model import StrictModel

    file: type[StrictModel] = create_model("Options", __base__=StrictModel, estimator_options=(options_schema(), ...))
    return file
