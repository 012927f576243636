"""CPU work on images: priced from timings of the real processors, beside the totals unless asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import aimcost
from aimcost.inputs.preprocessing import processor_of

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = yaml.safe_load((ROOT / "configs" / "preprocess" / "amd_epyc.yaml").read_text(encoding="utf-8"))
SERVED = {
    "model": "qwen2.5-vl-7b",
    "workload": {"images": 1, "image_size": [1920, 1080], "text_tokens": 20},
    "hardware": "nvidia_h100_sxm",
    "stack": "vllm",
}


def note(estimate: aimcost.Estimate) -> str:
    (only,) = [text for text in estimate.notes if text.startswith("preprocess")]
    return only


def with_workload(**workload: Any) -> dict[str, Any]:
    return {**SERVED, "workload": {"text_tokens": 20, **workload}}


def test_a_picture_costs_by_its_pixels_and_by_those_that_the_tower_gets() -> None:
    """1920 x 1080 becomes 1932 x 1092, the nearest multiples of 28: 2.0736 and 2.1097 megapixels."""
    estimate = aimcost.estimate(SERVED)
    figures = FILE["families"]["qwen2_5_vl"]["images"]
    expected = 1e-3 * (
        figures["each"] + figures["per_megapixel"] * 2.0736 + figures["per_tower_megapixel"] * 1932 * 1092 / 1e6
    )
    assert estimate.stages["preprocess"].time_s == pytest.approx(expected)
    assert estimate.stages["preprocess"].flops == estimate.stages["preprocess"].bytes == 0
    assert estimate.to_dict()["stages"]["preprocess"]["time_s"] == pytest.approx(expected)
    # a batch of requests is processed one after another
    batch = aimcost.estimate({**SERVED, "workload": {**SERVED["workload"], "batch": 3}})
    assert batch.stages["preprocess"].time_s == pytest.approx(3 * expected)


def test_it_is_left_out_unless_asked_for_and_the_note_says_how_much() -> None:
    default = aimcost.estimate(SERVED)
    stages = [*default.included, "preprocess"]
    asked = aimcost.estimate({**SERVED, "include": stages})
    spent = default.stages["preprocess"].time_s
    assert "preprocess" not in default.included
    assert asked.ttft_s == pytest.approx(default.ttft_s + spent)
    assert asked.totals.time_s == pytest.approx(default.totals.time_s + spent)
    assert note(default).startswith("preprocess (not included)")
    assert note(asked).startswith("preprocess (included)")
    assert FILE["machine"] in note(default)


def test_the_band_is_that_of_another_machines_cpu() -> None:
    """The fit's worst ratios, times the half and two and a half times that another CPU may take."""
    for family, both in FILE["families"].items():
        processor, figures = processor_of(family, frames=False), both["images"]
        assert processor is not None
        assert processor.low == pytest.approx(figures["band"][0] * FILE["other_machine"][0])
        assert processor.high == pytest.approx(figures["band"][1] * FILE["other_machine"][1])
    estimate = aimcost.estimate({**SERVED, "include": ["preprocess"]})
    processor = processor_of("qwen2_5_vl", frames=False)
    assert processor is not None
    (row,) = (s.start for s in estimate.table.segments if s.stage == "preprocess")
    band, value = estimate.band, estimate.totals.time_s
    assert band is not None
    assert band.seconds[row] - band.below[row] == pytest.approx(processor.low * value)
    assert band.seconds[row] + band.above[row] == pytest.approx(processor.high * value)
    assert estimate.totals.time_low_s < 0.6 * value
    assert estimate.totals.time_high_s is not None
    assert estimate.totals.time_high_s > 2.3 * value


@pytest.mark.parametrize(
    ("model", "workload", "reason"),
    [
        ("qwen2.5-vl-7b", {"frames": 16}, "no processor of qwen2_5_vl frames was timed"),
        ("qwen-vl-chat", {"images": 1}, "no processor of qwen images was timed"),
    ],
)
def test_a_family_that_was_not_timed_is_not_priced_and_says_so(model: str, workload: dict, reason: str) -> None:
    estimate = aimcost.estimate({**with_workload(**workload), "model": model})
    assert estimate.stages["preprocess"].time_s == 0
    assert note(estimate) == f"preprocess: not priced ({reason})"


def test_text_alone_has_none() -> None:
    estimate = aimcost.estimate(with_workload())
    assert estimate.stages["preprocess"].time_s == 0
    assert not [text for text in estimate.notes if text.startswith("preprocess")]


def test_frames_are_processed_one_by_one_at_an_assumed_size() -> None:
    """LLaVA-OneVision's tower takes 384 x 384 of any frame; 1280 x 720 is assumed where the run does not say."""
    run = {**with_workload(frames=32), "model": "llava-onevision-qwen2-7b"}
    estimate = aimcost.estimate(run)
    figures = FILE["families"]["llava_onevision"]["frames"]
    expected = 32e-3 * (figures["each"] + figures["per_megapixel"] * 0.9216)
    assert figures["per_tower_megapixel"] == 0
    assert estimate.stages["preprocess"].time_s == pytest.approx(expected)
    assert "frames of 1280 x 720 assumed" in note(estimate)


def test_pictures_of_several_sizes_add_up() -> None:
    sizes = [[1920, 1080], [640, 480]]
    both = aimcost.estimate(with_workload(image_size=sizes)).stages["preprocess"].time_s
    alone = [aimcost.estimate(with_workload(images=1, image_size=s)).stages["preprocess"].time_s for s in sizes]
    assert both == pytest.approx(sum(alone))


def test_the_file_names_machine_date_versions_and_method() -> None:
    assert all(FILE[key] for key in ("machine", "date", "versions", "source"))
    assert {"llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"} <= FILE["families"].keys()
