"""The records in hardware_profiles/measurements: they load, they compare, and they carry the claims."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aimcost.inputs import discover
from aimcost.inputs.files import read_mapping
from aimcost.inputs.hardware import load_hardware
from aimcost.inputs.run import load_run
from aimcost.measure.campaign.plan import is_campaign
from aimcost.measure.campaign.summary import summarise
from aimcost.measure.profile.plan import plan_for
from aimcost.measure.profile.to_calibration import calibration_block, profile_yaml
from aimcost.measure.records import load_record
from aimcost.measure.validate import compare_record
from aimcost.pricing.pricing import estimate_run
from aimcost.types.formats import bytes_per_element

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "hardware_profiles" / "measurements"
FILES = sorted(path for path in FOLDER.rglob("*.json") if not is_campaign(path.parent))
CAMPAIGNS = sorted({path.parent for path in FOLDER.rglob("*.json") if is_campaign(path.parent)})
VALIDATIONS = [path for path in FILES if load_record(path).kind == "validation"]
PROFILES = [path for path in FILES if load_record(path).kind == "profile"]
MEASURED = [(path, path.with_suffix("").with_suffix(".yaml")) for path in PROFILES]
MEASURED += [(folder / "profile.json", file) for folder in CAMPAIGNS for file in folder.glob("*.yaml")]


def name_of(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


def test_there_are_some() -> None:
    assert VALIDATIONS
    assert PROFILES
    assert CAMPAIGNS


@pytest.mark.parametrize("folder", CAMPAIGNS, ids=name_of)
def test_a_campaign_is_summarised_anywhere(folder: Path) -> None:
    found = summarise(folder)
    assert all(check["ok"] for check in found["checks"])
    assert sum(run["printed_ms"] is not None for run in found["runs"]) > 25
    assert found["errors"] or found["steps"][0]["state"] == "failed"  # no profile to predict from


@pytest.mark.parametrize(("name", "bar"), [("nvidia_h200_sxm", 0.16), ("nvidia_h100_sxm", 0.11)])
def test_graphs_were_predicted_before_they_were_measured(name: str, bar: float) -> None:
    """Within what the pages about the cards say, with the shipped card and stack."""
    record = load_record(FOLDER / name / "2026-11-26" / "rows.json")
    card, errors = load_hardware(name), []
    for label, document in record.settings["runs"].items():
        mine = [s for s in record.samples if s.labels["run"] == label and s.op == "prefill"]
        timed = [s for s in mine if s.labels["variant"] == "reduced"]
        if timed and label.endswith("@aimcost_graph"):
            run = replace(load_run(dict(document), {"estimator": "calibrated"}), hardware=card)
            errors.append(estimate_run(run).stages["prefill"].time_s / timed[0].median_s - 1.0)
    assert len(errors) > 18
    assert sum(map(abs, errors)) / len(errors) < bar


def test_a_captured_prefill_holds_what_happens_before_layer_0() -> None:
    """DivPrune's choice takes longer than its prefill, and is replayed with it; called eagerly, it is timed apart."""
    folder = FOLDER / "nvidia_h100_sxm"
    record = load_record(folder / "2026-11-26" / "requests.json")
    runs = {label: run for label, run in record.settings["runs"].items() if label.startswith("divprune@")}
    card = {"profile": read_mapping(folder / "2026-11-26_first" / "nvidia_h100_80gb_hbm3.yaml")}
    points = compare_record(replace(record, settings={**record.settings, **card, "runs": runs})).of("prefill")
    predicted = {(p.run, p.variant): p.predicted_s for p in points}
    for stack, stages in (("transformers", ("prefill",)), ("aimcost_graph", ("merge", "prefill"))):
        priced = estimate_run(load_run(runs[f"divprune@{stack}"], {"hardware": card["profile"]}))
        assert predicted[f"divprune@{stack}", "reduced"] == pytest.approx(sum(priced.stages[s].time_s for s in stages))
        assert predicted[f"divprune@{stack}", "dense"] == pytest.approx(priced.dense.stages["prefill"].time_s)
    assert priced.stages["merge"].time_s > 0.01


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


@pytest.mark.parametrize(("record", "profile"), MEASURED, ids=name_of)
def test_a_profile_is_what_its_record_gives(record: Path, profile: Path) -> None:
    assert profile_yaml(load_record(record), profile.stem) == profile.read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", [file.parent for _, file in MEASURED if is_campaign(file.parent)], ids=name_of)
def test_probes_that_no_model_resembles_widen_no_band(folder: Path) -> None:
    """Two of ten have rows of 4 bytes over a multiple of 16, and take over three times what the grid says."""
    record = load_record(folder / "profile.json")
    assert calibration_block(record)["gemm"]["bf16"]["band"][1] < 1.6
    as_on_a_cpu = replace(record, environment=replace(record.environment, device="cpu"))
    assert calibration_block(as_on_a_cpu)["gemm"]["bf16"]["band"][1] > 3.0
    for plan in (plan_for("cuda", quick=quick) for quick in (False, True)):
        sizes = [size * bytes_per_element(dtype) for dtype in plan.dtypes for _, *nk in plan.probes for size in nk]
        assert sizes
        assert not [size for size in sizes if size % 16]
