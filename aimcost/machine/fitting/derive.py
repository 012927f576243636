"""`calibrate`: a system's tables → the calibration block of its profile, and the errors it reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np

from ...errors import CalibrationError, UnknownNameError
from ...inputs.hardware import load_hardware
from ...ops.attention import single_pass
from ...types import HardwareSpec
from ...types.formats import bytes_per_element
from ..calibration import calibration_of
from ..peaks import peak_flops_per_s
from ..timemodels.attention import AttentionModel
from ..timemodels.collective import ONE_SHOT, OPERATIONS, CollectiveModel
from ..timemodels.gemm import GemmModel
from ..timemodels.tables import Floats
from .aiconfigurator import (
    FITTED_STACKS,
    SYSTEM_PROFILES,
    UNSEEN_STACK,
    Timings,
    package_version,
    read_attention,
    read_collectives,
    read_gemm,
    read_one_shot,
    systems,
)
from .fit import BF16, fit_attention, fit_gemm, halves, mape, pool, predict_attention, predict_gemm

__all__ = ["STEPS", "Derived", "derive", "machine_of"]

# their name of a format → ours, and the bytes of weights and activations
_DTYPES: Mapping[str, tuple[str, str, str]] = {
    "bfloat16": ("bf16", "bf16", "bf16"),
    "fp8": ("fp8", "fp8", "fp8"),
    "int8_wo": ("int8_weight_only", "int8", "bf16"),
    "int4_wo": ("int4_weight_only", "int4", "bf16"),
    "sq": ("int8", "int8", "int8"),
}
_HEAD_WIDTHS = (64, 72, 80, 128)
# Extrapolation is tried from the first number of rows to the second and up: eight times as far and more.
NEAR_TO, FAR_FROM = 1024, 8192

# A card without encoder tables takes those of one that ran the same kernel (here FlashAttention-2).
ENCODER_LENDERS = {"a100_sxm": "l40s"}
# What tells how well that does: the kernel's encoder tables on one of these cards, predicted from the other's.
_SAME_KERNEL = ("l40s", "rtx_pro_6000_server")
_PROMPTS = {
    "batch": np.array([1.0, 4.0, 16.0]),
    "heads": np.full(3, 32.0),
    "kv_heads": np.full(3, 32.0),
    "head_dim": np.full(3, 128.0),
    "q_len": np.array([4096.0, 2048.0, 1024.0]),
    "kv_len": np.array([4096.0, 2048.0, 1024.0]),
}


@dataclass(slots=True)
class Derived:
    """A calibration block, its tables, and the error table: one row a check."""

    system: str
    profile: str
    block: dict[str, Any]
    tables: dict[str, Any]
    errors: list[dict[str, Any]] = field(default_factory=list)


def machine_of(hardware: HardwareSpec, dtype: str) -> dict[str, float]:
    """What the formulas know of a machine: peak for a format, bandwidth, multiprocessors."""
    if not hardware.sm_count:
        raise CalibrationError(f"{hardware.name}: the profile has no sm_count")
    peak, _ = peak_flops_per_s(hardware, dtype)
    return {"peak": peak, "bandwidth": hardware.memory_bytes_per_s, "sm_count": hardware.sm_count}


# Calls of `progress` while a system is derived.
STEPS = len(_DTYPES) + 4


def derive(system: str, *, date: str, progress: Callable[[str], None] = lambda _: None) -> Derived:
    """Fit every model that a system's tables allow.

    Half of the distinct shapes are fitted; the coefficients shipped are those, so that the held-out
    errors are theirs.

    Raises
    ------
    UnknownNameError, MissingExtraError, CalibrationError
        No such system, packages missing, or tables that cannot be true.
    """
    if system not in SYSTEM_PROFILES:
        raise UnknownNameError("system", system, SYSTEM_PROFILES)
    hardware = load_hardware(SYSTEM_PROFILES[system])
    source = f"fitted to tables of aiconfigurator-core {package_version()} (Apache-2.0), system {system}"
    block: dict[str, Any] = {
        "status": "measured",
        "source": source,
        "date": date,
        "tables": f"tables/{hardware.name}.json",
    }
    result = Derived(system, hardware.name, block, {})
    for theirs in _DTYPES:
        progress(f"{system}: products, {theirs}")
        _gemm(result, hardware, theirs, source, date)
    if "bf16" not in block.get("gemm", {}):
        known = ", ".join(systems())
        raise CalibrationError(f"system {system!r} has no product tables of {' or '.join(FITTED_STACKS)}; {known} have")
    for table, causal in (("context", True), ("encoder", False), ("generation", True)):
        progress(f"{system}: {table} attention")
        _attention(result, hardware, table, causal, source, date)
    if "encoder_attention" not in block and system in ENCODER_LENDERS:
        block["encoder_attention"] = _lent_encoder(result, hardware)
    progress(f"{system}: collectives")
    _collectives(result, source, date)
    block["errors"] = result.errors
    return result


def _gemm(result: Derived, hardware: HardwareSpec, theirs: str, source: str, date: str) -> None:
    ours, weight, act = _DTYPES[theirs]
    unseen = read_gemm(result.system, UNSEEN_STACK, theirs)
    parts = [t for t in (read_gemm(result.system, stack, theirs) for stack in FITTED_STACKS) if t is not None]
    note = ""
    if not parts:
        if unseen is None:
            return
        # weight-only formats are in one stack's tables only
        parts, unseen, note = [unseen], None, "; TensorRT-LLM's tables, L2-hot for small shapes"
    everything = pool(parts)
    machine, widths = machine_of(hardware, act), (bytes_per_element(weight), bytes_per_element(act))
    fitted, held_out = halves(everything)
    model = fit_gemm(fitted, machine, widths)
    on_fitted, on_held_out = (predict_gemm(model, part, machine, widths) for part in (fitted, held_out))
    band = _band(fitted.seconds / on_fitted)
    checks = [("fit half", fitted, on_fitted), ("held-out half", held_out, on_held_out)]
    if unseen is not None:
        large = unseen.where(unseen.dims["m"] >= 256)
        checks.append((f"unseen {large.origin}, m ≥ 256", large, predict_gemm(model, large, machine, widths)))
    beyond: dict[str, Any] = {}
    far = _far_rows(everything, machine, widths)
    if far is not None:
        checks.append((f"m ≥ {FAR_FROM}, fitted on m ≤ {NEAR_TO}", *far))
        beyond = _extrapolation(*far, band)
    _record(result, f"gemm {ours}", everything.origin + note, checks, band)
    block = {
        **model.block(),
        **_evidence(model, mape(on_held_out, held_out.seconds), band, f"{source}, {everything.origin}{note}", date),
        **beyond,
    }
    result.block.setdefault("gemm", {})[ours] = block
    result.tables[f"gemm/{ours}"] = _tables(model)


def _far_rows(
    everything: Timings, machine: Mapping[str, float], widths: tuple[float, float]
) -> tuple[Timings, Floats] | None:
    """Products of many rows, and what a fit to those of few says of them; None where a table lacks either."""
    near = everything.where(everything.dims["m"] <= NEAR_TO)
    far = everything.where(everything.dims["m"] >= FAR_FROM)
    if not len(near) or not len(far):
        return None
    return far, predict_gemm(fit_gemm(near, machine, widths), far, machine, widths)


def _extrapolation(far: Timings, predicted: Floats, band: list[float]) -> dict[str, Any]:
    """Error and 80 % band beyond the fitted rows; the band is no tighter than the one inside them."""
    low, high = _band(far.seconds / predicted)
    return {
        "extrapolation_mape": round(mape(predicted, far.seconds), 4),
        "extrapolation_band": [min(low, band[0]), max(high, band[1])],
    }


def _attention(result: Derived, hardware: HardwareSpec, table: str, causal: bool, source: str, date: str) -> None:
    section = {"context": "attention", "encoder": "encoder_attention", "generation": "decode_attention"}[table]
    machine = machine_of(hardware, "bf16")
    for stack in FITTED_STACKS:
        for (kernel, width), timings in read_attention(result.system, stack, table).items():
            if width not in _HEAD_WIDTHS or len(timings) < 800:
                continue
            fitted, held_out = halves(timings)
            model = fit_attention(fitted, machine, causal=causal)
            shortest = 512.0 if table == "context" else 0.0
            known, unknown = (part.where(part.dims["q_len"] >= shortest) for part in (fitted, held_out))
            on_known, predicted = (predict_attention(model, part, machine, causal=causal) for part in (known, unknown))
            band = _band(known.seconds / on_known)
            named = "held-out half" + (", ≥ 512 tokens" if shortest else "")
            what = f"{table} attention, width {width}"
            _record(result, what, timings.origin, [(named, unknown, predicted)], band)
            kernels = result.block.setdefault(section, {})
            kernels.setdefault("default", kernel)
            kernels.setdefault(kernel, {})[width] = {
                **model.block(),
                **_evidence(model, mape(predicted, unknown.seconds), band, f"{source}, {timings.origin}", date),
            }
            result.tables[f"{section}/{kernel}/{width}"] = _tables(model)


def causal_rate(model: AttentionModel, hardware: HardwareSpec) -> float:
    """FLOP/s of causal prompts of 1024 to 4096 tokens at head width 128, over the peak."""
    timings = Timings(_PROMPTS, np.ones(3), "")
    machine = machine_of(hardware, "bf16")
    seconds = predict_attention(model, timings, machine, causal=True)
    return float(np.exp(np.mean(np.log(causal_flops(_PROMPTS) / seconds)))) / machine["peak"]


def causal_flops(dims: Mapping[str, Floats]) -> Floats:
    """FLOPs of causal prompts."""
    return np.asarray(single_pass(dims, causal=True, widths=BF16).flops)


def _lent_encoder(result: Derived, hardware: HardwareSpec) -> dict[str, Any]:
    """Encoder attention of another card, times the ratio of their causal rates with that kernel."""
    lender = load_hardware(SYSTEM_PROFILES[ENCODER_LENDERS[result.system]])
    kernels = result.block["attention"]
    default = kernels["default"]
    own = AttentionModel.of(kernels[default][128], result.tables[f"attention/{default}/128"], where=result.system)
    theirs = calibration_of(lender).attention[128]
    assert isinstance(theirs, AttentionModel)
    rate = causal_rate(own, hardware) / causal_rate(theirs, lender)
    ratios = np.concatenate([_lent_ratios(one, other) for one, other in permutations(_SAME_KERNEL)])
    error = float(np.mean(np.abs(1.0 / ratios - 1.0)))
    return {
        "inherits": lender.name,
        "rate": round(rate, 3),
        "band": _band(ratios),
        "held_out_mape": round(error, 4),
        "source": (
            f"no encoder table of this card: that of {lender.name}, which ran FlashAttention-2 too, times the ratio of "
            f"their causal rates at width 128; error and band: {' and '.join(_SAME_KERNEL)} from each other"
        ),
    }


def _lent_ratios(parent: str, card: str) -> Floats:
    """Measured over predicted of a card's encoder tables, sequences of 196 patches and more."""
    theirs, mine = (load_hardware(SYSTEM_PROFILES[system]) for system in (parent, card))
    models, own = calibration_of(theirs), calibration_of(mine)
    causal = (own.attention[128], models.attention[128])
    assert all(isinstance(model, AttentionModel) for model in causal)
    rate = causal_rate(causal[0], mine) / causal_rate(causal[1], theirs)  # type: ignore[arg-type]
    parts = []
    for (_, width), timings in read_attention(card, FITTED_STACKS[0], "encoder").items():
        model = models.encoder_attention.get(width)
        if isinstance(model, AttentionModel):
            long = timings.where(timings.dims["q_len"] >= 196)
            carried = model.carried(rate, 1.0)
            parts.append(long.seconds / predict_attention(carried, long, machine_of(mine, "bf16"), causal=False))
    return np.concatenate(parts)


def _collectives(result: Derived, source: str, date: str) -> None:
    """Every second size of the newest NCCL is a node; the sizes between, and an older NCCL, are the checks."""
    measured = _exchanges(result.system, 0)
    if {operation for operation, _ in measured} != set(OPERATIONS):
        return
    curves: dict[str, Any] = {operation: {} for operation in OPERATIONS}
    for (operation, ranks), timings in measured.items():
        curves[operation][ranks] = _curve(timings)
    evidence: dict[str, Any] = {"source": f"{source}, {next(iter(measured.values())).origin}", "date": date}
    one_shot = read_one_shot(result.system)
    if one_shot:
        evidence["one_shot_source"] = f"{source}, {next(iter(one_shot.values())).origin}"
        curves[ONE_SHOT] = {ranks: _curve(timings) for ranks, timings in one_shot.items()}
    model = CollectiveModel.of({**curves, **evidence, "band": [1.0, 1.0]}, where="collective")
    everything = {**measured, **{(ONE_SHOT, ranks): timings for ranks, timings in one_shot.items()}}
    between = {key: timings.where(np.arange(len(timings)) % 2 == 1) for key, timings in everything.items()}
    checks = []
    for name, parts in (("sizes between the nodes", between), ("an older NCCL", _exchanges(result.system, 1))):
        parts = {key: part for key, part in parts.items() if key in everything}
        if parts:
            predicted = [model.seconds(operation, ranks, t.dims["bytes"]) for (operation, ranks), t in parts.items()]
            timings = pool(list(parts.values()))
            checks.append((f"{name} ({next(iter(parts.values())).origin})", timings, np.concatenate(predicted)))
    band = _band(np.concatenate([timings.seconds / predicted for _, timings, predicted in checks]))
    _record(result, "collectives", next(iter(measured.values())).origin, checks, band)
    error = round(mape(checks[0][2], checks[0][1].seconds), 4)
    result.block["collective"] = {**curves, "held_out_mape": error, "band": band, **evidence}


def _curve(timings: Timings) -> dict[str, Any]:
    """Every second size is a node."""
    return {
        "bytes": [int(size) for size in timings.dims["bytes"][::2]],
        "us": [round(float(t) * 1e6, 2) for t in timings.seconds[::2]],
    }


def _exchanges(system: str, before: int) -> dict[tuple[str, int], Timings]:
    return {key: timings for key, timings in read_collectives(system, before=before).items() if key[0] in OPERATIONS}


def _band(ratio: Floats) -> list[float]:
    """10th and 90th percentile of measured / predicted on the fitted half: an 80 % band around 1."""
    low, high = np.quantile(ratio, [0.1, 0.9])
    return [round(min(float(low), 1.0), 4), round(max(float(high), 1.0), 4)]


def _record(
    result: Derived, what: str, origin: str, checks: list[tuple[str, Timings, Floats]], band: list[float]
) -> None:
    for name, timings, predicted in checks:
        ratio = predicted / timings.seconds
        inside = (timings.seconds / predicted >= band[0]) & (timings.seconds / predicted <= band[1])
        result.errors.append(
            {
                "what": what,
                "tables": origin,
                "check": name,
                "rows": len(timings),
                "mape": round(mape(predicted, timings.seconds), 4),
                "bias": round(float(np.mean(ratio - 1)), 4),
                "p90": round(float(np.quantile(np.abs(ratio - 1), 0.9)), 4),
                "coverage": round(float(inside.mean()), 4),
            }
        )


def _evidence(
    model: GemmModel | AttentionModel, held_out_mape: float, band: list[float], source: str, date: str
) -> dict[str, Any]:
    """What backs the coefficients: range, held-out error, band, source."""
    return {
        "range": {key: [low_, high_] for key, (low_, high_) in model.calibrated.items()},
        "held_out_mape": round(held_out_mape, 4),
        "band": band,
        "source": source,
        "date": date,
    }


def _tables(model: GemmModel | AttentionModel) -> dict[str, Any]:
    """Corrections as whole thousandths."""
    return {
        name: [[round(float(v) * 1000) for v in row] for row in table.values]
        for name, table in model.corrections.items()
    }
