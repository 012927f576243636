"""A record joined to its estimates: errors that can be worked out by hand, and damaged records refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aimcost import estimate
from aimcost.errors import AimcostError, FileFormatError
from aimcost.inputs.files import write_atomically
from aimcost.measure.records import Record, Sample, load_record
from aimcost.measure.validate import compare_record
from aimcost.report.validation import validation_text

Make = Callable[..., Record]


def sample(op: str, variant: str, *seconds: float, name: str = "", **dims: float) -> Sample:
    return Sample(
        op=op,
        name=name,
        dims=dims,
        dtype="fp32",
        samples_s=seconds,
        clock="thread_cpu",
        labels={"variant": variant, "run": "tiny"},
    )


@pytest.fixture(scope="module")
def predicted(document: dict[str, Any], profile: dict[str, Any]) -> dict[str, Any]:
    """What `aimcost.estimate` says of both variants, in its JSON form."""
    dense = {**document, "method": {"name": "none"}}
    return {
        name: estimate({**run, "hardware": profile, "estimator": "calibrated"}).to_dict()
        for name, run in (("dense", dense), ("reduced", document))
    }


def prefill_of(predicted: dict[str, Any], variant: str) -> float:
    return float(predicted[variant]["stages"]["prefill"]["time_s"])


@pytest.fixture(scope="module")
def measured(make_record: Make, predicted: dict[str, Any]) -> Record:
    """Measured: dense as predicted, reduced 25 % slower than predicted, layer 3 half as fast."""
    dense, reduced = (prefill_of(predicted, name) for name in ("dense", "reduced"))
    layer = predicted["reduced"]["layers"][3]["time_s"]
    return make_record(
        sample("prefill", "dense", dense, dense * 1.02, dense * 0.98, tokens=60),
        sample("prefill", "reduced", *[1.25 * reduced] * 3, tokens=60),
        sample("layer", "reduced", 2 * layer, layer=3, tokens=40),
    )


def test_errors_are_predicted_over_measured(measured: Record) -> None:
    comparison = compare_record(measured)
    errors = {(p.part, p.variant): p.error for p in comparison.points}
    assert errors == {
        ("prefill", "dense"): pytest.approx(0.0, abs=1e-12),
        ("prefill", "reduced"): pytest.approx(1 / 1.25 - 1),
        ("layer", "reduced"): pytest.approx(-0.5),
    }
    assert comparison.prefill.mape == pytest.approx(0.1)
    assert comparison.prefill.worst == pytest.approx(-0.2)
    assert comparison.prefill.bias == pytest.approx(-0.1)


def test_the_band_is_the_estimates_own(measured: Record, predicted: dict[str, Any]) -> None:
    dense = next(p for p in compare_record(measured).of("prefill") if p.variant == "dense")
    totals = predicted["dense"]["totals"]
    assert (dense.low_s, dense.high_s) == (totals["time_low_s"], totals["time_high_s"])
    # 25 % slower lies above a band that ends at 20 %
    assert [p.in_band for p in compare_record(measured).of("prefill")] == [True, False]
    assert compare_record(measured).prefill.coverage == 0.5


def test_the_speedup_compares_passes_that_lay_side_by_side(measured: Record, predicted: dict[str, Any]) -> None:
    (speedup,) = compare_record(measured).speedups
    ratio = prefill_of(predicted, "dense") / prefill_of(predicted, "reduced")
    assert speedup.predicted == pytest.approx(ratio)
    assert speedup.measured == pytest.approx(ratio / 1.25)
    assert speedup.error == pytest.approx(0.25)


def test_a_machine_that_slows_down_half_way_does_not_move_the_speedup(make_record: Make) -> None:
    slow = make_record(
        sample("prefill", "dense", 2.0, 2.0, 6.0, 6.0, tokens=60),
        sample("prefill", "reduced", 1.0, 1.0, 3.0, 3.0, tokens=60),
    )
    assert compare_record(slow).speedups[0].measured == 2.0
    assert compare_record(slow).disturbed


def test_rounds_are_joined(make_record: Make, measured: Record) -> None:
    dense = measured.samples[0]
    halves = [replace(dense, samples_s=part) for part in (dense.samples_s[:1], dense.samples_s[1:])]
    joined = compare_record(replace(measured, samples=(*halves, *measured.samples[1:])))
    assert joined.to_dict() == compare_record(measured).to_dict()


def test_parts_of_a_prefill_add_up(make_record: Make, predicted: dict[str, Any]) -> None:
    """Groups and selection are predicted from disjoint rows that make up the layers."""
    names = ("projections", "attention", "mlp", "norms", "rest")
    record = make_record(
        sample("prefill", "reduced", 1.0, tokens=60),
        *(sample("group", "reduced", 1.0, name=name) for name in names),
        sample("selection", "reduced", 1.0, layer=1, tokens=60, tokens_out=40),
        *(sample("layer", "reduced", 1.0, layer=index, tokens=60) for index in range(4)),
    )
    comparison = compare_record(record)
    parts = sum(p.predicted_s for p in comparison.points if p.part in ("group", "selection"))
    layers = sum(p.predicted_s for p in comparison.of("layer"))
    assert parts == pytest.approx(layers)
    assert layers == pytest.approx(sum(layer["time_s"] for layer in predicted["reduced"]["layers"]))


def test_decode_is_priced_for_the_steps_that_were_timed(
    make_record: Make, document: dict[str, Any], profile: dict[str, Any]
) -> None:
    timed = make_record(sample("prefill", "dense", 1.0, tokens=60), sample("decode", "dense", 1.0, steps=3))
    (point,) = compare_record(timed).of("decode")
    run = {**document, "method": {"name": "none"}, "workload": {**document["workload"], "new_tokens": 4}}
    stage = estimate({**run, "hardware": profile}).to_dict()["stages"]["decode"]
    assert stage["steps"] == 3
    assert point.predicted_s == pytest.approx(stage["tpot_s"])


def test_shapes_that_the_profile_measured_are_named(
    measured: Record, document: dict[str, Any], profile: dict[str, Any]
) -> None:
    assert compare_record(measured).held_out.clean
    assert "held out: none of" in validation_text(compare_record(measured))
    # q_proj of the dense prefill: 60 rows, 64 inputs, 64 outputs
    gemm = profile["calibration"]["gemm"]["fp32"]
    seen = {**gemm, "m": [1.0, 60.0, 300.0], "n": [10.0, 64.0], "k": [20.0, 64.0]}
    calibration = {**profile["calibration"], "gemm": {"fp32": seen}}
    record = replace(measured, settings={**measured.settings, "profile": {**profile, "calibration": calibration}})
    comparison = compare_record(record)
    assert (60.0, 64.0, 64.0) in comparison.held_out.seen_products
    assert "NOT held out" in validation_text(comparison)


def test_the_file_gives_the_same_digits(measured: Record, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, measured.to_json())
    now, later = compare_record(measured), compare_record(load_record(path))
    assert json.dumps(now.to_dict()) == json.dumps(later.to_dict())
    assert validation_text(now) == validation_text(later)


def test_an_unfinished_record_says_so(measured: Record) -> None:
    comparison = compare_record(replace(measured, finished=None))
    assert any("cut short" in note for note in comparison.notes)
    assert "cut short" in validation_text(comparison)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "profile"}, "'kind' must be validation"),
        ({"settings": {}}, "'settings.runs' must hold"),
        ({"samples": ()}, "holds no timed prefill"),
    ],
)
def test_records_that_cannot_be_compared_are_refused(measured: Record, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(FileFormatError, match=says):
        compare_record(replace(measured, **changes))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("profile", None, "'settings.profile' must hold"),
        ("profile", {"name": "x"}, "memory_gb_per_s"),
        ("profile", {"name": "x", "memory_gb_per_s": 1.0, "dense_tflops": {"fp32": 1.0}, "calibration": 7}, "calibra"),
        ("runs", {"tiny": {"model": "nobody-knows-it"}}, "unknown model"),
        ("runs", {"tiny": {"modle": {}}}, "modle"),
        ("runs", [], "run documents by label"),
    ],
)
def test_damaged_settings_are_refused_in_one_line(measured: Record, key: str, value: Any, says: str) -> None:
    record = replace(measured, settings={**measured.settings, key: value})
    with pytest.raises(AimcostError, match=says) as caught:
        compare_record(record, where="r.json")
    assert "r.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["gemm", "attention", "bandwidth"])
@pytest.mark.parametrize("value", [5, [1], {"fp32": 5, "pointwise": 5}, {"default": "sdpa", "sdpa": {"16": 3}}])
def test_deep_damage_is_one_line_too(measured: Record, profile: dict[str, Any], section: str, value: Any) -> None:
    if section == "attention" and "fp32" in (value if isinstance(value, dict) else {}):
        pytest.skip("attention without a default kernel is a profile without attention, no damage")
    calibration = {**profile["calibration"], section: value}
    settings = {**measured.settings, "profile": {**profile, "calibration": calibration}}
    with pytest.raises(AimcostError, match=r"^r\.json: [^\n]*$"):
        compare_record(replace(measured, settings=settings), where="r.json")


def test_the_command_refuses_broken_files(cli: Any, measured: Record, tmp_path: Path) -> None:
    good = tmp_path / "good.json"
    write_atomically(good, measured.to_json())
    text = good.read_text(encoding="utf-8")
    for name, content in (("cut", text[: len(text) // 2]), ("empty", ""), ("list", "[]"), ("nan", "NaN")):
        (tmp_path / f"{name}.json").write_text(content, encoding="utf-8")
        done = cli("validate", "--from-record", f"{name}.json")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("aimcost: ")
        assert len(done.stderr.splitlines()) == 1
    done = cli("validate", "--from-record", "good.json", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == compare_record(measured).to_dict()


def test_the_offline_comparison_loads_no_torch(measured: Record, tmp_path: Path, cli: Any) -> None:
    import subprocess
    import sys

    path = tmp_path / "record.json"
    write_atomically(path, measured.to_json())
    code = (
        "import sys; sys.argv = ['aimcost', 'validate', '--from-record', sys.argv[1]]\n"
        "from aimcost.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_picture_is_drawn(measured: Record, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from aimcost.report.validation_plot import draw_validation

    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        path = tmp_path / f"plot{suffix}"
        draw_validation(compare_record(measured), path)
        assert path.read_bytes().startswith(start)
    with pytest.raises(AimcostError, match=r"\.png, \.svg, \.pdf"):
        draw_validation(compare_record(measured), tmp_path / "plot.txt")
