"""Fitting time models: a robust least-squares formula, then the correction tables, on logarithms.

Everything is deterministic: the halves are drawn with a fixed seed, by distinct dimensions, so that
no shape is in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...extras import load
from ...ops.attention import single_pass
from ...ops.gemm import linear
from ...types.formats import Widths
from ..timemodels import attention as attention_model
from ..timemodels import gemm as gemm_model
from ..timemodels.tables import Floats, LogTable, Provenance, bracket
from .aiconfigurator import Timings

__all__ = ["BF16", "fit_attention", "fit_gemm", "halves", "mape", "pool", "predict_attention", "predict_gemm"]

SEED = 0
FIT_ROWS = 20000  # rows for the formula; the tables take all
RIDGE = 1.0  # pulls corrections that few rows support to the formula
BF16 = Widths(weights=2.0, activations=2.0, kv=2.0)  # attention was measured in it alone
_NOWHERE = Provenance("fit", "", 1.0, 1.0, 0.0)


def _scipy() -> tuple[Any, Any]:
    load("scipy", extra="silicon", purpose="fitting coefficients")
    import scipy.optimize
    import scipy.sparse
    import scipy.sparse.linalg

    return scipy.optimize, scipy.sparse


def pool(parts: list[Timings]) -> Timings:
    """Measurements of several stacks together."""
    dims = {key: np.concatenate([part.dims[key] for part in parts]) for key in parts[0].dims}
    return Timings(dims, np.concatenate([part.seconds for part in parts]), " and ".join(part.origin for part in parts))


def halves(timings: Timings) -> tuple[Timings, Timings]:
    """A random half of the distinct shapes, and the other half."""
    keys = np.stack(list(timings.dims.values()), axis=1)
    _, shape = np.unique(keys, axis=0, return_inverse=True)
    fitted = np.random.default_rng(SEED).random(shape.max() + 1) < 0.5
    mask = fitted[shape.ravel()]
    return timings.where(mask), timings.where(~mask)


def mape(predicted: Floats, measured: Floats) -> float:
    """Mean absolute percentage error, as a fraction."""
    return float(np.mean(np.abs(predicted / measured - 1.0)))


def _sample(timings: Timings, mask: Any) -> Timings:
    chosen = np.flatnonzero(mask)
    if len(chosen) > FIT_ROWS:
        chosen = np.random.default_rng(SEED + 1).choice(chosen, FIT_ROWS, replace=False)
    picked = np.zeros(len(timings), dtype=bool)
    picked[chosen] = True
    return timings.where(picked)


def _least_squares(residual: Callable[[Floats], Floats], start: Floats) -> Floats:
    optimize, _ = _scipy()
    return np.asarray(optimize.least_squares(residual, start, loss="soft_l1", f_scale=0.05, max_nfev=50).x)


def _correct(
    nodes: Mapping[str, tuple[Floats, Floats]], where: Mapping[str, tuple[Floats, Floats]], residual: Floats
) -> dict[str, LogTable]:
    """All tables at once, by ridge regression that is re-weighted towards least absolute errors."""
    _, sparse = _scipy()
    blocks = [_design(sparse, *where[name], *nodes[name]) for name in nodes]
    design = sparse.hstack(blocks).tocsr()
    ridge = RIDGE * sparse.identity(design.shape[1])
    weight, solution = np.ones(len(residual)), np.zeros(design.shape[1])
    for _ in range(15):
        weighted = sparse.diags(weight)
        normal = (design.T @ weighted @ design + ridge).tocsc()
        solution = sparse.linalg.spsolve(normal, design.T @ (weight * residual))
        weight = 0.05 / np.maximum(np.abs(residual - design @ solution), 0.01)
    tables, start = {}, 0
    for name, (u, v) in nodes.items():
        size = len(u) * len(v)
        # stored as thousandths, so evaluated as stored
        values = np.round(solution[start : start + size] * 1000) / 1000
        tables[name] = LogTable(u, v, values.reshape(len(u), len(v)))
        start += size
    return tables


def _design(sparse: Any, u: Floats, v: Floats, u_nodes: Floats, v_nodes: Floats) -> Any:
    """Bilinear weights of each row on a table's nodes."""
    i, a = bracket(u, u_nodes)
    j, b = bracket(v, v_nodes)
    width, rows = len(v_nodes), np.arange(len(u))
    columns = np.concatenate([i * width + j, i * width + j + 1, (i + 1) * width + j, (i + 1) * width + j + 1])
    weights = np.concatenate([(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b])
    shape = (len(u), len(u_nodes) * width)
    return sparse.csr_matrix((weights, (np.tile(rows, 4), columns)), shape=shape)


# --- products -----------------------------------------------------------------------------------


def _gemm_arguments(timings: Timings, machine: Mapping[str, float], widths: tuple[float, float]) -> dict[str, Any]:
    m, n, k = (timings.dims[key] for key in ("m", "n", "k"))
    weight_bytes, act_bytes = widths
    product = linear(m, k, n, Widths(weights=weight_bytes, activations=act_bytes, kv=act_bytes))
    return {"m": m, "n": n, "k": k, "bytes_moved": product.bytes, "weight_bytes": product.read_weights, **machine}


def fit_gemm(
    timings: Timings, machine: Mapping[str, float], widths: tuple[float, float] = (2.0, 2.0)
) -> gemm_model.GemmModel:
    """Coefficients from `timings`.

    Parameters
    ----------
    machine
        ``peak`` FLOP/s, ``bandwidth`` bytes/s, ``sm_count``.
    widths
        Bytes an element of weights and activations.
    """
    # narrow products are left to the tables: they would bend the formula where it extrapolates
    wide = (timings.dims["n"] >= 512) & (timings.dims["k"] >= 512)
    sample = _sample(timings, wide if wide.sum() >= 500 else np.ones(len(timings), dtype=bool))
    arguments = _gemm_arguments(sample, machine, widths)
    log_measured = np.log(sample.seconds)

    def residual(x: Floats) -> Floats:
        return np.asarray(np.log(gemm_model.formula_seconds(_gemm_of(x), **arguments)) - log_measured)

    tiles = np.log([0.85, 0.85, 0.8, 0.7, 0.7, 0.6, 0.6, 0.45, 0.4, 0.25])
    start = np.concatenate(
        [tiles, [np.log(100.0), np.log(3.0), np.log(1.0), np.log(0.85), np.log(2.0), 0.0, np.log(0.02)]]
    )
    model = _gemm_of(_least_squares(residual, start))
    everything = _gemm_arguments(timings, machine, widths)
    left = np.log(timings.seconds / gemm_model.formula_seconds(model, **everything))
    where = gemm_model.coordinates(everything["m"], everything["n"], everything["k"], int(machine["sm_count"]))
    corrections = _correct(gemm_model.CORRECTIONS, where, left)
    return replace(model, corrections=corrections, calibrated=_ranges(timings))


def _gemm_of(x: Floats) -> gemm_model.GemmModel:
    """Coefficients from the solver's unbounded vector."""
    return gemm_model.GemmModel(
        tile_efficiency=np.clip(np.exp(x[:10]), 0.001, 1.05)[:, None],
        k0=float(np.exp(x[10])),
        launch_s=float(np.exp(x[11])) * 1e-6,
        split_s=float(np.exp(x[12])) * 1e-6,
        memory_share=float(min(np.exp(x[13]), 1.05)),
        overlap=1.0 + float(min(np.exp(x[14]), 200.0)),
        rounding=float(1 / (1 + np.exp(-x[15]))),
        droop=float(min(np.exp(x[16]), 1.0)),
        corrections={},
        calibrated={},
        provenance=_NOWHERE,
    )


def _ranges(timings: Timings) -> dict[str, tuple[float, float]]:
    return {key: (float(v.min()), float(v.max())) for key, v in timings.dims.items() if key != "head_dim"}


def predict_gemm(
    model: gemm_model.GemmModel,
    timings: Timings,
    machine: Mapping[str, float],
    widths: tuple[float, float] = (2.0, 2.0),
) -> Floats:
    """Seconds that a model gives for measured shapes."""
    return model.seconds(**_gemm_arguments(timings, machine, widths))


# --- attention ----------------------------------------------------------------------------------


def _attention_arguments(timings: Timings, machine: Mapping[str, float], causal: bool) -> dict[str, Any]:
    cost = single_pass(timings.dims, causal=causal, widths=BF16)
    return {"dims": timings.dims, "bytes_moved": cost.bytes, "flops": cost.flops, **machine}


def fit_attention(timings: Timings, machine: Mapping[str, float], *, causal: bool) -> attention_model.AttentionModel:
    """Coefficients of one kernel at one head width; `machine` as in `fit_gemm`."""
    sample = _sample(timings, np.ones(len(timings), dtype=bool))
    arguments = _attention_arguments(sample, machine, causal)
    log_measured = np.log(sample.seconds)

    def residual(x: Floats) -> Floats:
        return np.asarray(np.log(attention_model.formula_seconds(_attention_of(x), **arguments)) - log_measured)

    start = np.log([0.6, 6.0, 300.0, 0.3, 2.0, 0.8])
    model = _attention_of(_least_squares(residual, start))
    everything = _attention_arguments(timings, machine, causal)
    left = np.log(timings.seconds / attention_model.formula_seconds(model, **everything))
    where = attention_model.coordinates(timings.dims, int(machine["sm_count"]))
    corrections = _correct(attention_model.CORRECTIONS, where, left)
    return replace(model, corrections=corrections, calibrated=_ranges(timings))


def _attention_of(x: Floats) -> attention_model.AttentionModel:
    return attention_model.AttentionModel(
        efficiency=float(min(np.exp(x[0]), 1.05)),
        launch_s=float(np.exp(x[1])) * 1e-6,
        s0=float(min(np.exp(x[2]), 1e5)),
        tail=float(min(np.exp(x[3]), 50.0)),
        memory_share=float(min(np.exp(x[5]), 1.05)),
        overlap=1.0 + float(min(np.exp(x[4]), 200.0)),
        corrections={},
        calibrated={},
        provenance=_NOWHERE,
    )


def predict_attention(
    model: attention_model.AttentionModel, timings: Timings, machine: Mapping[str, float], *, causal: bool
) -> Floats:
    """Seconds that a model gives for measured shapes."""
    return model.seconds(**_attention_arguments(timings, machine, causal))
