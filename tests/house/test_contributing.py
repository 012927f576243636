"""The worked examples of CONTRIBUTING.md, added to a copy of the project as they stand there."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import aimcost

ROOT = Path(__file__).resolve().parent.parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
RUN = ("--model", "llava-1.5-7b", "--images", "1", "--text-tokens", "40")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which every example is a file, or the lines it says."""
    root = tmp_path_factory.mktemp("house")
    for part in ("aimcost", "configs", "hardware_profiles"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "data", "measurements"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for language, text in BLOCKS:
        head = text.partition("\n")[0]
        if re.fullmatch(r"# \S+/\S+", head):
            path = root / head.removeprefix("# ")
            assert not path.exists(), f"{path} is there already"
            path.write_text(text, encoding="utf-8")
        elif language == "python":
            decoder = root / "aimcost" / "models" / "decoder.py"
            before = '    yield cost(_residual("mlp_add"'
            code = decoder.read_text(encoding="utf-8")
            assert code.count(before) == 1
            lines = "".join(f"    {line}\n" for line in text.splitlines())
            decoder.write_text(code.replace(before, lines + before), encoding="utf-8")
        elif language == "json":
            (root / "configs" / "timings" / "bench.jsonl").write_text(text, encoding="utf-8")
        elif language == "csv":
            (root / "configs" / "accuracy" / "bench.csv").write_text(text, encoding="utf-8")
    return root


def command(house: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(house), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "aimcost", *arguments],
        cwd=house,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_listings_and_the_schema_know_them(house: Path) -> None:
    listed = command(house, "list")
    for name in ("acme_x1", "my_engine", "my-llama", "padded", "latex"):
        assert re.search(rf"^{name} ", listed, re.MULTILINE), name
    assert "padded" in json.loads(command(house, "schema"))["run"]["properties"]["estimator"]["anyOf"][0]["enum"]


def test_a_run_names_them_all(house: Path) -> None:
    flags = ("--hardware", "acme_x1", "--stack", "my_engine")
    found = json.loads(command(house, "estimate", "--model", "my-llama", "--text-tokens", "500", *flags, "--json"))
    assert (found["model"], found["hardware"], found["summary"]["stack"]) == ("my-llama", "acme_x1", "my_engine")
    assert "calibration inherited from nvidia_a100" in " ".join(found["notes"])


def test_an_op_is_priced_and_split_over_ranks(house: Path) -> None:
    """616 tokens of width 4096 before any cut, 4 FLOPs an element; every rank runs the norm and holds its weights."""
    run = {"model": "llava-1.5-7b", "workload": {"images": 1, "text_tokens": 40}, "hardware": "nvidia_a100_sxm_80gb"}
    for ranks in ("1", "2"):
        flags = (*RUN, "--hardware", "nvidia_a100_sxm_80gb", "--tp", ranks, "--json")
        found = json.loads(command(house, "estimate", *flags))
        (first,) = (
            op for op in found["ops"] if (op["stage"], op["layer"], op["name"]) == ("prefill", 0, "post_mlp_norm")
        )
        assert first["flops"] == 4 * 616 * 4096
        assert first["time_s"] > 0
        here = aimcost.estimate({**run, "parallel": {"tp": int(ranks)}}).memory.weights_bytes
        # 32 layers, 2 bytes a weight
        assert found["memory"]["weights_bytes"] == here + 32 * 4096 * 2


def test_an_estimator_prices(house: Path) -> None:
    flags = (*RUN, "--hardware", "nvidia_l4", "--json", "--estimator")
    bound, padded = (json.loads(command(house, "estimate", *flags, name)) for name in ("roofline", "padded"))
    assert padded["totals"]["time_s"] == pytest.approx(1.5 * bound["totals"]["time_s"], rel=1e-12)


def test_a_timing_is_evidence(house: Path) -> None:
    found = json.loads(command(house, "evidence", "configs/timings/bench.jsonl", "--json"))
    (row,) = found["rows"]
    assert (row["id"], row["published_s"]) == ("bench/dense", 0.212)
    assert row["predicted_s"] > 0


def test_a_papers_scores_are_listed_and_shown(house: Path) -> None:
    rows = json.loads(command(house, "list", "accuracy", "--json"))["accuracy"]
    (mine,) = (row for row in rows if row["name"] == "bench")
    assert (mine["source"], mine["scores"]) == ("our lmms-eval run, 2026-01-15", 1)
    shown = command(house, "show", "llava-1.5-7b", "--accuracy")
    # 55.6 of 58.2
    assert re.search(r"^VisionZip +64 +mine +11.1% +95.5 +1$", shown, re.MULTILINE)


def test_a_command_is_listed_and_runs(house: Path) -> None:
    assert "  heaviest         Print the op of a run that takes longest.\n" in command(house, "--help")
    assert command(house, "heaviest", "llava15_aim_a100").startswith("decode lm_head")


@pytest.mark.parametrize(
    "arguments",
    [
        ("estimate", *RUN, "--hardware", "nvidia_l4"),
        ("plan", "llava15_aim_a100", "--ttft-ms", "40", "--shape", "step"),
        *(
            pytest.param(arguments, marks=pytest.mark.check)
            for arguments in [
                ("compare", *RUN, "--hardware", "nvidia_l4,acme_x1"),
                ("plan", "llava15_aim_a100", "--question", "break-even"),
                ("reproduce",),
                ("check", "llava15_aim_a100", "--baseline", "base.json"),
                ("evidence", "configs/timings/bench.jsonl"),
            ]
        ),
    ],
    ids=lambda arguments: f"{arguments[0]}-{len(arguments)}",
)
def test_a_report_format_writes_every_report(house: Path, arguments: tuple[str, ...]) -> None:
    """The table has the columns and the rows that CSV has."""
    if arguments[0] == "check":
        command(house, *arguments, "--update")
    table = command(house, *arguments, "--format", "latex")
    rows = list(csv.reader(io.StringIO(command(house, *arguments, "--format", "csv"))))
    begin, head, *body, end = table.splitlines()
    assert (begin, end) == (rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}", r"\end{tabular}")
    assert head == " & ".join(rows[0]).replace("_", r"\_") + r" \\"
    assert len(body) == len(rows) - 1 > 0


def test_a_report_format_is_known_by_its_suffix(house: Path) -> None:
    arguments = ("estimate", *RUN, "--hardware", "nvidia_l4", "--layers")
    assert command(house, *arguments, "-o", "layers.tex") == "written: layers.tex\n"
    assert (house / "layers.tex").read_text(encoding="utf-8") == command(house, *arguments, "--format", "latex")
    assert {"name": "latex", "suffix": ".tex"}.items() <= json.loads(command(house, "list", "--json"))["formats"][
        2
    ].items()
    assert "LaTeX table" in command(house, "show", "latex")
    assert "latex" in command(house, "plan", "--help")
