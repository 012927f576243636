"""All published rows against their predictions, and the bars that the predictions must meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import FileFormatError, InvalidValueError, argument
from ..machine.fitting.published import price_kernels
from ..views import Viewable
from .held_out import SOURCES_TO_LEAVE_OUT, Refit, held_out
from .joining import Joined, Progress, Speedup, join, speedups, unpaired
from .scores import Interval, Score, bootstrap, by, mean_of
from .timings import KernelTiming, Timings, load_timings

__all__ = ["Bar", "Evidence", "KernelScore", "gather"]

# Multiples of the band's width that `Evidence.nested_coverage` chooses among.
_WIDTHS = np.arange(0.3, 2.01, 0.05)
_COVERAGE = 0.8
# Long prompts without any image: as good as they were before there were stacks.
_LONG_PREFILL = ("minference", "trianglemix")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelScore:
    """One kind of memory-bound kernel on one card."""

    kind: str
    card: str
    rows: int
    mape: float
    bias: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A figure that must stay within [least, most]; `before` is what it was before there were stacks."""

    name: str
    figure: Interval
    least: float | None
    most: float
    aim: float | None
    before: float | None
    rows: int

    @property
    def met(self) -> bool:
        """Whether the figure is within its bounds."""
        return (self.least is None or self.figure.value >= self.least) and self.figure.value <= self.most


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Evidence(Viewable):
    """Published rows joined to predictions.

    Attributes
    ----------
    left_out
        ``source`` where every row is judged with stack figures fitted without it; empty where they are as shipped.
    refits
        The fits of a held-out account.
    given
        The rows are of files that were named, not all of ``configs/timings``.
    """

    rows: tuple[Joined, ...]
    speedups: tuple[Speedup, ...]
    kernels: tuple[KernelScore, ...]
    left_out: str = ""
    refits: tuple[Refit, ...] = ()
    notes: tuple[str, ...] = ()
    given: bool = False
    _views_in = "evidence"

    def _line(self) -> str:
        met = f"{sum(bar.met for bar in self.bars)} of {len(self.bars)} bars met"
        scored = f", MAPE {mean_of(self.sources, 'mape').value:.1%} (mean over sources)" if self.rows else ""
        return f"{len(self.rows)} published timings of {len(self.sources)} sources{scored}, {met}"

    @property
    def sources(self) -> tuple[Score, ...]:
        """By source."""
        return by(self.rows, lambda row: row.timing.group)

    @property
    def stacks(self) -> tuple[Score, ...]:
        """By stack."""
        return by(self.rows, lambda row: row.timing.stack)

    @property
    def quantities(self) -> tuple[Score, ...]:
        """By quantity: prefill, ttft, tpot, e2e, vision."""
        return by(self.rows, lambda row: row.timing.quantity)

    @property
    def cards(self) -> tuple[Score, ...]:
        """By card: measured efficiencies, and inherited ones."""
        return by(self.rows, lambda row: row.card)

    def balanced(self, name: str) -> tuple[tuple[str, float], ...]:
        """Coverage by quantity or card (`name` as an attribute), where every source weighs the same."""
        found = []
        for score in getattr(self, name):
            mine = [row for row in self.rows if score.name in (row.timing.quantity, row.card)]
            found.append((score.name, mean_of(by(mine, lambda row: row.timing.group), "coverage").value))
        return tuple(found)

    @property
    def kinds(self) -> tuple[tuple[str, float, float], ...]:
        """(kind, mean over cards of MAPE, worst card) of memory-bound kernels."""
        kinds = sorted({score.kind for score in self.kernels})
        errors = {kind: [score.mape for score in self.kernels if score.kind == kind] for kind in kinds}
        return tuple((kind, float(np.mean(each)), max(each)) for kind, each in errors.items())

    @property
    def nested_coverage(self) -> Interval:
        """Mean over sources of the coverage, with the band's width itself chosen on the other sources."""
        groups: dict[str, list[Joined]] = {}
        for row in self.rows:
            groups.setdefault(row.timing.group, []).append(row)
        covered = {name: np.array([_covered(rows, width) for width in _WIDTHS]) for name, rows in groups.items()}
        if len(covered) < 2:
            return mean_of(self.sources, "coverage")
        chosen = []
        for name, own in covered.items():
            others = np.mean([each for other, each in covered.items() if other != name], axis=0)
            chosen.append(float(own[int(np.argmin(np.abs(others - _COVERAGE)))]))
        return bootstrap(chosen)

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The figures that the predictions are held to; those without rows are left out."""
        tpot = [row for row in self.rows if row.timing.quantity == "tpot"]
        engine = [row for row in self.rows if row.timing.quantity == "e2e" and row.timing.stack == "tensorrt_llm"]
        bars = [
            _bar("requests: mean over sources of MAPE", mean_of(self.sources, "mape"), 0.18, 0.12, 0.267, self.rows),
        ]
        if self.speedups:
            errors = [abs(each.error) for each in self.speedups]
            bias = bootstrap([each.error for each in self.speedups])
            bars.append(_bar("speed-up pairs: mean error", bootstrap(errors), 0.20, 0.12, 0.368, self.speedups))
            bars.append(_bar("speed-up pairs: bias", bias, 0.10, 0.0, 0.336, self.speedups, least=-0.10))
        coverage = mean_of(self.sources, "coverage")
        name = "80 % band: mean over sources of coverage"
        bars.append(_bar(name, coverage, 0.90, 0.80, 0.413, self.rows, least=0.68))
        name = "the same, its width chosen on the other sources"
        bars.append(_bar(name, self.nested_coverage, 0.90, 0.80, None, self.rows, least=0.68))
        if tpot:
            bars.append(_bar("TPOT: MAPE", _over_rows(tpot), 0.15, 0.10, 0.321, tpot))
        if self.kinds:
            worst = max(mean for _, mean, _ in self.kinds)
            name = "memory-bound kernels: worst kind, mean over cards of MAPE"
            bars.append(_bar(name, Interval(worst, worst, worst), 0.20, 0.12, 0.61, self.kernels))
        if engine:
            bars.append(_bar("TensorRT-LLM end to end: MAPE", _over_rows(engine), 0.08, None, 0.08, engine))
        for source, before in zip(_LONG_PREFILL, (0.09, 0.01), strict=True):
            rows = [row for row in self.rows if row.timing.group == source]
            if rows:
                bars.append(_bar(f"long prefill, {source}: MAPE", _over_rows(rows), before, None, before, rows))
        return tuple(replace(bar, before=None) for bar in bars) if self.given else tuple(bars)


def gather(
    paths: Sequence[Path] | None = None, *, leave_out: str | None = None, progress: Progress | None = None
) -> Evidence:
    """Price every row of the timing files and compare.

    Parameters
    ----------
    paths
        Timing files; all of ``configs/timings`` by default.
    leave_out
        ``source``: judge each row with stack figures that were fitted without its source.

    Raises
    ------
    InvalidValueError
        Nothing else can be left out of timings.
    """
    if leave_out not in (None, "source"):
        raise InvalidValueError(
            argument("leave_out"),
            "source (timings are held out by source; cell and model apply to accuracy scores)",
            leave_out,
        )
    timings = load_timings(paths)
    refits = held_out(timings.requests) if leave_out == "source" else []
    files = {name: refit.file for refit in refits if refit.figures for name in refit.judged}
    if not timings.requests and not timings.kernels:
        names = ", ".join(str(path) for path in paths or ())
        raise FileFormatError(f"{names}: holds no timing")
    rows = join(timings.requests, files, progress)
    return Evidence(
        rows=tuple(rows),
        speedups=tuple(speedups(rows)),
        kernels=tuple(_kernel_scores(timings.kernels)),
        left_out=leave_out or "",
        refits=tuple(refits),
        notes=tuple(_notes(timings, rows, refits)),
        given=paths is not None,
    )


def _covered(rows: Sequence[Joined], width: float) -> float:
    """Share of rows inside a band that is wider by this factor."""
    inside = [
        row.predicted - width * (row.predicted - row.low)
        <= row.published
        <= row.predicted + width * (row.high - row.predicted)
        for row in rows
    ]
    return float(np.mean(inside))


def _over_rows(rows: Sequence[Joined]) -> Interval:
    """MAPE over rows; the interval draws rows."""
    return bootstrap([abs(row.error) for row in rows])


def _bar(
    name: str,
    figure: Interval,
    most: float,
    aim: float | None,
    before: float | None,
    rows: Sequence[object],
    *,
    least: float | None = None,
) -> Bar:
    return Bar(name=name, figure=figure, least=least, most=most, aim=aim, before=before, rows=len(rows))


def _kernel_scores(kernels: Sequence[KernelTiming]) -> list[KernelScore]:
    """Memory-bound kernels by kind (of the row, as its source labels it) and card."""
    rows = [each for each in kernels if each.quantity == "kernel-mem"]
    if not rows:
        return []
    seconds = price_kernels([{"kernel": r.kernel, "notes": r.notes, "input_tokens": r.input_tokens} for r in rows])
    errors = seconds / np.array([each.value_s for each in rows]) - 1.0
    groups: dict[tuple[str, str], list[float]] = {}
    for row, error in zip(rows, errors, strict=True):
        groups.setdefault((str(row.kernel["kind"]), str(row.kernel["hw"])), []).append(float(error))
    return [
        KernelScore(kind=kind, card=card, rows=len(e), mape=float(np.mean(np.abs(e))), bias=float(np.mean(e)))
        for (kind, card), e in sorted(groups.items())
    ]


def _notes(timings: Timings, rows: Sequence[Joined], refits: Sequence[Refit]) -> list[str]:
    notes = []
    missing = unpaired(rows)
    if missing:
        notes.append(f"no speed-up: the unreduced run of {', '.join(missing)} is not among the timings")
    halves = sorted({refit.stack for refit in refits if refit.left_out.startswith("half ")})
    if halves:
        notes.append(
            f"{', '.join(halves)}: fewer than {SOURCES_TO_LEAVE_OUT} sources, so fitted on half of the batch and "
            "prompt sizes and tested on the other half; this says nothing about another source"
        )
    if refits:
        notes.append("only the stacks' coefficients are held out; their terms were chosen with every row in view")
        notes.append("kernel times are as shipped, fitted to all kernel rows")
    return notes
