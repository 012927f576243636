"""The least time of a kernel, by hand."""

from __future__ import annotations

import pytest

from aimcost.measure.campaign.floors import Peaks, floor_s
from aimcost.measure.records import Sample

DIMS = {"batch": 1.0, "heads": 4.0, "kv_heads": 2.0, "head_dim": 8.0, "q_len": 3.0, "kv_len": 3.0}


def sample(op: str, dims: dict[str, float]) -> Sample:
    return Sample(op=op, name="fused", dims=dims, dtype="bf16", samples_s=(1.0,), clock="wall")


@pytest.mark.parametrize(
    ("flops_per_s", "bytes_per_s", "seconds"),
    [
        # 6 of 9 pairs, 4 heads, 4·8 FLOPs each
        (1.0, 1e9, 768.0),
        # queries and outputs: 3·4·8 elements, twice; keys and values: 3·2·8, twice; 2 bytes each
        (1e9, 1.0, 2 * (2 * 96 + 2 * 48)),
    ],
)
def test_attention_has_the_floor_of_its_formula(flops_per_s: float, bytes_per_s: float, seconds: float) -> None:
    peaks = Peaks(flops_per_s=flops_per_s, bytes_per_s=bytes_per_s)
    assert floor_s(sample("attention", DIMS), peaks) == pytest.approx(seconds)


def test_what_has_no_formula_has_no_floor() -> None:
    assert floor_s(sample("prefill", {"tokens": 3.0}), Peaks(flops_per_s=1.0, bytes_per_s=1.0)) is None
