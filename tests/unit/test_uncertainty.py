"""Factors of the band: in the measured range, beyond it, and with another card's coefficients."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aimcost
from aimcost.cli.calibrating import inherited_command
from aimcost.errors import CalibrationError, FileFormatError
from aimcost.inputs import discover
from aimcost.inputs.files import read_mapping
from aimcost.inputs.hardware import load_hardware
from aimcost.machine.bands import BandFactors, factors_of
from aimcost.machine.calibration import calibration_of
from aimcost.machine.fitting.aiconfigurator import Timings
from aimcost.machine.fitting.derive import _extrapolation, _far_rows
from aimcost.machine.inheritance import INHERITED_FILE, KINSHIPS, inheritance_note, kinship_of, parent_of, widening
from aimcost.machine.timemodels.tables import Provenance
from aimcost.report.calibration import inherited_text

PROFILES = Path(__file__).parent.parent.parent / "hardware_profiles"
BANDS = json.loads((PROFILES / INHERITED_FILE).read_text(encoding="utf-8"))
MEASURED = [name for name, path in discover.names("hardware").items() if load_hardware(path).calibration]
A100 = "nvidia_a100_sxm_80gb"


def evidence(**given: Any) -> Provenance:
    return Provenance.of({"source": "s", "band": [0.8, 1.5], **given}, where="here")


def test_beyond_the_range_it_is_what_was_measured_there_or_else_the_square() -> None:
    assert factors_of(evidence()) == BandFactors(inside=(0.8, 1.5), beyond=(pytest.approx(0.64), 2.25))
    measured = evidence(extrapolation_band=[0.5, 1.6])
    assert factors_of(measured) == BandFactors(inside=(0.8, 1.5), beyond=(0.5, 1.6))
    assert factors_of((0.5, 2.0)) == BandFactors(inside=(0.5, 2.0), beyond=(0.25, 4.0))


def test_borrowed_and_inherited_coefficients_widen_both() -> None:
    measured = evidence(extrapolation_band=[0.5, 1.6])
    heir = replace(calibration_of(load_hardware(A100)), widen=(0.5, 2.0))
    borrowed = factors_of(measured, borrowed=True)
    assert borrowed.inside == pytest.approx((0.64, 2.25))
    assert borrowed.beyond == pytest.approx((0.25, 2.56))
    inherited = factors_of(measured, heir)
    assert inherited.inside == pytest.approx((0.4, 3.0))
    assert inherited.beyond == pytest.approx((0.25, 3.2))
    # where nothing was measured beyond, the whole band is squared, the widening too
    assert factors_of(evidence(), heir).beyond == pytest.approx((0.16, 9.0))


@pytest.mark.parametrize("band", [[0.9, 1.6], [0.7, 1.4], [0.7], "wide", [0.7, 25.0]])
def test_a_band_beyond_that_cannot_be_is_refused(band: Any) -> None:
    """Tighter than inside at either end, no pair, or no factor."""
    with pytest.raises(CalibrationError, match="extrapolation_band"):
        evidence(extrapolation_band=band)


def test_derived_quantiles_are_never_tighter_than_inside() -> None:
    # eleven ratios 0.5, 0.6, … 1.5 of measured to predicted: the 10th and 90th percentile are 0.6 and 1.4
    far = Timings({"m": np.full(11, 8192.0)}, np.arange(0.5, 1.55, 0.1), "x")
    found = _extrapolation(far, np.ones(11), [0.8, 1.2])
    assert found["extrapolation_band"] == pytest.approx([0.6, 1.4])
    # |1 / ratio − 1|: 1 at 0.5, 2/3 at 0.6, … 1/3 at 1.5
    by_hand = sum(abs(10 / tenths - 1) for tenths in range(5, 16)) / 11
    assert found["extrapolation_mape"] == pytest.approx(by_hand, abs=1e-4)
    assert _extrapolation(far, np.ones(11), [0.3, 1.2])["extrapolation_band"] == pytest.approx([0.3, 1.4])
    assert _extrapolation(far, np.ones(11), [0.8, 1.9])["extrapolation_band"] == pytest.approx([0.6, 1.9])


def test_a_table_without_many_rows_tells_nothing_beyond_it() -> None:
    few = Timings({key: np.array([16.0, 4096.0]) for key in ("m", "n", "k")}, np.array([1e-5, 1e-3]), "x")
    assert _far_rows(few, {"peak": 1e14, "bandwidth": 1e12, "sm_count": 100}, (2.0, 2.0)) is None


@pytest.mark.parametrize("card", MEASURED)
def test_every_shipped_format_says_how_far_it_extrapolates(card: str) -> None:
    block = read_mapping(discover.find("hardware", card))["calibration"]
    checks = {e["what"]: e for e in block["errors"] if e["check"].startswith("m ≥ 8192")}
    for dtype, values in block["gemm"].items():
        assert values["extrapolation_mape"] == checks[f"gemm {dtype}"]["mape"]
        low, high = values["extrapolation_band"]
        assert low <= values["band"][0] < values["band"][1] <= high
        model = calibration_of(load_hardware(card)).gemm[dtype]
        assert model.provenance.extrapolated == (low, high)


def test_an_extrapolated_product_has_its_cards_own_band() -> None:
    """60,000 rows are beyond any table: each product of the prefill is off by what the card's own check says."""
    run = {"model": "qwen2-7b", "workload": {"text_tokens": 60_000}, "execution": "cuda_graph"}
    for card in (A100, "nvidia_rtx_pro_6000_blackwell_server"):
        entry = load_hardware(card).calibration["gemm"]["bf16"]
        found = aimcost.estimate({**run, "hardware": card})
        products = [np.arange(s.start, s.stop) for s in found.table.segments if s.kind == "gemm"]
        beyond = np.concatenate(products)
        beyond = beyond[found.extrapolated[beyond]]
        assert len(beyond) >= 28 * 4
        low, high = entry["extrapolation_band"]
        assert found.band.below[beyond] == pytest.approx((1.0 - low) * found.seconds[beyond])
        assert found.band.above[beyond] == pytest.approx((high - 1.0) * found.seconds[beyond])


@pytest.mark.parametrize(
    ("card", "kinship", "says"),
    [
        ("nvidia_a100_pcie_80gb", "sibling", "wider band"),
        ("nvidia_l4", "sibling", "wider band"),
        ("nvidia_rtx_5090", "sibling", "nvidia_rtx_pro_6000_blackwell_server: wider band"),
        ("nvidia_rtx_3090", "architecture", "no card of its design (ampere 8.6) was measured"),
        ("nvidia_v100_sxm2_16gb", "architecture", "(volta 7.0)"),
        ("nvidia_t4", "architecture", "(turing 7.5)"),
        ("llm_viewer_nvidia_h100", "architecture", "(an unknown architecture)"),
        ("amd_mi300x", "vendor", "no such card of amd was measured, band assumed"),
        ("llm_viewer_intel_13900k", "vendor", "no such card of intel was measured, band assumed"),
    ],
)
def test_how_near_a_card_is_to_the_one_it_inherits_from(card: str, kinship: Any, says: str) -> None:
    hardware = load_hardware(card)
    parent = load_hardware(parent_of(hardware))
    assert kinship_of(hardware, parent) == kinship
    assert says in inheritance_note(hardware, parent)
    assert calibration_of(hardware).widen == widening(parent, kinship) == tuple(BANDS[kinship]["band"])
    notes = aimcost.estimate({"model": "qwen2-7b", "workload": {"text_tokens": 100}, "hardware": card}).notes
    assert inheritance_note(hardware, parent) in notes


def test_an_unknown_maker_is_a_stranger() -> None:
    inline = {"name": "x", "memory_gb_per_s": 1555, "dense_tflops": {"fp16": 312}, "memory_gb": 40}
    hardware = load_hardware(inline)
    assert kinship_of(hardware, load_hardware(parent_of(hardware))) == "vendor"
    named = load_hardware({**inline, "architecture": "hopper"})
    assert kinship_of(named, load_hardware(parent_of(named))) == "sibling"


def test_the_less_alike_the_wider() -> None:
    widths = [BANDS[kinship]["band"][1] / BANDS[kinship]["band"][0] for kinship in KINSHIPS]
    assert widths[0] < widths[1] < widths[2]
    errors = [BANDS[kinship]["mape"] for kinship in KINSHIPS]
    assert errors == sorted(errors)
    for kinship in KINSHIPS:
        for pair in BANDS[kinship]["pairs"]:
            parent, card = (load_hardware(name) for name in pair.split(" → "))
            assert parent.calibration
            assert card.calibration
            # both directions of a transfer between makers would put Intel's coefficients on NVIDIA's cards
            assert (parent.vendor != card.vendor) == (kinship == "vendor")


def test_the_shipped_bands_are_what_the_tables_give() -> None:
    pytest.importorskip("aiconfigurator_core")
    pytest.importorskip("pyarrow")
    pytest.importorskip("scipy")
    from aimcost.machine.fitting.transfer import inherited_bands

    assert inherited_bands() == BANDS


def test_bands_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / INHERITED_FILE).write_text('{"band": [0.7, 1.3]}', encoding="utf-8")
    parent = replace(load_hardware(A100), folder=str(tmp_path))
    with pytest.raises(FileFormatError, match="not a band"):
        widening(parent, "sibling")


def test_calibrate_inherited_says_what_it_needs(cli: Any) -> None:
    done = cli("calibrate", "--inherited", "--from", "aiconfigurator")
    assert done.returncode == 2
    assert "given one of --from, --from-timing, --check, --inherited" in done.stderr


def test_bands_are_written_where_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("aimcost.machine.fitting.transfer.inherited_bands", lambda progress: BANDS)
    output = tmp_path / "bands.json"
    assert inherited_command(output, as_json=False).endswith(f"written: {output}")
    assert output.read_text(encoding="utf-8") == (PROFILES / INHERITED_FILE).read_text(encoding="utf-8")
    assert json.loads(inherited_command(output, as_json=True)) == BANDS


def test_the_table_of_bands() -> None:
    band = {"band": [0.5, 2.0], "mape": 0.25, "pairs": ["a → b", "b → a"]}
    text = inherited_text({**dict.fromkeys(KINSHIPS, band), "source": "tables of x"})
    assert text.count("0.500 – 2.000") == 3
    assert text.count("25.0%") == 3
    assert text.endswith("tables of x")
