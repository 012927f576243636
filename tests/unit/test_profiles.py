"""Hardware profiles: every number has a source, and siblings of a card differ from it where their makers say."""

from __future__ import annotations

import pytest
import yaml

import aimcost
from aimcost.errors import InvalidValueError, UnknownNameError
from aimcost.inputs import discover
from aimcost.inputs.hardware import load_hardware
from aimcost.inputs.stack import ARCHITECTURES
from aimcost.report.text import estimate_text

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
    # M2: 1398 MHz behind Apple's 3.6 TFLOPS of ten cores; a card of 38 or 76 cores has 3.8 and 7.6 times as much
    for name, cores in (("apple_m2", 10), ("apple_m2_max", 38), ("apple_m2_ultra", 76)):
        assert load_hardware(name).dense_flops_per_s["fp32"] == pytest.approx(cores * 128 * 2 * 1.398e9, rel=2e-3)
    # Ascend 910B: a cube unit multiplies 16 x 16 by 16 x 16 a cycle, at the 1.91 GHz that both parts' figures share
    for name, cores in (("huawei_ascend_910b2", 24), ("huawei_ascend_910b3", 20)):
        assert load_hardware(name).dense_flops_per_s["bf16"] == pytest.approx(cores * 16**3 * 2 * 1.911e9, rel=2e-3)
    for card in ("apple_m1_max", "huawei_ascend_910b2"):
        run = {"model": "llava-1.5-7b", "workload": {"images": 1}, "hardware": card}
        low, high = aimcost.estimate(run).ttft_band_s
        assert high > 1.5 * low  # lent across vendors


@pytest.mark.parametrize(("card", "share"), [("m2", 2 / 3), ("m4", 2 / 3), ("m2_max", 0.75), ("m3_ultra", 0.75)])
def test_unified_memory_is_usable_in_part_and_said_to_be_assumed(card: str, share: float) -> None:
    """macOS lends the GPU two thirds of up to 36 GB, and three quarters of more."""
    spec = load_hardware(f"apple_{card}")
    assert spec.usable_memory_bytes == pytest.approx(share * spec.memory_bytes, rel=1e-3)
    run = {"model": "qwen2-0.5b", "workload": {"text_tokens": 10}, "hardware": spec.name}
    assert "assumed" in estimate_text(aimcost.estimate(run))


def test_apple_gpus_price_neither_graphs_nor_several_devices() -> None:
    run = {"model": "qwen2-0.5b", "workload": {"text_tokens": 10}, "hardware": "apple_m4_max"}
    for stack in ("vllm", "torch_compile", "tensorrt_llm", "aimcost_graph"):
        with pytest.raises(InvalidValueError, match="without captured graphs, which apple_m4_max does not run"):
            aimcost.estimate(run, stack=stack)
    # an estimator that prices no stack ignores it with a note
    assert aimcost.estimate(run, stack="vllm", estimator="roofline").notes
    with pytest.raises(InvalidValueError, match="interconnect_gb_per_s"):
        aimcost.estimate(run, parallel={"tp": 2})


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        *[("A100", "nvidia_a100_sxm_80gb"), ("H800", "nvidia_h800_sxm"), ("2080 Ti", "nvidia_rtx_2080_ti")],
        *[("910B", "huawei_ascend_910b2"), ("Ascend", "huawei_ascend_910b2")],
        *[("M4", "apple_m4"), ("M2 Ultra", "apple_m2_ultra"), ("m3 max", "apple_m3_max")],
    ],
)
def test_a_name_as_people_write_it_finds_the_profile(typed: str, first: str) -> None:
    """A100 lists the measured card first."""
    with pytest.raises(UnknownNameError, match=rf"did you mean '{first}'"):
        load_hardware(typed)
