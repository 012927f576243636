"""Methods that were added as folders: nothing else names them, and everything knows them."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest

import aimcost
from aimcost.cli import main

ROOT = Path(__file__).resolve().parent.parent.parent
ADDED = ("cdpruner", "fastervlm", "holov", "vidcom2", "vispruner")
RUN = {
    "model": "llava-onevision-qwen2-7b",
    "workload": {"frames": 8, "text_tokens": 40},
    "hardware": "nvidia_a100_sxm_80gb",
}


def test_no_file_beside_their_folders_names_them() -> None:
    """But for run files, which name what they run."""
    named = re.compile("|".join(ADDED), re.IGNORECASE)
    offenders = [
        str(path.relative_to(ROOT))
        for folder in ("aimcost", "configs", "hardware_profiles", "pyproject.toml", "Makefile")
        for path in ([ROOT / folder] if (ROOT / folder).is_file() else sorted((ROOT / folder).rglob("*")))
        if path.suffix in {".py", ".yaml", ".yml", ".toml", ""}
        and path.is_file()
        and not any(path.is_relative_to(ROOT / "aimcost" / "methods" / method) for method in ADDED)
        and not path.is_relative_to(ROOT / "configs" / "campaigns")
        and named.search(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert offenders == []


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["aimcost", *arguments])
    with contextlib.suppress(SystemExit):
        main()
    return capsys.readouterr().out


@pytest.mark.parametrize("method", ADDED)
def test_listing_estimate_json_report_and_planner_know_them(
    method: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert re.search(rf"^{method}\s", command(capsys, monkeypatch, "list", "methods"), re.MULTILINE)
    assert "ratio: number over 0" in command(capsys, monkeypatch, "show", method)
    run = tmp_path / "run.json"
    run.write_text(json.dumps({**RUN, "method": {"name": method}}), encoding="utf-8")
    document = json.loads(command(capsys, monkeypatch, "estimate", str(run), "--json"))
    assert document["summary"]["method"] == method
    assert {"score", "select", "gather"} <= {op["name"] for op in document["ops"] if op["stage"] == "merge"}
    assert document["layers"][0]["tokens"] < 8 * 196
    text = command(capsys, monkeypatch, "estimate", str(run))
    assert f"method {method}" in text
    assert any(line.startswith("reduction ") and "score" in line for line in text.splitlines())
    plan = aimcost.plan({**RUN, "include": ["prefill"]}, {"max_ttft_ms": 60}, methods=[method])
    assert plan.best is not None
    assert plan.best.run["method"]["name"] == method
