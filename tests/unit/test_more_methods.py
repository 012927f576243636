"""SparseVLM, DART, VisionZip, DivPrune, EVS and ToMe: counts as published, and what choosing costs."""

from __future__ import annotations

import pytest

import aimcost
from aimcost.errors import InvalidValueError, UnsupportedModelError

IMAGE = {
    "model": "llava-1.5-7b",
    "workload": {"images": 1, "text_tokens": 40},
    "hardware": "nvidia_a100_sxm_80gb",
    "estimator": "roofline",
}
VIDEO = {**IMAGE, "model": "llava-onevision-qwen2-7b", "workload": {"frames": 32, "text_tokens": 100}}


def image(method: str, **params: object) -> aimcost.Estimate:
    return aimcost.estimate({**IMAGE, "method": {"name": method, **params}})


def rows(estimate: aimcost.Estimate, name: str) -> list[dict]:
    return [op for op in estimate.ops() if op["name"] == name]


def test_sparsevlm_counts_recycled_tokens() -> None:
    tokens = image("sparsevlm").run.schedule.tokens
    # 276 pruned: int(.3 · 276) + 1 = 83, a tenth of it + 1 = 9; then 309 → 200 + 4, 204 → 110 + 3
    assert tokens == (616,) * 3 + (300 + 9 + 40,) * 4 + (200 + 4 + 40,) * 9 + (110 + 3 + 40,) * 16


def test_dart_cuts_once_after_two_layers() -> None:
    assert image("dart").run.schedule.tokens == (616,) * 2 + (128 + 40,) * 30


def test_visionzip_keeps_dominant_and_contextual() -> None:
    assert image("visionzip").run.schedule.tokens == (191 + 30 + 40,) * 32
    assert image("visionzip", dominant=54, contextual=10).run.schedule.visual_tokens == 64


def test_visionzip_prices_the_split_that_it_plans() -> None:
    """191 + 30 and 111 + 110 keep as many tokens, and average different numbers of others into them.

    576 − 191 = 385 tokens are compared with 30 means over CLIP's 1024 elements (2 a pair and element), with
    norms (3) and the sum (1); 576 − 111 = 465 tokens with 110.
    """
    flops = {}
    for dominant, contextual in ((191, 30), (111, 110), (221, 0)):
        estimate = image("visionzip", dominant=dominant, contextual=contextual)
        (event,) = estimate.run.schedule.events
        assert dict(event.counts) == {"dominant": dominant, "contextual": contextual}
        assert estimate.run.schedule.params.items() >= dict(event.counts).items()
        assert estimate.run.schedule.visual_tokens == 221
        merges = [op["flops"] for op in estimate.ops() if (op["stage"], op["name"]) == ("merge", "merge")]
        flops[contextual] = sum(merges)
    assert flops == {30: 385 * 1024 * (2 * 30 + 4), 110: 465 * 1024 * (2 * 110 + 4), 0: 0}


@pytest.mark.parametrize(("kept", "contextual"), [(64, 10), (128, 20), (192, 30)])
def test_visionzip_splits_a_total_as_its_published_budgets(kept: int, contextual: int) -> None:
    """54 + 10, 108 + 20 and 162 + 30 (arXiv 2412.04467; the first in the README of dvlab-research/VisionZip)."""
    (event,) = image("visionzip", keep_tokens=kept).run.schedule.events
    assert dict(event.counts) == {"dominant": kept - contextual, "contextual": contextual}


def test_a_sweep_tells_splits_of_one_total_apart() -> None:
    run = {"model": "llava-1.5-7b", "workload": {"images": 1, "text_tokens": 40}, "method": {"name": "visionzip"}}
    events = [
        aimcost.schedule({**run, "method": {"name": "visionzip", "dominant": d, "contextual": c}}).pre_llm_events
        for d, c in ((191, 30), (111, 110))
    ]
    assert events[0] != events[1]


def test_divprune_selects_over_all_frames_together() -> None:
    assert image("divprune").run.schedule.visual_tokens == 56  # 0.098 of 576
    (event,) = aimcost.schedule({**VIDEO, "method": {"name": "divprune", "ratio": 0.1}}).events
    assert (event.groups, event.tokens_in, event.tokens_out) == (1, 6272, 627)
    # the generic form prices the comparison that the runtime makes: 6272² pairs, not 32 times 196²
    generic = {"name": "pre_llm", "ratio": 0.1, "scorer": "max_min_cosine"}
    (event,) = aimcost.schedule({**VIDEO, "method": generic}).events
    assert (event.groups, event.tokens_in, event.tokens_out) == (1, 6272, 19 * 32)


def test_evs_keeps_at_least_one_frame() -> None:
    half = aimcost.schedule({**VIDEO, "method": {"name": "evs", "q": 0.5}})
    assert half.visual_tokens == 3136 + 1  # the newline token is not in a frame
    least = aimcost.schedule({**VIDEO, "method": {"name": "evs", "q": 0.99}})
    assert least.visual_tokens == 196 + 1
    assert half.params["frames"] == 32


def test_tome_merges_in_every_tower_layer() -> None:
    estimate = image("tome", r=16)
    schedule, layers = estimate.run.schedule, estimate.run.model.vision.layers
    assert [event.tower_layer for event in schedule.tower_events] == list(range(layers))
    assert schedule.visual_tokens == 577 - 16 * layers - 1
    attention = [op["flops"] for op in estimate.ops() if op["stage"] == "vision" and op["name"] == "q_proj"]
    mlp = [op["flops"] for op in estimate.ops() if op["stage"] == "vision" and op["name"] == "up_proj"]
    width, inner = estimate.run.model.vision.hidden, estimate.run.model.vision.intermediate
    # attention before the merge of its own layer, the MLP after it
    assert attention == [2.0 * (577 - 16 * i) * width * width for i in range(layers)]
    assert mlp == [2.0 * (577 - 16 * (i + 1)) * width * inner for i in range(layers)]
    merges = [op for op in rows(estimate, "merge") if op["stage"] == "vision"]
    assert [op["layer"] for op in merges] == list(range(layers))
    projector = next(op for op in estimate.ops() if op["name"] == "proj_1")
    assert projector["flops"] == 2.0 * schedule.visual_tokens * width * 4096


def test_tome_stops_where_nothing_is_left_to_pair() -> None:
    schedule = image("tome", r=300).run.schedule
    assert schedule.tower_events[0].tokens_out == 577 - 288
    assert schedule.visual_tokens == 1


def test_tome_says_what_it_cannot_do() -> None:
    with pytest.raises(UnsupportedModelError, match="196 tokens per image of 729"):
        aimcost.schedule({**VIDEO, "method": {"name": "tome"}})
    text = {"model": "llava-1.5-7b", "workload": {"text_tokens": 40}, "method": {"name": "tome"}}
    with pytest.raises(InvalidValueError, match=r"workload\.images"):
        aimcost.schedule(text)


@pytest.mark.parametrize(
    ("method", "params", "found"),
    [
        ("sparsevlm", {"layers": [2, 6]}, "keep"),
        ("sparsevlm", {"keep": [10, 20, 5]}, "falling"),
        ("sparsevlm", {"keep": [700, 20, 5]}, "visual tokens"),
        ("dart", {"ratio": 0.5, "keep_tokens": 3}, "omitted"),
        ("visionzip", {"dominant": 5, "keep_tokens": 3}, "omitted"),
        ("divprune", {"ratio": 0.5, "keep_tokens": 3}, "omitted"),
        ("evs", {"q": 1.0}, "less than 1"),
    ],
)
def test_bad_parameters_are_named(method: str, params: dict, found: str) -> None:
    with pytest.raises(InvalidValueError, match=found):
        image(method, **params)


@pytest.mark.parametrize("method", ["sparsevlm", "dart", "visionzip", "divprune"])
def test_choosing_is_priced_and_below_what_it_saves(method: str) -> None:
    estimate, dense = image(method), image("none")
    choosing = [op for op in estimate.ops() if op["name"] in ("score", "select", "gather", "merge")]
    assert choosing
    assert all(op["time_s"] > 0 for op in choosing)
    saved = dense.stages["prefill"].time_s - estimate.stages["prefill"].time_s
    assert 0 < sum(op["time_s"] for op in choosing) < saved


def test_pairwise_cosine_of_divprune_is_two_n_squared_h() -> None:
    (score,) = rows(image("divprune"), "score")
    assert score["flops"] == 2.0 * 576 * 576 * 4096 + 3.0 * 576 * 4096


def test_sparsevlm_cuts_rise_in_a_shallow_model() -> None:
    shallow = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    run = {
        "model": {**shallow, "num_hidden_layers": 3, "vocab_size": 99},
        "workload": {"visual_tokens": 576, "text_tokens": 4},
        "method": {"name": "sparsevlm"},
    }
    schedule = aimcost.schedule(run)
    assert schedule.params["layers"] == [1, 2, 3]
    assert schedule.tokens == (580, 580, 313)  # the cuts after layers 2 and 3 change nothing
