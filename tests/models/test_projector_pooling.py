"""Pooling: interpolation is a walk along grids and channels, averaging is not."""

from __future__ import annotations

from typing import Any

import pytest

import aimcost

ONEVISION = "llava-onevision-qwen2-7b"


def seconds(model: str, stack: str = "transformers", hardware: str = "nvidia_h200_sxm", **workload: Any) -> float:
    run = {"model": model, "hardware": hardware, "workload": {"text_tokens": 60, **workload}, "stack": stack}
    ops = aimcost.estimate(run).to_dict()["ops"]
    return float(next(op["time_s"] for op in ops if op["name"] == "pool"))


def test_a_video_is_interpolated_frame_by_frame() -> None:
    """47.2 and 46.2 ms of 32 frames on two H200s: hardware_profiles/measurements/nvidia_h200_sxm."""
    assert seconds(ONEVISION, frames=32) == pytest.approx(0.0467, rel=0.03)
    assert seconds(ONEVISION, frames=64) == pytest.approx(2 * seconds(ONEVISION, frames=32), rel=0.01)


def test_an_image_is_put_together_from_its_tiles_first() -> None:
    """As much as a frame: 23 tiles' worth of tokens, one grid."""
    assert seconds(ONEVISION, images=1, image_size=[2304, 2304]) == pytest.approx(seconds(ONEVISION, frames=1), rel=0.2)


@pytest.mark.parametrize(
    ("model", "stack"), [("longva-7b", "transformers"), (ONEVISION, "vllm"), (ONEVISION, "torch_compile")]
)
def test_averages_and_other_stacks_have_a_thread_for_each_output(model: str, stack: str) -> None:
    assert seconds(model, stack, frames=32) < 1e-3


def test_other_vendors_kernels_are_not_known() -> None:
    assert seconds(ONEVISION, hardware="amd_mi300x", frames=32) < 1e-3
