"""FasterVLM, VisPruner, CDPruner, HoloV and VidCom2: counts and prices worked out from their released code."""

from __future__ import annotations

from typing import Any

import pytest

import aimcost
from aimcost.errors import InvalidValueError, ScheduleError
from aimcost.methods.registry import find_scorer, launches_of
from aimcost.types import ReductionEvent, Schedule

IMAGE = {
    "model": "llava-1.5-7b",  # 576 tokens an image; CLIP-L: 1,024 wide, 16 heads, a class token; decoder 4,096 wide
    "workload": {"images": 1, "text_tokens": 40},
    "hardware": "nvidia_a100_sxm_80gb",
    "estimator": "roofline",
}
TILED = {**IMAGE, "model": "llava-next-vicuna-7b", "workload": {"images": 1, "image_size": [672, 672]}}
VIDEO = {**IMAGE, "model": "llava-onevision-qwen2-7b", "workload": {"frames": 32, "text_tokens": 100}}


def plan(run: dict[str, Any], name: str, **params: Any) -> Schedule:
    return aimcost.schedule({**run, "method": {"name": name, **params}})


def event(schedule: Schedule) -> ReductionEvent:
    (only,) = schedule.events
    return only


def costs(run: dict[str, Any], name: str, **params: Any) -> dict[str, dict[str, Any]]:
    """Reduction ops before the language model, by name."""
    estimate = aimcost.estimate({**run, "method": {"name": name, **params}})
    return {op["name"]: op for op in estimate.ops() if op["stage"] == "merge"}


def launches(run: dict[str, Any], name: str, **params: Any) -> tuple[float, float]:
    """Launches and waits of the whole cut as released code executes it."""
    estimate = aimcost.estimate(
        {**run, "estimator": "calibrated", "stack": "llava", "method": {"name": name, **params}}
    )
    rows = [s.start for s in estimate.table.segments if s.stage == "merge"]
    return float(estimate.table.launches[rows].sum()), float(estimate.table.syncs[rows].sum())


@pytest.mark.parametrize("method", ["fastervlm", "vispruner", "cdpruner"])
def test_a_tiled_image_is_reduced_crop_by_crop(method: str) -> None:
    """LLaVA-NeXT, 672 x 672: the image and four tiles of 576 patches, padding and newline tokens out of the count.

    32 tokens of each are 160, as the README of CDPruner and VisPruner counts them.
    """
    schedule = plan(TILED, method, visual_token_num=32)
    assert (event(schedule).groups, event(schedule).tokens_in, event(schedule).tokens_out) == (5, 576, 32)
    assert schedule.visual_tokens == 160
    assert schedule.newline_tokens == 0


def test_shares_round_as_fastervlm_counts_them() -> None:
    """Its README: 144 of 576 at a reduction of 75 %, 58 at 90 % (57.6), 29 at 95 % (28.8): 145 of five crops."""
    assert plan(IMAGE, "fastervlm").visual_tokens == 144
    assert plan(IMAGE, "fastervlm", ratio=0.1).visual_tokens == 58
    assert plan(TILED, "fastervlm", ratio=0.05).visual_tokens == 145
    assert plan(VIDEO, "fastervlm", ratio=0.25).visual_tokens == 32 * 49 + 1  # and the newline token
    assert plan(IMAGE, "fastervlm", keep_tokens=100).visual_tokens == 100


def test_vispruner_splits_important_and_diverse() -> None:
    """int(128 · 0.5) = 64 important ones; int(64 · 0.75) = 48; int(33 · 0.5) = 16, and 17 diverse ones."""
    assert dict(event(plan(IMAGE, "vispruner")).counts) == {"important": 64}
    for tokens, ratio, important in ((64, 0.75, 48), (33, 0.5, 16), (64, 1.0, 64), (64, 0.0, 0)):
        schedule = plan(IMAGE, "vispruner", visual_token_num=tokens, important_ratio=ratio)
        assert schedule.visual_tokens == tokens
        assert dict(event(schedule).counts) == {"important": important}


def test_holov_takes_one_number_for_all_crops_of_an_image() -> None:
    assert plan(IMAGE, "holov").visual_tokens == 64
    assert plan(IMAGE, "holov", ratio=0.223).visual_tokens == 128  # int(128.448)
    tiled = plan(TILED, "holov", new_image_token_num=64)
    assert (event(tiled).groups, tiled.visual_tokens) == (1, 64)
    assert dict(event(tiled).counts) == {"patches": 16}


def test_vidcom2_rounds_every_frame() -> None:
    """OneVision: 0.25 · 196 = 49, 0.15 · 196 = 29.4 → 29, 0.002 · 196 → at least one; and the newline token.

    One frame that stands out among 32 takes 0.25 · (2 − 1/32) · 196 = 96.5 → 96, the others
    0.25 · (31/32) · 196 = 47.5 → 47: 96 + 31 · 47 = 1,553. Frames of 14 rows that end in newline tokens (LLaVA-Video)
    keep these: 49 + 14 of 210.
    """
    even = plan(VIDEO, "vidcom2")
    assert even.visual_tokens == 32 * 49 + 1
    assert any("1568 tokens in all; 1553 where one frame stands out" in note for note in even.notes)
    assert plan(VIDEO, "vidcom2", ratio=0.15).visual_tokens == 32 * 29 + 1
    assert plan(VIDEO, "vidcom2", ratio=0.002).visual_tokens == 32 + 1
    rows = {**VIDEO, "model": "llava-video-7b-qwen2", "workload": {"frames": 32, "newline": "row"}}
    assert aimcost.schedule({**rows, "method": {"name": "none"}}).visual_tokens == 32 * 210
    assert plan(rows, "vidcom2").visual_tokens == 32 * (49 + 14)


def test_vidcom2_leaves_images_alone_and_says_so() -> None:
    schedule = plan(IMAGE, "vidcom2")
    assert (schedule.visual_tokens, schedule.events) == (576, ())
    assert schedule.notes[0] == "VidCom2 reduces video alone: all tokens of images stay"


def test_fastervlm_reads_one_row_of_attention() -> None:
    """Fused: q·k over 1,024 elements and softmax, 576 · (2 · 1,024 + 6 · 16). Eager: the mean of 16 heads."""
    assert costs(IMAGE, "fastervlm")["score"]["flops"] == 576 * (2 * 1024 + 6 * 16)
    assert costs({**IMAGE, "implementation": "eager"}, "fastervlm")["score"]["flops"] == 16 * 576


def test_vispruner_compares_the_even_with_the_odd_ones_that_are_left() -> None:
    """64 tokens, 32 by attention: 544 are left, and lose eight a round until 32: 64 rounds of 2 · (R/2)² · 1,024.

    The norms of 576 tokens before (3 an element). R = 33 + 8·i of 65 tokens has an even one more than odd ones.
    """
    rounds = sum(2 * (left // 2) ** 2 * 1024 for left in range(544, 32, -8))
    assert costs(IMAGE, "vispruner", visual_token_num=64)["select"]["flops"] == rounds + 3 * 576 * 1024
    odd = sum(2 * (left // 2) * ((left + 1) // 2) * 1024 for left in range(545, 33, -8))
    assert costs(IMAGE, "vispruner", visual_token_num=64, important_ratio=0.49)["select"]["flops"] == (
        odd + 3 * 576 * 1024
    )
    assert costs(IMAGE, "vispruner", important_ratio=1.0)["select"]["flops"] == 3 * 576 * 1024


def test_cdpruner_prices_the_text_tower_the_kernel_and_every_step() -> None:
    """Score: CLIP's text tower, 12 · (4 · 768² + 2 · 768 · 3,072) + 768² weights at 77 positions, twice; 576 tokens to
    768 elements and against one segment of text; cosine of 576² pairs over 4,096 elements, norms, two scalings.

    Select: 128 steps, the i-th of 2·i·576 + 4 · 576.
    """
    priced = costs(IMAGE, "cdpruner")
    weights = 12 * (4 * 768**2 + 2 * 768 * 3072) + 768**2
    relevance = 2 * 77 * weights + 576 * 768 * (2 * 1024 + 2)
    assert priced["score"]["flops"] == relevance + 2 * 576**2 * 4096 + 3 * 576 * 4096 + 2 * 576**2
    assert priced["select"]["flops"] == sum(2 * i * 576 + 4 * 576 for i in range(128))
    # 100 tokens of text are two segments
    long = costs({**IMAGE, "workload": {"images": 1, "text_tokens": 100}}, "cdpruner")["score"]["flops"]
    assert long - priced["score"]["flops"] == 2 * 77 * weights + 576 * 768 * 2


def test_holov_compares_within_strips() -> None:
    """16 strips of 36 tokens: 2 · 36² · 4,096 each, the norms, 5 a pair and 8 a token, and the attention row."""
    attention = 576 * (2 * 1024 + 6 * 16)
    strips = 16 * 36**2 * (2 * 4096 + 5)
    assert costs(IMAGE, "holov")["score"]["flops"] == attention + strips + 3 * 576 * 4096 + 8 * 576


def test_vidcom2_passes_over_half_of_the_channels() -> None:
    """6,272 tokens of 3,584: 4 an element, 11 for half of them, and 2 · 5 Gaussians of 3 a token."""
    assert costs(VIDEO, "vidcom2")["score"]["flops"] == 6272 * (3584 * 4 + 1792 * 11 + 30)


@pytest.mark.parametrize(
    ("run", "method", "params", "expected"),
    [
        # encode_images and the boolean index: seven operators, one wait
        (IMAGE, "fastervlm", {}, (7, 1)),
        # 10 and 64 rounds of eight; two indices from the host a round
        (IMAGE, "vispruner", {"visual_token_num": 64}, (10 + 64 * 8, 1 + 64 * 2)),
        # 285 and 64 steps of seventeen, the crops of an image together
        (IMAGE, "cdpruner", {"visual_token_num": 64}, (285 + 64 * 17, 4 + 64 * 4)),
        (TILED, "cdpruner", {"visual_token_num": 64}, (285 + 64 * 17, 4 + 64 * 4)),
        # 16 and 16 strips of 29
        (IMAGE, "holov", {}, (16 + 16 * 29, 3 + 16 * 4)),
        # 74 and three a frame; tolist()
        (VIDEO, "vidcom2", {}, (74 + 32 * 3, 1)),
        # 7 and six of each of 56 tokens; nothing is read on the host
        (IMAGE, "divprune", {}, (7 + 56 * 6, 0)),
        (IMAGE, "visionzip", {}, (37, 5)),
        # 39 centres (int(576 · 0.0694)) and the sum of the rest; 143 centres, a grid compared on the host
        (IMAGE, "prumerge", {}, (24 + 39 * 11, 1)),
        (IMAGE, "prumerge_plus", {}, (26 + 143 * 12.5, 2 + 143 * 1.5)),
        # the compressed video of 32 frames, reduced as one
        (VIDEO, "evs", {}, (20, 1)),
    ],
)
def test_released_code_launches(run: dict, method: str, params: dict, expected: tuple[int, int]) -> None:
    assert launches(run, method, **params) == expected
    (scorer,) = {e.scorer for e in plan(run, method, **params).events}
    assert " at " in launches_of(find_scorer(scorer), "eager").counted


def test_a_loop_that_waits_hides_behind_nothing() -> None:
    """CDPruner's 64 steps take their 17 launches and four waits each, however busy the tower keeps the card."""
    run = {**TILED, "estimator": "calibrated", "stack": "llava", "hardware": "nvidia_l4"}
    estimate = aimcost.estimate({**run, "method": {"name": "cdpruner", "visual_token_num": 64}})
    stack = estimate.run.stack
    spent = sum(op["time_s"] for op in estimate.ops() if op["stage"] == "merge" and op["name"] != "score")
    assert spent >= 64 * (17 * stack.host_s.value + 4 * stack.sync_s)


@pytest.mark.parametrize(
    ("method", "params", "found"),
    [
        ("fastervlm", {"visual_token_num": 600}, "tokens of a crop"),
        ("fastervlm", {"visual_token_num": 6, "ratio": 0.5}, "must be omitted when"),
        ("vispruner", {"keep_tokens": 6, "ratio": 0.5}, "must be omitted when"),
        ("vispruner", {"important_ratio": 1.5}, "important_ratio"),
        ("cdpruner", {"visual_token_num": 6, "keep_tokens": 5}, "must be omitted when"),
        ("holov", {"new_image_token_num": 600}, "tokens of an image"),
        ("holov", {"num_patches": 0}, "num_patches"),
        # a strip has a token at least
        ("holov", {"num_patches": 577}, "from 1 to 576"),
        ("vidcom2", {"ratio": 0.0}, "ratio"),
    ],
)
def test_bad_parameters_are_named(method: str, params: dict, found: str) -> None:
    with pytest.raises(InvalidValueError, match=found):
        plan(IMAGE, method, **params)


# LLaVA-NeXT, 1000 x 300: four crops of 576 tokens, 2304 with padding. The best grid is 336 x 1008, three tiles in a
# row: 300 of 336 pixels are the image's, 24 - 2 rows of 72 tokens and a newline each, beside 576 of the whole image.
WIDE = {"model": "llava-next-vicuna-7b", "workload": {"images": 1, "image_size": [1000, 300], "text_tokens": 20}}
UNPADDED = 576 + 22 * (72 + 1)


@pytest.mark.parametrize(
    ("method", "most", "beyond"),
    [
        # round(576 · ratio) of each of four crops: 545 · 4 = 2180 tokens, 546 · 4 = 2184
        ("fastervlm", {"visual_token_num": 545}, {"visual_token_num": 546}),
        ("vispruner", {"ratio": 0.946}, {"ratio": 0.95}),
        ("cdpruner", {"ratio": 0.946}, {"ratio": 0.99}),
        ("visionzip", {"dominant": 535, "contextual": 10}, {"dominant": 536, "contextual": 10}),
    ],
)
def test_crops_with_padding_never_leave_more_than_the_image_has(method: str, most: dict, beyond: dict) -> None:
    """Released code prunes crops before the padding is cut away: near 1 its tokens outnumber the whole image's."""
    assert aimcost.schedule(WIDE).visual_tokens == UNPADDED == 2182
    assert plan(WIDE, method, **most).visual_tokens == 2180
    with pytest.raises(ScheduleError, match="not fewer than the 2182 that the model has without it"):
        plan(WIDE, method, **beyond)
