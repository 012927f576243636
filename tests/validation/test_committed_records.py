"""The records in hardware_profiles/measurements: they load, they compare, and they carry the claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from aimcost.inputs import discover
from aimcost.measure.profile.to_calibration import profile_yaml
from aimcost.measure.records import load_record
from aimcost.measure.validate import compare_record

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "hardware_profiles" / "measurements"
FILES = sorted(FOLDER.rglob("*.json"))
VALIDATIONS = [path for path in FILES if load_record(path).kind == "validation"]
PROFILES = [path for path in FILES if load_record(path).kind == "profile"]


def name_of(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


def test_there_are_some() -> None:
    assert VALIDATIONS
    assert PROFILES


def test_they_are_not_found_as_profiles_or_runs() -> None:
    known = [path for kind in discover.KINDS for path in discover.names(kind).values()]
    assert known
    assert not [path for path in known if "measurements" in path.parts]


@pytest.mark.parametrize("path", VALIDATIONS, ids=name_of)
def test_a_record_compares_and_is_on_the_page(path: Path) -> None:
    comparison = compare_record(load_record(path), where=path.name)
    assert comparison.record.complete
    assert comparison.held_out.clean
    page = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
    assert path.relative_to(ROOT).as_posix() in page
    errors = comparison.prefill
    assert f"prefill MAPE {errors.mape:.1%} over {errors.count}, worst {errors.worst:+.1%}" in page


@pytest.mark.parametrize("path", [p for p in VALIDATIONS if "cpu" in p.stem or "epyc" in str(p)], ids=name_of)
def test_the_cpu_claim_holds_for_its_record(path: Path) -> None:
    comparison = compare_record(load_record(path), where=path.name)
    assert comparison.prefill.mape <= 0.05
    assert comparison.errors["layer"].mape <= 0.06
    assert {point.dtype for point in comparison.of("prefill")} == {"fp32", "bf16"}
    assert all(abs(speedup.error) <= 0.05 for speedup in comparison.speedups)


@pytest.mark.parametrize("path", PROFILES, ids=name_of)
def test_a_profile_is_what_its_record_gives(path: Path) -> None:
    kept = path.with_suffix("").with_suffix(".yaml")
    assert profile_yaml(load_record(path), kept.stem) == kept.read_text(encoding="utf-8")
