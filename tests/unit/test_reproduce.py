"""The published tables, recomputed; expected digits are those of the paper (configs/papers/aim.yaml)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from aimcost.inputs import discover
from aimcost.inputs.files import read_mapping
from aimcost.pricing.reproduce import as_printed, reproduce

PAPER = read_mapping(discover.find("paper", "aim"))
UNREACHABLE = {("video_vtw", "ms"), ("image_prumerge_plus", "tflops")}


@pytest.fixture(scope="module")
def result() -> dict:
    return reproduce()


@pytest.mark.parametrize("row", PAPER["rows"], ids=lambda row: row["id"])
def test_row(result: dict, row: dict) -> None:
    mine = next(entry for entry in result["rows"] if entry["id"] == row["id"])
    counts = [tokens for tokens, layers in row["tokens_rle"] for _ in range(layers)]
    assert mine["tokens"] == counts
    for key in ("tflops", "ms"):
        equal = as_printed(mine["computed"][key]) == row["printed"][key]
        assert equal == ((row["id"], key) not in UNREACHABLE)
        assert mine["match"][key] == equal
        assert mine["computed"][key] == pytest.approx(row["expected"][key], abs=5e-7)


def test_forty_one_of_forty_three(result: dict) -> None:
    assert result["summary"]["rows"] == 43
    assert result["summary"]["equal_to_the_printed_digits"] == 41
    assert {row["id"] for row in result["summary"]["unequal"]} == {key for key, _ in UNREACHABLE}
    assert all(row["reason"] for row in result["summary"]["unequal"])


@pytest.mark.parametrize("slip", [s for s in PAPER["slips"] if s.get("corrected")], ids=lambda s: s["id"])
def test_corrected_figures(result: dict, slip: dict) -> None:
    mine = next(entry for entry in result["slips"] if entry["id"] == slip["id"])
    for entry in slip["corrected"]:
        found = mine["corrected"][entry["row"]]
        for key in ("tflops", "ms"):
            assert found[key] == pytest.approx(entry["expected"][key], abs=5e-7)


def test_overhead_and_end_to_end(result: dict) -> None:
    overhead = {entry["id"]: entry for entry in result["overhead"]}
    assert all(entry["match"] for entry in overhead.values())
    # 32 frames x (2·98²·3584 + 4·196·3584 + 2·49²·3584 + 4·98·3584) / 1e9
    assert overhead["token_merging"]["corrected_gflops"] == pytest.approx(2.888532, abs=1e-6)
    # 28 layers x (28·1668²·16 + 2·28·1668 + 1668) / 1e9
    assert overhead["token_pruning"]["corrected_gflops"] == pytest.approx(34.90288, abs=1e-5)
    (tower,) = result["end_to_end"]
    assert tower["tower_tflops"] == pytest.approx(20.5376, abs=1e-4)
    # (99.457 + 20.54 + projector 0.79) / (15.49 + 20.54 + 0.79)
    assert tower["ratio_full_square"] == pytest.approx(3.28, abs=0.01)
    assert tower["ratio_causal"] == pytest.approx(3.09, abs=0.01)
    assert tower["llm_ratio_causal"] == pytest.approx(6.02, abs=0.005)


def test_double_rounding() -> None:
    # 21.234954 prints as 21.2350, which rounds half up to 21.24; straight rounding gives 21.23
    assert as_printed(21.234954) == "21.24"


def test_command_prints_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aimcost", "reproduce", "--json"], capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == 43
    assert {"id", "computed", "printed", "match", "corrected"} <= set(rows[0])
