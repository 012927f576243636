"""Published kernel timings → cycles and bytes a cycle by kind, and the attained bandwidth of each card.

A few numbers explain all cards at once: what belongs to a kernel is fitted over cards, what belongs to a
card over its kernels. Each check leaves whole cards or whole sources out of the fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...inputs.files import read_text
from ...inputs.hardware import load_hardware
from ...inputs.strict_json import parse
from ..timemodels.memory_bound import KernelModel, Machine, seconds
from ..timemodels.tables import Floats, Provenance
from .fit import _scipy

__all__ = ["KINDS", "Fit", "KernelRows", "chip_of", "fit", "held_out", "kind_of", "read_rows", "width_of"]

# Kinds with timings. Whether a block walks along a row, and whether the kernel's own code limits it.
KINDS: Mapping[str, tuple[bool, bool]] = {
    "pointwise": (False, False),
    "gated_act": (True, True),
    "rms_norm": (True, True),
    "rope": (True, True),
    "layer_norm": (False, True),
    "softmax": (False, True),
}
# A PyTorch row kernel at small sizes was not timed: it starts like the row kernel that was.
_LATENCY_OF = {"layer_norm": "rms_norm", "softmax": "rms_norm"}
_OPS = {"mlp_act": "gated_act"}  # a published row says pointwise of it
_START = {"launch": 2000.0, "row": 0.7, "rate": 8.0, "share": 0.87, "reuse": 0.3, "offset": 10e-6}
_SPREAD = {"launch": 0.5, "row": 0.5, "share": 0.1}  # of logarithms, around their mean: a weak prior
_NO_LIMIT = 3.0  # bytes a cycle: pulls a rate that the timings do not show to infinity, a kernel that DRAM alone limits
_NOWHERE = Provenance("fit", "", 1.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRows:
    """Timings of memory-bound kernels, one entry a row of the files."""

    kind: np.ndarray[Any, np.dtype[np.str_]]
    card: np.ndarray[Any, np.dtype[np.str_]]
    source: np.ndarray[Any, np.dtype[np.str_]]
    bytes: Floats
    width: Floats
    seconds: Floats

    def where(self, mask: Any) -> KernelRows:
        """The rows that `mask` selects."""
        return KernelRows(**{name: getattr(self, name)[mask] for name in self.__slots__})

    def __len__(self) -> int:
        return len(self.seconds)


def read_rows(paths: Sequence[Path]) -> KernelRows:
    """The memory-bound rows of timing files."""
    found = [parse(line) for path in paths for line in read_text(path).splitlines()]
    rows = [row for row in found if row["quantity"] == "kernel-mem"]
    kernels = [row["kernel"] for row in rows]
    return KernelRows(
        kind=np.array([kind_of(row) for row in rows]),
        card=np.array([kernel["hw"] for kernel in kernels]),
        source=np.array([row["group"] for row in rows]),
        bytes=np.array([float(kernel["bytes"]) for kernel in kernels]),
        width=np.array([width_of(row) for row in rows]),
        seconds=np.array([row["value_s"] for row in rows]),
    )


def kind_of(row: Mapping[str, Any]) -> str:
    """Kind of kernel of a published row: its notes begin with the operation's name."""
    kernel = row["kernel"]
    operation = kernel.get("op") or str(row.get("notes", "")).split(",")[0]
    return str(_OPS.get(operation, kernel["kind"]))


def width_of(row: Mapping[str, Any]) -> float:
    """Elements of a row of the operand: stated, or bytes over tokens and operands moved (16 bit); 0: not known."""
    kernel, tokens = row["kernel"], row.get("input_tokens")
    if "width" in kernel:
        return float(kernel["width"])
    operands = {"rms_norm": 2, "rope": 2, "gated_act": 3}.get(kind_of(row))
    return float(kernel["bytes"]) / (2 * operands * tokens) if tokens and operands else 0.0


@lru_cache(maxsize=64)
def chip_of(card: str) -> str:
    """Cards of one chip attain one share of their bandwidths: an A100 on a PCIe board and on SXM."""
    spec = load_hardware(card)
    return f"{spec.architecture} {spec.compute_capability}, {spec.sm_count} SMs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What the timings say.

    Attributes
    ----------
    kinds, shares
        Kernels by kind; attained share of datasheet bandwidth by chip.
    reuse
        Part of an L2's worth of data that is found there.
    offset_s
        Constant that a source's clock adds, by source; no kernel's, so it is not shipped.
    """

    kinds: Mapping[str, KernelModel]
    shares: Mapping[str, float]
    reuse: float
    offset_s: Mapping[str, float]

    def machine(self, card: str, share: float | None = None) -> Machine:
        """The card with its own share, or that of a card nobody timed."""
        spec = load_hardware(card)
        attained = self.shares.get(chip_of(card), self.typical) if share is None else share
        return Machine(
            bandwidth=spec.memory_bytes_per_s * attained,
            cycles_per_s=spec.boost_clock_hz,
            sm_count=spec.sm_count,
            l2_bytes=spec.l2_bytes,
            reuse=self.reuse,
        )

    @property
    def typical(self) -> float:
        """Geometric mean of the shares: a card that nobody timed."""
        return float(np.exp(np.mean(np.log(list(self.shares.values())))))

    def predict(self, rows: KernelRows, *, clock: bool = True) -> Floats:
        """Seconds of each row; with the source's constant where it is known and `clock` asks for it."""
        result = np.empty(len(rows))
        for card in np.unique(rows.card):
            machine = self.machine(str(card))
            for kind in np.unique(rows.kind[rows.card == card]):
                chosen = (rows.card == card) & (rows.kind == kind)
                walks = KINDS[str(kind)][0]
                model = self.kinds[str(kind)]
                result[chosen] = seconds(
                    rows.bytes[chosen],
                    machine,
                    launch_cycles=model.launch_cycles,
                    row_cycles=model.row_cycles,
                    width=rows.width[chosen] if walks else 0.0,
                    bytes_per_cycle=model.bytes_per_cycle,
                )
        if clock:
            result += np.array([self.offset_s.get(str(source), 0.0) for source in rows.source])
        return result


def fit(rows: KernelRows, *, with_offset: Sequence[str] = ("neusight-mem-fp32",)) -> Fit:
    """Coefficients of all kinds and cards at once; every kind on every card weighs the same.

    Parameters
    ----------
    with_offset
        Sources whose clock adds a constant: NeuSight's shortest kernels of 50 MB and more take 17 µs (A100)
        and 11 µs (L4) beyond a straight line through the others, Vidur's of the same size do not.
    """
    optimize, _ = _scipy()
    names = _parameters(rows, with_offset)
    pairs = np.array([f"{kind} {card}" for kind, card in zip(rows.kind, rows.card, strict=True)])
    counts = {pair: int((pairs == pair).sum()) for pair in set(pairs)}
    weight = np.sqrt(np.array([100.0 / counts[pair] for pair in pairs]))
    log_measured = np.log(rows.seconds)
    groups = {group: [i for i, name in enumerate(names) if name[0] == group] for group in _SPREAD}

    def residual(x: Floats) -> Floats:
        off = weight * (np.log(_fit_of(names, x).predict(rows)) - log_measured)
        prior = [(x[index] - x[index].mean()) / _SPREAD[group] for group, index in groups.items() if index]
        level = [(x[index].mean() - np.log(_START[group])) / 1.0 for group, index in groups.items() if index]
        unlimited = _NO_LIMIT / np.exp(x[[i for i, name in enumerate(names) if name[0] == "rate"]])
        return np.concatenate([off, *(np.asarray(part) * 0.3 for part in prior), np.asarray(level) * 0.3, unlimited])

    start = np.log([_START[group] for group, _ in names])
    bounds = [(-np.inf, 0.0 if group in ("reuse", "share") else np.inf) for group, _ in names]
    low, high = (np.array(side) for side in zip(*bounds, strict=True))
    solved = optimize.least_squares(residual, start, loss="soft_l1", f_scale=0.1, bounds=(low, high), max_nfev=200)
    return _fit_of(names, np.asarray(solved.x))


def _parameters(rows: KernelRows, with_offset: Sequence[str]) -> list[tuple[str, str]]:
    kinds = [kind for kind in KINDS if kind in set(rows.kind)]
    own = list(dict.fromkeys(_LATENCY_OF.get(kind, kind) for kind in kinds))
    names = [("launch", kind) for kind in own]
    names += [("row", kind) for kind in own if KINDS[kind][0]]
    names += [("rate", kind) for kind in kinds if KINDS[kind][1]]
    names += [("share", chip) for chip in sorted({chip_of(str(card)) for card in np.unique(rows.card)})]
    names += [("offset", source) for source in with_offset if source in set(rows.source)]
    return [*names, ("reuse", "")]


def _fit_of(names: Sequence[tuple[str, str]], x: Floats) -> Fit:
    values: dict[str, dict[str, float]] = {}
    for (group, name), value in zip(names, np.exp(x), strict=True):
        values.setdefault(group, {})[name] = float(value)
    launch, row, rate = values["launch"], values.get("row", {}), values.get("rate", {})
    kinds = {
        kind: KernelModel(
            launch_cycles=launch[_LATENCY_OF.get(kind, kind)],
            row_cycles=row.get(kind, 0.0),
            bytes_per_cycle=rate.get(kind, np.inf),
            provenance=_NOWHERE,
        )
        for kind in KINDS
        if _LATENCY_OF.get(kind, kind) in launch and (kind in rate or not KINDS[kind][1])
    }
    return Fit(kinds=kinds, shares=values["share"], reuse=values["reuse"][""], offset_s=values.get("offset", {}))


def held_out(rows: KernelRows, by: str) -> Floats:
    """Predictions of each row by a fit that left its whole card or source (`by`) out.

    A kind that only the left-out part timed is taken to be limited by DRAM alone.
    """
    result = np.full(len(rows), np.nan)
    labels = getattr(rows, by)
    for label in np.unique(labels):
        out = labels == label
        known = fit(rows.where(~out))
        missing = set(rows.kind[out]) - set(known.kinds)
        if missing:
            known = _with_stand_ins(known, missing)
        result[out] = known.predict(rows.where(out), clock=False)
    return result


def _with_stand_ins(known: Fit, missing: set[str]) -> Fit:
    launch = [model.launch_cycles for model in known.kinds.values()]
    mean = KernelModel(
        launch_cycles=float(np.exp(np.mean(np.log(launch)))),
        row_cycles=0.0,
        bytes_per_cycle=np.inf,
        provenance=_NOWHERE,
    )
    return Fit(
        kinds={**known.kinds, **dict.fromkeys(missing, mean)},
        shares=known.shares,
        reuse=known.reuse,
        offset_s=known.offset_s,
    )
