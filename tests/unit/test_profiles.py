"""Hardware profiles: every number has a source, and siblings of a card differ from it where their makers say."""

from __future__ import annotations

import pytest
import yaml

import aimcost
from aimcost.inputs import discover
from aimcost.inputs.hardware import load_hardware
from aimcost.inputs.stack import ARCHITECTURES

# what no datasheet prints, or what names the card
_WITHOUT = {"name", "vendor", "architecture", "hidden", "sources", "notes", "attained", "calibration", "price_per_hour"}
PROFILES = sorted((discover.own_root() / "hardware_profiles").glob("*.yaml"))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_number_has_a_source(path) -> None:
    profile = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(profile) - _WITHOUT <= set(profile["sources"])


def test_stacks_know_the_architectures_of_all_profiles() -> None:
    found = {yaml.safe_load(path.read_text(encoding="utf-8")).get("architecture", "") for path in PROFILES}
    assert found - {""} <= set(ARCHITECTURES)


@pytest.mark.parametrize(("card", "parent"), [("h800_sxm", "h100_sxm"), ("a800_sxm_80gb", "a100_sxm_80gb")])
def test_an_export_card_is_its_sibling_with_less_nvlink(card: str, parent: str) -> None:
    """H800 and A800: 400 GB/s of NVLink in place of 900 and 600; 16-bit peaks and memory as they were."""
    less, full = load_hardware(f"nvidia_{card}"), load_hardware(f"nvidia_{parent}")
    assert less.interconnect_bytes_per_s == 400e9 < full.interconnect_bytes_per_s
    assert less.dense_flops_per_s["bf16"] == full.dense_flops_per_s["bf16"]
    assert (less.memory_bytes_per_s, less.memory_bytes) == (full.memory_bytes_per_s, full.memory_bytes)


def test_peaks_follow_from_cores_and_clock() -> None:
    """RTX 2080 Ti: 68 SMs of 8 tensor cores, 64 multiply-adds each, halved where FP16 accumulates in FP32; 1545 MHz.

    M1 Max: 32 cores of 128 ALUs, two FLOPs each, at the 1.27 GHz behind Apple's 10.4 TFLOPS.
    """
    turing, apple = load_hardware("nvidia_rtx_2080_ti"), load_hardware("apple_m1_max")
    assert turing.dense_flops_per_s["fp16"] == pytest.approx(68 * 8 * 64 * 2 * 1.545e9 / 2, rel=2e-3)
    assert apple.dense_flops_per_s["fp32"] == pytest.approx(32 * 128 * 2 * 1.27e9, rel=2e-3)
    run = {"model": "llava-1.5-7b", "workload": {"images": 1}, "hardware": "apple_m1_max"}
    low, high = aimcost.estimate(run).ttft_band_s
    assert high > 1.5 * low  # lent across vendors
