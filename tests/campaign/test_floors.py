"""The least time of a kernel, by hand."""

from __future__ import annotations

import pytest

from aimcost.measure.campaign.summary import floor_s
from aimcost.measure.profile.to_calibration import Ceilings
from aimcost.measure.records import Sample

DIMS = {"batch": 1.0, "heads": 4.0, "kv_heads": 2.0, "head_dim": 8.0, "q_len": 3.0, "kv_len": 3.0}


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
    sample = Sample(op="attention", name="fused", dims=DIMS, dtype="bf16", samples_s=(1.0,), clock="wall")
    ceilings = Ceilings(flops_per_s={"bf16": flops_per_s}, memory_bytes_per_s=bytes_per_s)
    assert floor_s(sample, ceilings, "bf16") == pytest.approx(seconds)


def test_a_merge_reads_each_token_once_and_writes_what_is_left() -> None:
    """2 groups of 6 tokens to 4, 5 wide, 2 bytes each."""
    dims = {"groups": 2.0, "tokens": 6.0, "kept": 4.0, "width": 5.0}
    sample = Sample(op="merge", name="bipartite_cosine", dims=dims, dtype="bf16", samples_s=(1.0,), clock="wall")
    assert floor_s(sample, Ceilings(flops_per_s={"bf16": 1e9}, memory_bytes_per_s=1.0), "bf16") == 2 * 2 * (6 + 4) * 5
