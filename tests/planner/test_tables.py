"""The planner's tables give what the estimator gives, whatever the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aimcost.inputs.run import load_run
from aimcost.methods.sparsevlm import plan as sparsevlm
from aimcost.pricing.pricing import estimate_run
from aimcost.search.compositions import compositions
from aimcost.search.plan.blocks import tables
from aimcost.search.plan.evaluate import evaluate, upper_seconds
from aimcost.search.plan.grids import FreeGrid, chunks, grids, pairs_of

SMALL_MODEL = {"model": "llava-onevision-qwen2-0.5b", "workload.frames": 2}
CACHED: dict[str, Any] = {
    "model": "llava-onevision-qwen2-0.5b",
    "hardware": "nvidia_a100_sxm_40gb",
    "workload": {"frames": 4, "text_tokens": {"system": 60, "question": 40}, "cached_tokens": 55},
}
RUNS: dict[str, tuple[str | dict[str, Any], dict[str, Any]]] = {
    "video": ("llava_onevision_aim_a100", {"workload.new_tokens": 16}),
    "host-bound": ("llava_onevision_aim_a100", {**SMALL_MODEL, "workload.new_tokens": 5}),
    "host-bound, inherited": (
        "llava_onevision_aim_a100",
        {**SMALL_MODEL, "workload.new_tokens": 5, "hardware": "nvidia_h100_pcie"},
    ),
    "beyond the measured range": ("llava_onevision_aim_a100", {"workload.frames": 200, "hardware": "nvidia_l40s"}),
    "image": ("llava15_aim_a100", {}),
    "llm_viewer": ("llava_onevision_aim_a100", {"estimator": "llm_viewer", "method.convention": "paper"}),
    "llm_viewer decode": ("llava_onevision_aim_a100", {"estimator": "llm_viewer", "workload.new_tokens": 4}),
    "some stages": ("llava_onevision_aim_a100", {"estimator": "roofline", "include": ["prefill", "merge"]}),
    "eager implementation": ("llava_onevision_aim_a100", {"implementation": "eager"}),
    "attention exposed in every layer": (
        "llava_onevision_aim_a100",
        {**SMALL_MODEL, "method": {"name": "sparsevlm"}, "implementation": "eager", "workload.new_tokens": 4},
    ),
    "eager attention, narrow formats": (
        "llava_onevision_aim_a100",
        {"precision": {"weights": 4, "kv": 8}, "workload.batch": 3, "workload.new_tokens": 8, "attention": "eager"},
    ),
    "two ranks": ("llava_onevision_aim_a100", {"parallel.tp": 2, "workload.new_tokens": 3}),
    "experts": ("llava15_aim_a100", {"model": "qwen3-vl-30b-a3b", "method": {"name": "fastv"}}),
    "one token after another": (
        "llava_onevision_aim_a100",
        {
            **SMALL_MODEL,
            "workload.frames": 1,
            "method": {"name": "divprune", "ratio": 0.9},
            "include": ["merge", "prefill"],
        },
    ),
    "cached text": ({**CACHED, "method": {"name": "aim"}}, {}),
    "cached text, decode": ({**CACHED, "method": "fastv", "implementation": "eager"}, {"workload.new_tokens": 4}),
    "no reduction": ("llava_onevision_dense_a100", {}),
}


@pytest.mark.parametrize("name", RUNS)
def test_equal_to_the_estimate(name: str) -> None:
    base, changes = RUNS[name]
    run = load_run(base, changes)
    expected = estimate_run(run)
    pairs = pairs_of(run.schedule.tokens)
    scorer = run.schedule.layer_events[0].scorer if run.schedule.layer_events else "none"
    # beside pairs that the schedule does not use
    t = tables(run, {*pairs, (5000, 4000), (77, 77)}, scorer, band=True)
    blocks = np.array([[t.index[pair] for pair in pairs]] * 3)
    found = evaluate(t, run.workload.text_tokens, blocks)
    for mine, theirs in [
        (found.ttft, expected.ttft_s),
        (found.tpot, expected.stages["decode"].tpot_s),
        (found.flops, expected.totals.flops),
        (found.kv, expected.memory.kv_bytes),
        (found.peak, expected.memory.peak_bytes),
    ]:
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    if expected.band is not None:
        np.testing.assert_allclose(upper_seconds(t, blocks, 1.0), expected.ttft_band_s[1], rtol=1e-12)
    else:
        assert t.rows is None


def test_a_schedule_without_a_cut_exposes_no_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that has every layer run eager attention as soon as it cuts: each candidate as by itself."""
    offered = [{"layers": [2], "keep": [keep]} for keep in (1152, 300, 100)]  # 1152 of 1152: no cut
    monkeypatch.setattr(sparsevlm, "candidates", lambda layers: offered, raising=False)
    given = {"model": "llava-onevision-qwen2-0.5b", "workload": {"visual_tokens": 1152, "text_tokens": 50}}
    run = load_run({**given, "hardware": "nvidia_a100_sxm_80gb", "implementation": "eager"})
    run = run.with_(new_tokens=4)
    found = {}
    for grid in grids(run, ["sparsevlm"], ["linear"], first=2, levels=(1.0,)):
        for start, figures in chunks(grid.prices(band=False)):
            for index in range(len(figures.ttft)):
                found[grid.method(start + index)["keep"][0]] = figures.ttft[index], figures.tpot[index]
    assert found.keys() == {1152, 300, 100}
    for keep, (ttft, tpot) in found.items():
        alone = estimate_run(run.with_method({"name": "sparsevlm", "layers": [2], "keep": [keep]}))
        assert ttft == pytest.approx(alone.ttft_s, rel=1e-12)
        assert tpot == pytest.approx(alone.stages["decode"].tpot_s, rel=1e-12)


@pytest.mark.parametrize("changes", [{}, {**SMALL_MODEL, "workload.new_tokens": 3}], ids=["device", "host"])
def test_levels_equal_layers(changes: dict[str, Any]) -> None:
    run = load_run("llava_onevision_aim_a100", changes)
    free = [grid for grid in grids(run, ["aim"], ["free"], first=7, levels=(1, 0.5, 0.25, 0.1, 0)) if len(grid) > 1]
    grid = free[1]
    assert isinstance(grid, FreeGrid)
    prices = grid.prices(band=True)
    positions = np.random.default_rng(0).integers(0, len(grid), 200)
    blocks = prices.blocks(positions)
    by_layer = evaluate(prices.tables, grid.text, blocks)
    by_level = list(chunks(prices))
    assert len(prices) == len(grid) == sum(len(figures.ttft) for _, figures in by_level)
    for field in ("ttft", "tpot", "flops", "kv", "peak", "kept", "depth"):
        every = np.concatenate([getattr(figures, field) for _, figures in by_level])
        np.testing.assert_allclose(every[positions], getattr(by_layer, field), rtol=1e-12, err_msg=field)
    for position, row in zip(positions[:20], blocks, strict=False):
        assert [prices.tables.pairs[block] for block in row] == pairs_of(grid.tokens(int(position)))


def test_the_free_form_is_whole() -> None:
    ways = compositions(5, 4).all()
    assert len(ways) == 56  # C(8, 3)
    assert len({tuple(way) for way in ways.tolist()}) == 56
    assert (ways.sum(axis=1) == 5).all()
    assert ways.tolist() == sorted(ways.tolist())
    # eight levels over the 27 layers behind the first of 28
    run = load_run("llava_onevision_aim_a100")
    sizes = {len(grid) for grid in grids(run, ["aim"], ["free"], first=1, levels=(1, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0))}
    assert max(sizes) == 5_379_616  # C(34, 7)


def test_deep_models_cut_every_few_layers() -> None:
    run = load_run("llava_onevision_aim_a100", {"model": "llava-onevision-qwen2-72b"})
    grid = max(grids(run, ["aim"], ["free"], first=20, levels=(1, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0)), key=len)
    assert isinstance(grid, FreeGrid)
    assert grid.stride > 1
    assert len(grid) <= 6_800_000
    assert len(grid.tokens(len(grid) // 2)) == 80
