"""What the commands print and refuse, beyond what they compute."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

import aimcost
from aimcost.cli.listing import describe
from aimcost.errors import InvalidValueError
from aimcost.inputs import discover

DECODING = ["--model", "llava-onevision-qwen2-7b", "--frames", "2", "--method", "aim", "--new-tokens", "5"]
A100 = "nvidia_a100_sxm_80gb"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["estimate", *DECODING, "--hardware", A100, "--csv", "--json"], "'--csv' must be given without --json"),
        (["estimate", *DECODING, "--hardware", A100, "--csv", "--layers", "--ops"], "'--layers' must be given without"),
        (["compare", *DECODING, "--hardware", A100, "--csv", "--json"], "'--csv' must be given without --json"),
        (["plan", "llava_onevision_aim_a100", "--ttft-ms", "9", "--csv", "--json"], "'--csv' must be given without"),
    ],
)
def test_no_flag_is_dropped_in_silence(cli: Any, flags: list[str], named: str) -> None:
    done = cli(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"aimcost: {named}")
    assert done.stderr.count("\n") == 1


def test_a_run_that_decodes_shows_the_gain_and_the_band_of_a_step(cli: Any) -> None:
    text = cli("estimate", *DECODING, "--hardware", A100, "--set", "include=[decode]").stdout
    assert "to first token" not in text
    assert "LLM prefill alone" not in text
    assert "per output token" in text
    (line,) = (line for line in text.splitlines() if line.startswith("time per output token"))
    assert "80 % band" in line
    assert "memory covers the whole request" in text


def test_compare_takes_a_run_from_flags_alone(cli: Any) -> None:
    flags = ["--hardware", f"{A100},nvidia_h100_sxm", *DECODING]
    rows = json.loads(cli("compare", *flags, "--json").stdout)
    assert [row["hardware"] for row in rows] == ["nvidia_h100_sxm", A100]
    run = {"model": DECODING[1], "workload": {"frames": 2, "new_tokens": 5}, "method": {"name": "aim"}}
    alone = aimcost.estimate(run, hardware=A100)
    assert rows[1]["tpot_s"] == alone.stages["decode"].tpot_s
    assert (rows[1]["tpot_low_s"], rows[1]["tpot_high_s"]) == alone.tpot_band_s
    assert "TPOT" in cli("compare", *flags).stdout
    twice = json.loads(cli("compare", *flags, "--tp", "2", "--json").stdout)
    assert twice[1]["flops"] < 0.8 * rows[1]["flops"]  # the tower is not sharded


def test_without_decode_there_is_no_tpot(cli: Any) -> None:
    flags = ["compare", "--model", "qwen2-7b", "--text-tokens", "50", "--hardware", A100]
    (row,) = json.loads(cli(*flags, "--json").stdout)
    assert row["tpot_s"] is row["tpot_low_s"] is row["tpot_high_s"] is None
    assert "TPOT" not in cli(*flags).stdout
    (line,) = csv.DictReader(io.StringIO(cli(*flags, "--csv").stdout))
    assert line["tpot_s"] == ""
    assert not line["notes"].startswith("[")


@pytest.mark.parametrize(
    ("workload", "note"),
    [
        ({"images": 1}, "a single image or frame has no predecessor"),
        ({"frames": 1}, "a single image or frame has no predecessor"),
        ({"images": 3}, "as if they were frames"),
        ({"frames": 3}, None),
        ({"frames": 2, "model": "qwen2.5-vl-7b", "image_size": [640, 480]}, "the 2 frames share one temporal patch"),
    ],
)
def test_evs_says_where_it_has_nothing_to_compare(workload: dict[str, Any], note: str | None) -> None:
    seen = {key: value for key, value in workload.items() if key != "model"}
    model = workload.get("model", "llava-onevision-qwen2-7b")
    notes = aimcost.schedule({"model": model, "workload": seen, "method": {"name": "evs"}}).notes
    about = [said for said in notes if "EVS" in said]
    assert len(about) == (note is not None)
    assert all(note in said for said in about)


def test_parameters_are_told_in_words(cli: Any) -> None:
    text = cli("show", "pyramiddrop").stdout
    assert "ratios: list of number at least 0 and at most 1; default [0.5, 0.25, 0.125]" in text
    assert "; required" in describe("explicit")
    for name in discover.method_names():
        assert "FieldInfo" not in describe(name)


def test_evs_asks_for_frames() -> None:
    run = {"model": "qwen2-7b", "workload": {"visual_tokens": 5000}, "method": "evs"}
    with pytest.raises(InvalidValueError, match=r"workload\.frames"):
        aimcost.schedule(run)


def test_a_method_may_be_a_name_alone(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        f"model: llava-1.5-7b\nworkload: {{images: 1}}\nmethod: fastv\nhardware: {A100}\n", encoding="utf-8"
    )
    alone, spelt = (
        json.loads(cli("estimate", "run.yaml", *flags, "--json").stdout)
        for flags in ([], ["--set", "method={name: fastv}"])
    )
    assert alone == spelt
    assert {"type": "string"} in json.loads(cli("schema").stdout)["run"]["properties"]["method"]["anyOf"]
    assert cli("estimate", "run.yaml", "--set", "method=3").stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("setting", "estimator"),
    [("include=[]", "calibrated"), ("include=[decode]", "calibrated"), ("include=[vision]", "llm_viewer")],
)
def test_a_run_that_includes_nothing_says_so(cli: Any, setting: str, estimator: str) -> None:
    run = ["--model", "llava-1.5-7b", "--images", "1", "--hardware", A100]
    done = cli("estimate", *run, "--estimator", estimator, "--set", setting)
    assert done.returncode == 0, done.stderr
    assert f"nothing to price: `include` leaves out every stage that {estimator} prices" in done.stdout


def test_machines_are_compared_by_what_leads_to_a_token(cli: Any) -> None:
    flags = ["compare", "--model", "llava-1.5-7b", "--images", "1", "--new-tokens", "9", "--hardware", A100]
    done = cli(*flags, "--set", "include=[decode]")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'include' must be at least one stage before decode" in done.stderr
    text = cli(*flags, "--estimator", "llm_viewer").stdout
    assert "language model alone" in text
    assert "lower bound" not in text
    assert "lower bound" in cli(*flags, "--estimator", "roofline").stdout


def test_a_format_without_units_takes_the_efficiencies_it_is_computed_with() -> None:
    """An A100 computes fp8 at its bf16 peak: a large product takes as long as in bf16."""
    run = {"model": "llava-1.5-7b", "workload": {"text_tokens": 4096}, "hardware": A100}
    narrow, wide = aimcost.estimate(run, precision={"weights": "fp8", "activations": "fp8"}), aimcost.estimate(run)
    assert any("has no fp8 peak: computed at bf16" in note for note in narrow.notes)
    assert not any("measured in int8" in note for note in narrow.notes)
    of = [next(op["time_s"] for op in each.ops() if op["name"] == "up_proj") for each in (narrow, wide)]
    assert of[0] == pytest.approx(of[1], rel=0.02)


def test_operations_of_decode_are_told_by_the_run(cli: Any) -> None:
    flags = ["--model", "llava-1.5-7b", "--text-tokens", "40", "--new-tokens", "5", "--hardware", A100]
    lines = cli("estimate", *flags, "--ops").stdout.splitlines()
    (line,) = (line for line in lines if line.startswith("decode") and " q_proj " in line)
    ops = json.loads(cli("estimate", *flags, "--json").stdout)["ops"]
    took = [op["time_s"] for op in ops if (op["stage"], op["name"]) == ("decode", "q_proj")]
    assert line.split()[2] == str(32 * 4)
    assert f"{max(took) / 4 * 1e6:.2f} µs" in line or f"{max(took) / 4 * 1e6:.1f} µs" in line


def test_pipelines_say_whose_memory_it_is() -> None:
    run = {"model": "llava-1.5-7b", "workload": {"text_tokens": 40}, "hardware": A100, "parallel": {"pp": 4}}
    assert any("fullest device" in note for note in aimcost.estimate(run).notes)


def test_alone_the_command_prints_its_help(cli: Any) -> None:
    done = cli()
    assert done.returncode == 2
    assert done.stderr == ""
    assert done.stdout.count("\n") > 15


def test_help_fits_a_terminal_of_80_columns(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No summary is cut short with dots, and no line is wider than the terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    listed = cli("--help").stdout
    commands = listed[listed.index("Commands:") :].splitlines()[1:]
    assert len(commands) >= 17
    assert not [line for line in commands if line.endswith("...")]
    for name in (line.split()[0] for line in commands):
        text = cli(name, "--help").stdout
        assert text.startswith("Usage: ")
        assert max(map(len, text.splitlines())) <= 80, name
