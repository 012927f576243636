"""Grid models: they return what was measured at their nodes, and stay sane between and beyond them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aimcost.errors import CalibrationError
from aimcost.machine.timemodels.measured import AttentionGrid, CurveSet, GemmGrid

BAND = {"source": "made up for a test", "date": "2026-01-01", "band": [0.9, 1.1]}
M, N, K = (1.0, 16.0, 256.0), (64.0, 512.0), (128.0, 1024.0)


def cost(m: float, n: float, k: float) -> float:
    """A machine: weights streamed once, then every row alike. Linear in m, as the model assumes."""
    return n * k * (4e-10 + m * 2e-11)


def gemm_mapping(**changes: Any) -> dict[str, Any]:
    rows = [[cost(m, n, k) / (n * k) * 1e12 for n in N for k in K] for m in M]
    return {"m": list(M), "n": list(N), "k": list(K), "ns_per_1000_weights": rows, **BAND, **changes}


def seconds(grid: GemmGrid, m: float, n: float, k: float, peak: float = 1e15) -> float:
    columns = (np.array([value]) for value in (m, n, k))
    return float(grid.seconds(*columns, bytes_moved=np.zeros(1), peak=peak, bandwidth=1.0)[0])


def test_products_at_the_nodes_are_what_was_measured() -> None:
    grid = GemmGrid.of(gemm_mapping(), where="t")
    for m in M:
        for n in N:
            for k in K:
                assert seconds(grid, m, n, k) == pytest.approx(cost(m, n, k), rel=1e-9)


@pytest.mark.parametrize(("m", "n", "k"), [(5, 100, 300), (100, 400, 900), (1000, 512, 1024)])
def test_products_between_and_above_the_nodes_follow_the_machine(m: float, n: float, k: float) -> None:
    grid = GemmGrid.of(gemm_mapping(), where="t")
    assert seconds(grid, m, n, k) == pytest.approx(cost(m, n, k), rel=1e-9)
    assert bool(grid.outside(np.array([m]), np.array([n]), np.array([k]))[0]) == (m > 256)


def test_more_rows_never_take_less_whatever_the_noise() -> None:
    noisy = gemm_mapping()
    noisy["ns_per_1000_weights"][2] = [value * 0.01 for value in noisy["ns_per_1000_weights"][2]]
    grid = GemmGrid.of(noisy, where="t")
    times = [seconds(grid, m, 200, 500) for m in (1, 4, 16, 64, 256, 1024)]
    assert times == sorted(times)
    assert min(times) > 0


def test_no_product_beats_the_peak() -> None:
    grid = GemmGrid.of(gemm_mapping(), where="t")
    assert seconds(grid, 256, 512, 1024, peak=1e9) == pytest.approx(2 * 256 * 512 * 1024 / 1.05e9)


def attention_mapping(**changes: Any) -> dict[str, Any]:
    curves = [
        {"element_bytes": 4.0, "q_len": [16.0, 256.0], "ns_per_pair": [8.0, 2.0]},
        {"element_bytes": 2.0, "q_len": [16.0, 256.0], "ns_per_pair": [4.0, 1.0]},
    ]
    return {"along": "q_len", "curves": curves, **BAND, **changes}


def attend(n: float, width: float, heads: float = 8.0) -> float:
    dims = {"batch": 1.0, "heads": heads, "kv_heads": 2.0, "head_dim": 64.0, "q_len": n, "kv_len": n}
    arrays = {key: np.array([value]) for key, value in dims.items()}
    moved = 2.0 * n * (heads + 2.0) * 64.0 * width
    flops = 4.0 * 64.0 * heads * n * (n + 1) / 2
    grid = AttentionGrid.of(attention_mapping(), where="t")
    return float(grid.seconds(arrays, bytes_moved=np.array([moved]), flops=np.array([flops]))[0])


@pytest.mark.parametrize(("width", "factor"), [(4.0, 2.0), (2.0, 1.0)])
def test_attention_takes_the_curve_of_its_format(width: float, factor: float) -> None:
    assert attend(256, width) == pytest.approx(8 * 256 * 257 / 2 * factor * 1e-9)
    assert attend(64, width) == pytest.approx(8 * 64 * 65 / 2 * 2 * factor * 1e-9)  # halfway in log n
    assert attend(256, width, heads=16) == pytest.approx(2 * attend(256, width))


def curve_mapping(**changes: Any) -> dict[str, Any]:
    curves = [
        {"flops_per_byte": 0.0, "bytes": [1e3, 1e6], "us": [5.0, 105.0]},
        {"flops_per_byte": 0.5, "bytes": [1e3, 1e6], "us": [10.0, 1010.0]},
    ]
    return {"along": "bytes", "curves": curves, **BAND, **changes}


def test_intensity_chooses_the_curve() -> None:
    model = CurveSet.of(curve_mapping(), where="t")
    moved = np.array([1e6, 1e6, 1e6])
    times = model.seconds(moved, np.array([0.0, 0.4e6, 9e6]))
    assert times == pytest.approx([105e-6, 1010e-6, 1010e-6])


def test_a_curve_goes_on_with_its_slope_and_never_under_its_first_time() -> None:
    model = CurveSet.of(curve_mapping(), where="t")
    above = model.seconds(np.array([2e6]), np.array([0.0]))[0]
    assert above == pytest.approx(105e-6 + 1e6 * 100e-6 / 999e3)
    assert model.seconds(np.array([1.0]), np.array([0.0]))[0] == pytest.approx(5e-6)


def test_a_curve_along_flops_reads_flops() -> None:
    curves = [{"flops_per_byte": 2.0, "flops": [1e3, 1e6], "us": [1.0, 2.0]}]
    model = CurveSet.of({"along": "flops", "curves": curves, **BAND}, where="t")
    assert model.seconds(np.array([7.0]), np.array([1e6]))[0] == pytest.approx(2e-6)


@pytest.mark.parametrize(
    ("reader", "mapping", "message"),
    [
        (GemmGrid, gemm_mapping(m=[1.0, 1.0, 2.0]), "'m' must be at least two rising"),
        (GemmGrid, gemm_mapping(n=[64.0]), "'n' must be at least two rising"),
        (GemmGrid, gemm_mapping(k="x"), "'k' must"),
        (GemmGrid, gemm_mapping(ns_per_1000_weights=[[1.0]]), "must have shape"),
        (GemmGrid, gemm_mapping(ns_per_1000_weights=[[0.0] * 4] * 3), "above 0"),
        (GemmGrid, gemm_mapping(ns_per_1000_weights=[[1e-320] * 4] * 3), "above 0"),
        (GemmGrid, gemm_mapping(source=""), "has no 'source'"),
        (GemmGrid, gemm_mapping(band=None), "'band' must be"),
        (AttentionGrid, attention_mapping(along="width"), "'along' must be"),
        (AttentionGrid, attention_mapping(curves=[]), "'curves' must be"),
        (CurveSet, curve_mapping(along="time"), "'along' must be"),
        (CurveSet, curve_mapping(curves=[{"flops_per_byte": 1.0, "bytes": [1, 2], "us": [1]}]), "shape"),
        (CurveSet, curve_mapping(curves=[{"bytes": [1, 2], "us": [1, 2]}]), "flops_per_byte"),
    ],
)
def test_entries_that_cannot_be_are_refused(reader: Any, mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        reader.of(mapping, where="profile")
