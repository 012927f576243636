"""The explorer's page: what is written, and what it refuses. What it computes is compared in ``tests/browser``."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aimcost.errors import AimcostError
from aimcost.inputs import discover
from aimcost.inputs.run import load_run, plan_schedule
from aimcost.pricing.pricing import estimate_run
from aimcost.report.web.explore import choices_of, on_a_machine
from aimcost.report.web.formulas import formula_of
from aimcost.report.web.packing import packed, unpacked
from aimcost.report.web.page import linked
from aimcost.report.web.records import is_record, record_points
from aimcost.search.explorer.settings import schedules_of, settings_of

IMAGE = {"model": "llava-1.5-7b", "workload": {"images": 1, "text_tokens": 40}, "method": {"name": "none"}}
MARKUP = "</script><img src=x onerror=alert(1)>"


def embedded(page: str, name: str) -> bytes:
    found = re.search(rf'id="{name}">([^<]*)<', page)
    assert found
    return gzip.decompress(base64.b64decode(found[1]))


# a busy machine draws lists slowly
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(min_value=-(2**50), max_value=2**50), max_size=40))
def test_a_column_is_unpacked_as_it_was_packed(values: list[int]) -> None:
    assert unpacked(packed(np.array(values, dtype=np.int64))) == values


def test_a_straight_column_takes_a_byte_an_entry() -> None:
    assert len(packed(np.arange(1000) * 12_345)) < 1010


def test_a_page_may_load_nothing_and_runs_nothing_but_its_own_scripts(
    cli: Any, tmp_path: Path, run: dict[str, Any]
) -> None:
    """Names with markup in them are data that no parser of HTML meets."""
    file, out = tmp_path / "mine.yaml", tmp_path / "page.html"
    run["method"] = {"name": "fastv", "k": 2, "ratio": 0.5}
    run["hardware"] = {**run["hardware"], "name": MARKUP}
    file.write_text(json.dumps(run))
    done = cli("explore", str(file), "--hardware", MARKUP, "--stack", "transformers", "-o", str(out))
    assert (done.returncode, done.stdout) == (0, f"written: {out}\n"), done.stderr
    page = out.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    scripts = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none'; ")
    assert not re.search(r"unsafe|http", policy[1])
    assert not re.search(r"<(link|script|img|iframe)[^>]+(src|href)=\"(?!data:,)", page)
    assert MARKUP not in page
    data = json.loads(embedded(page, "data"))
    assert [(each["hardware"], each["stack"]) for each in data["runs"][0]["contexts"]] == [(MARKUP, "transformers")]
    assert sum(data["columns"]["lengths"]) == len(embedded(page, "columns"))


def test_the_modules_are_linked_as_one() -> None:
    script = linked()
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    assert "</script" not in script


def test_visual_counts_are_planned_for_every_text_length() -> None:
    """AIM keeps int(V · rate + T) tokens: where V · rate is whole but for its rounding, the text decides."""
    run = load_run("llava_onevision_aim_a100", {"workload.frames": 4})
    settings = settings_of(run)
    (load,) = (each for each in settings.loads if each.count == 4)
    ratio, l1, l2 = settings.dials
    few = (
        replace(ratio, values=(1.0,), start=0),
        replace(l1, values=tuple(range(0, 28, 3)), start=0),
        replace(l2, values=(7, 17, 29), start=0),
    )
    settings = replace(settings, loads=(load,), load_start=0, dials=few)
    schedules = schedules_of(settings, "executed")
    others = [(text, *pair) for text, found in schedules.by_text.items() for pair in found.items()]
    assert others
    for text, flat, entry in others:
        _, *position = np.unravel_index(flat, schedules.counts.shape)
        workload = replace(load.workloads["executed"], text_after=text)
        other = plan_schedule(run.model, workload, settings.method([int(at) for at in position], "executed"))
        assert [n - text for n in other.tokens] == schedules.tokens[entry].tolist()


def test_text_that_the_processor_writes_grows_with_the_images() -> None:
    """InternVL puts <img> and </img> around each image: 40 stated text tokens are 42 with one image, 48 with four."""
    workload = {"images": 1, "text_tokens": 40}
    run = load_run({"model": "internvl3-8b", "workload": workload, "method": {"name": "none"}})
    settings = settings_of(run)
    assert settings.texts == (40,)
    written = {load.count: load.template_tokens for load in settings.loads}
    assert (written[1], written[2]) == (2, 4)
    for load in settings.loads:
        stated = load_run(
            {"model": "internvl3-8b", "workload": {**workload, "images": load.count}, "method": {"name": "none"}}
        )
        assert stated.workload.text_tokens == settings.text + load.template_tokens
    assert settings.text_lengths == tuple(40 + count for count in sorted(written.values()))


@pytest.mark.parametrize("convention", ["executed", "paper"])
def test_boundaries_that_are_pruned_at_once_are_those_of_single_plans(convention: str) -> None:
    """AIM's schedules are made as arrays: each is that of `plan_schedule`, and none that it refuses is offered."""
    settings = settings_of(load_run("llava_onevision_aim_a100", {"workload.frames": 4}))
    at = next(i for i, load in enumerate(settings.loads) if load.count == 4)
    schedules = schedules_of(replace(settings, loads=(settings.loads[at],)), convention)
    chance, planned = np.random.default_rng(0), 0
    for position in chance.integers(0, schedules.counts.shape[1:], (150, 3)).tolist():
        method, entry = settings.method(position, convention), schedules.counts[(0, *position)]
        workload = settings.loads[at].workloads[convention]
        try:
            schedule = plan_schedule(settings.run.model, workload, method)
        except AimcostError:
            assert entry == -1, method
            continue
        if any(event.after_layer == -1 for event in schedule.layer_events):
            assert entry == -1, method
            continue
        text, before = schedule.text_tokens, schedules.before[(0, *position)]
        assert [n - text for n in schedule.tokens] == schedules.tokens[entry].tolist(), method
        assert schedules.reductions[0][before].events == schedule.pre_llm_events, method
        planned += 1
    assert planned > 50


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "llama-3.2-11b-vision"}, "cross-attention layers"),
        ({"implementation": "masked", "method": {"name": "fastv", "k": 2}}, "masked hides them"),
    ],
)
def test_what_follows_from_more_than_token_counts_is_refused(
    cli: Any, tmp_path: Path, run: dict[str, Any], changes: dict[str, Any], named: str
) -> None:
    from aimcost.inputs.run import merge_overrides

    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(merge_overrides(run, changes)))
    done = cli("explore", str(file), "-o", str(tmp_path / "page.html"))
    assert done.returncode == 2
    assert named in done.stderr
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"name": "fastv", "k": 2}, {"k": 2, "ratio": None}),
        ({"name": "fastv", "k": 2, "keep_tokens": 100}, {"k": 2, "keep_tokens": 100}),
        ({"name": "visionzip"}, {"dominant": 191, "contextual": 30}),
        ({"name": "pyramiddrop"}, {"layers": [8, 16, 24], "ratios": [0.5, 0.25, 0.125]}),
        ({"name": "sparsevlm"}, {"keep": [300, 200, 110]}),
        ({"name": "prumerge_plus"}, {"ratio": None}),
        ({"name": "none"}, {}),
    ],
    ids=lambda value: value.get("name"),
)
def test_every_method_has_its_own_sliders_which_stand_where_the_run_does(
    method: dict[str, Any], expected: dict[str, Any]
) -> None:
    run = load_run({"model": "llava-1.5-7b", "workload": {"images": 1, "text_tokens": 40}, "method": method})
    settings = settings_of(run)
    assert {dial.key: dial.values[dial.start] for dial in settings.dials} == expected
    start = settings.method([dial.start for dial in settings.dials], "executed")
    assert plan_schedule(run.model, run.workload, start).tokens == run.schedule.tokens


def test_all_methods_that_are_listed_can_be_explored() -> None:
    """Every method that reduces has at least one slider with a value that can be planned."""
    for name in discover.method_names():
        if name in ("none", "explicit"):
            continue
        load = {"frames": 4} if name in ("evs", "vidcom2") else {"images": 1}
        model = "llava-onevision-qwen2-7b" if "frames" in load else "llava-1.5-7b"
        method = {"name": name, **({"ratio": 0.5} if name == "pre_llm" else {})}
        settings = settings_of(load_run({"model": model, "workload": {**load, "text_tokens": 40}, "method": method}))
        assert settings.dials, name
        alone = replace(settings, loads=(settings.loads[settings.load_start],), texts=(40,))
        assert (schedules_of(alone, "executed").counts >= 0).sum() > 8, name


def test_errors_are_of_the_kind_that_the_command_reports() -> None:
    with pytest.raises(AimcostError, match="visual tokens in the sequence"):
        settings_of(load_run({"model": "llama-3.2-11b-vision", "workload": {"text_tokens": 5}}))


def test_a_run_without_a_machine_takes_the_first_that_is_asked_for(
    cli: Any, tmp_path: Path, run: dict[str, Any]
) -> None:
    """Where none is asked for, the message names the run."""
    del run["hardware"]
    found, others = on_a_machine(load_run(run), "mine", ["nvidia_l4", "nvidia_a10"])
    assert (found.hardware.name if found.hardware else "", others) == ("nvidia_l4", ["nvidia_a10"])
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(run))
    done = cli("report", str(file), "-o", str(tmp_path / "page.html"))
    assert done.returncode == 2
    assert f"{file} names none" in done.stderr


def test_a_default_stack_that_a_machine_does_not_run_is_left_out() -> None:
    """vLLM captures graphs, which Metal lacks: the other machines have it, and where it is asked for it is refused."""
    run = load_run({**IMAGE, "hardware": "nvidia_l4"})
    found = choices_of(run, ["apple_m3_max"], [])
    assert [(each.hardware, each.stack) for each in found] == [
        (None, None),
        (None, "vllm"),
        ("apple_m3_max", None),
    ]
    assert ("apple_m3_max", "vllm") in [
        (each.hardware, each.stack) for each in choices_of(run, ["apple_m3_max"], ["vllm"])
    ]


def test_a_report_needs_a_run_and_tells_records_from_runs(cli: Any, tmp_path: Path) -> None:
    record = (
        Path(__file__).parents[2] / "hardware_profiles" / "measurements" / "amd_epyc" / "2026-11-21_validation.json"
    )
    assert is_record(str(record))
    assert not is_record("llava_onevision_aim_a100")
    file = tmp_path / "run.json"
    file.write_text('{"model": "qwen2-0.5b"}')
    assert not is_record(str(file))
    done = cli("report", str(record), "-o", str(tmp_path / "page.html"))
    assert (done.returncode, done.stderr) == (2, "aimcost: 'RUN' must be given: at least one run beside the records\n")


def test_whole_passes_of_a_record_are_points() -> None:
    record = (
        Path(__file__).parents[2] / "hardware_profiles" / "measurements" / "amd_epyc" / "2026-11-21_validation.json"
    )
    points = record_points(str(record))
    assert {"record"} == {point["kind"] for point in points}
    assert all(point["measured_s"] > 0 and point["predicted_s"] > 0 for point in points)
    assert any("prefill" in point["label"] for point in points)
    assert not any("layer" in point["label"] for point in points)


@pytest.mark.parametrize(("load", "method"), [({"frames": 2, "new_tokens": 3}, "aim"), ({"images": 1}, "fastv")])
@pytest.mark.parametrize("attention", ["flash", "eager"])
def test_every_operation_has_a_formula(load: dict[str, int], method: str, attention: str) -> None:
    """The opening of a docstring, and the function that it is of."""
    keys = {"workload": {**load, "text_tokens": 9}, "method": {"name": method}, "attention": attention}
    estimate = estimate_run(load_run({"model": "llava-onevision-qwen2-7b", "hardware": "nvidia_l4", **keys}))
    for segment in estimate.table.segments:
        if segment.kind != "overhead":
            found = formula_of(
                segment.name, segment.kind, "bipartite_cosine" if segment.stage == "merge" else "pagerank"
            )
            assert found.get("text"), segment.name
            assert found["source"].startswith("aimcost."), segment.name
