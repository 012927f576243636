"""fused, eager and masked: why released code gains less than its schedule says."""

from __future__ import annotations

import pytest

import aimcost
from aimcost.errors import InvalidValueError
from aimcost.inputs.run import load_run
from aimcost.pricing.reproduce import reproduce
from aimcost.search.bulk import layer_table

AIM = {
    "model": "llava-onevision-qwen2-7b",
    "workload": {"frames": 32, "text_tokens": 100},
    "method": {"name": "aim", "merge_ratio": 0.25, "l1": 14, "l2": 22},
    "hardware": "nvidia_a100_sxm_40gb",
    "estimator": "roofline",
}


def run(implementation: str, **changes: object) -> aimcost.Estimate:
    return aimcost.estimate({**AIM, **changes, "implementation": implementation})


def names_by_layer(estimate: aimcost.Estimate, name: str) -> list[int]:
    return [op["layer"] for op in estimate.ops() if op["stage"] == "prefill" and op["name"] == name]


def test_masked_agrees_with_the_papers_slip() -> None:
    """masked_not_removed: every layer on the count after merging, as LLM-Viewer prices it."""
    slip = next(s for s in reproduce()["slips"] if s["id"] == "masked_not_removed")
    paper = {
        "estimator": "llm_viewer",
        "estimator_options": {"skip_mlp_add": True},
        "method": {**AIM["method"], "convention": "paper"},
    }
    masked = run("masked", **paper)
    assert [layer["tokens"] for layer in masked.layers()] == [1668] * 28
    corrected = slip["corrected"]["video_aim_32f"]
    assert masked.stages["prefill"].flops / 1e12 == pytest.approx(corrected["tflops"], rel=1e-12)
    assert masked.stages["prefill"].time_s * 1e3 == pytest.approx(corrected["ms"], rel=1e-12)


def test_masked_scores_every_layer_as_the_overhead_table_corrects() -> None:
    """28 scores over all 1668 rows: 34.9 GFLOP."""
    entry = next(e for e in reproduce()["overhead"] if e["id"] == "token_pruning")
    method = {**AIM["method"], "convention": "paper"}
    scores = [op for op in run("masked", method=method).ops() if op["name"] == "score"]
    inside = [op["flops"] for op in scores if op["stage"] == "prefill"]
    assert len(inside) == 28
    assert sum(inside) / 1e9 == pytest.approx(entry["corrected_gflops"], rel=1e-12)


def test_where_attention_runs_eager() -> None:
    fused, eager, masked = (run(name) for name in ("fused", "eager", "masked"))
    assert names_by_layer(fused, "softmax") == []
    # cuts follow layers 14 … 21: those must show their scores
    assert names_by_layer(eager, "softmax") == list(range(14, 22))
    assert names_by_layer(eager, "fused_attention") == [*range(14), *range(22, 28)]
    assert names_by_layer(masked, "softmax") == list(range(28))
    assert names_by_layer(masked, "gather") == []


def test_released_code_gains_next_to_nothing_from_pruning() -> None:
    fused, eager, masked = (run(name) for name in ("fused", "eager", "masked"))
    merged_only = run("fused", method={**AIM["method"], "l1": 28, "l2": 29})
    assert fused.ttft_s < eager.ttft_s < masked.ttft_s
    assert masked.ttft_s > merged_only.ttft_s
    assert masked.memory.kv_bytes == merged_only.memory.kv_bytes > fused.memory.kv_bytes
    assert fused.matrix_flops(["prefill"]) == eager.matrix_flops(["prefill"])
    assert any("not removed" in note for note in masked.notes)


def test_the_schedule_itself_stays_what_the_method_planned() -> None:
    assert run("masked").run.schedule == run("fused").run.schedule


@pytest.mark.parametrize(
    ("method", "eager_layers"),
    [("fastv", [1]), ("pyramiddrop", []), ("dart", []), ("vtw", []), ("sparsevlm", list(range(28)))],
)
def test_each_method_exposes_what_it_reads(method: str, eager_layers: list[int]) -> None:
    estimate = run("eager", method={"name": method})
    assert names_by_layer(estimate, "softmax") == eager_layers


def test_visionzip_makes_the_tower_eager() -> None:
    method = {"name": "visionzip"}
    fused, eager = (run(name, method=method) for name in ("fused", "eager"))
    assert eager.stages["vision"].bytes > fused.stages["vision"].bytes
    assert eager.stages["prefill"].bytes == fused.stages["prefill"].bytes


def test_without_reduction_the_implementation_changes_nothing() -> None:
    dense = run("fused", method={"name": "none"}).to_dict()
    assert run("masked", method={"name": "none"}).to_dict() == dense


def test_bulk_tables_refuse_what_depends_on_the_whole_schedule() -> None:
    with pytest.raises(InvalidValueError, match="implementation"):
        layer_table(load_run({**AIM, "implementation": "masked"}))
