"""What the commands print and refuse, beyond what they compute."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

import aimcost
from aimcost import discover

DECODING = ["--model", "llava-onevision-qwen2-7b", "--frames", "2", "--method", "aim", "--new-tokens", "5"]
A100 = "nvidia_a100_sxm_80gb"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["estimate", *DECODING, "--hardware", A100, "--csv", "--json"], "--csv --json"),
        (["estimate", *DECODING, "--hardware", A100, "--csv", "--layers", "--ops"], "--layers --ops"),
        (["compare", *DECODING, "--hardware", A100, "--csv", "--json"], "--csv --json"),
        (["plan", "llava_onevision_aim_a100", "--ttft-ms", "9", "--csv", "--json"], "--csv --json"),
    ],
)
def test_no_flag_is_dropped_in_silence(cli: Any, flags: list[str], named: str) -> None:
    done = cli(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"aimcost: '{named}' must be one of them")
    assert done.stderr.count("\n") == 1


def test_a_run_that_decodes_shows_the_gain_and_the_band_of_a_step(cli: Any) -> None:
    text = cli("estimate", *DECODING, "--hardware", A100, "--set", "include=[decode]").stdout
    assert "to first token" not in text
    assert "LLM prefill alone" not in text
    assert "an output token" in text
    (line,) = (line for line in text.splitlines() if line.startswith("time per output token"))
    assert "80 % band" in line
    assert "memory is that of the whole request" in text


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
        ({"images": 1}, "nothing comes before a single image"),
        ({"frames": 1}, "nothing comes before a single image"),
        ({"images": 3}, "as if they were frames"),
        ({"frames": 3}, None),
    ],
)
def test_evs_says_where_it_has_nothing_to_compare(workload: dict[str, int], note: str | None) -> None:
    notes = aimcost.schedule(
        {"model": "llava-onevision-qwen2-7b", "workload": workload, "method": {"name": "evs"}}
    ).notes
    about = [said for said in notes if "EVS" in said]
    assert len(about) == (note is not None)
    assert all(note in said for said in about)


def test_parameters_are_told_in_words(cli: Any) -> None:
    text = cli("show", "pyramiddrop").stdout
    assert "ratios: list of number at least 0 and at most 1; default [0.5, 0.25, 0.125]" in text
    assert "tokens_per_layer: list of integer" in cli("show", "explicit").stdout
    assert "; required" in cli("show", "explicit").stdout
    for name in discover.method_names():
        said = cli("show", name)
        assert said.returncode == 0, said.stderr
        assert "FieldInfo" not in said.stdout
