"""A Run is resolved once, varied by `with_`, and written down by `document`."""

from __future__ import annotations

from dataclasses import fields

import pytest

import aimcost
from aimcost.errors import InvalidValueError, UnknownNameError
from aimcost.inputs.run import Run, load_run
from aimcost.pricing.pricing import unreduced

RUN = {
    "model": "llava-onevision-qwen2-7b",
    "workload": {"frames": 32, "text_tokens": 100, "new_tokens": 4},
    "method": {"name": "aim", "merge_ratio": 0.25, "l1": 14, "l2": 22},
    "hardware": "nvidia_a100_sxm_80gb",
    "budgets": {"max_ttft_ms": 80},
    "price_per_hour": 2.5,
    "estimator": "roofline",
}


def values(run: Run) -> dict[str, object]:
    """Every public field."""
    return {each.name: getattr(run, each.name) for each in fields(run) if not each.name.startswith("_")}


CHANGES = [
    {"batch": 4},
    {"workload.batch": 4},
    {"workload": {"batch": 4, "frames": 8}},
    {"method": {"l1": 7}},
    {"method.l1": 7},
    {"method": "fastv"},
    {"method": {"name": "none", "convention": "paper"}},
    {"method": {"convention": "paper"}},
    {"hardware": "nvidia_h100_sxm"},
    {"hardware": None},
    {"model": "llava-onevision-qwen2-0.5b"},
    {"model": "llava-1.5-7b", "frames": None, "images": 1, "method": "fastv"},
    {"tp": 2},
    {"precision.weights": "int4", "execution": "cuda_graph"},
    {"implementation": "masked", "attention": "eager"},
    {"include": ["prefill"], "budgets": {"max_kv_gb": 1.0}},
    {"estimator": "llm_viewer", "estimator_options": {"skip_mlp_add": True}},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_with_is_the_run_resolved_anew(changes: dict[str, object]) -> None:
    """What is reused is what a fresh resolution gives."""
    varied = load_run(RUN).with_(changes)
    long = {"batch": "workload.batch", "frames": "workload.frames", "images": "workload.images", "tp": "parallel.tp"}
    anew = load_run(RUN, {long.get(key, key): value for key, value in changes.items()})
    assert values(varied) == values(anew)
    assert varied.document() == anew.document()


def test_with_resolves_only_what_changed() -> None:
    run = load_run(RUN)
    batched = run.with_(batch=4)
    assert batched.workload.batch == 4
    assert batched.model is run.model
    assert batched.hardware is run.hardware
    moved = run.with_(hardware="nvidia_h100_sxm")
    assert moved.schedule is run.schedule
    assert moved.workload is run.workload


def test_with_method_replaces_the_whole_mapping() -> None:
    run = load_run(RUN)
    assert run.with_({"method": {"name": "aim", "l2": 20}}).method["l1"] == 14
    assert "l1" not in run.with_method({"name": "aim", "l2": 20}).method


@pytest.mark.parametrize(
    ("changes", "error", "names"),
    [
        ({"batch": 0}, InvalidValueError, "workload.batch"),
        ({"bacth": 4}, UnknownNameError, "bacth"),
        ({"hardware": "nvidia_a1000"}, UnknownNameError, "nvidia_a1000"),
        ({"method.l1": 99}, InvalidValueError, "method.l1"),
    ],
)
def test_with_refuses_as_load_run_does(changes: dict[str, object], error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        load_run(RUN).with_(changes)


def test_document_is_the_run_file() -> None:
    """Resolving it gives the same run."""
    run = load_run(RUN, {"workload": {"images": None}})
    assert run.document() == RUN
    assert values(load_run(run.document())) == values(run)


def test_fields_of_the_file() -> None:
    run = load_run(RUN)
    assert run.budgets == {"max_ttft_ms": 80}
    assert run.price_per_hour == 2.5
    assert run.method == RUN["method"]
    assert run.execution == "eager"
    assert load_run({**RUN, "confidence": 0.9}).confidence == 0.9


def test_unreduced_has_every_token_and_no_method() -> None:
    run = load_run(RUN, {"method.convention": "paper"})
    plain = unreduced(run)
    assert not plain.schedule.events
    assert plain.workload is run.workload  # the paper's convention, without a newline token, for both
    assert set(plain.schedule.tokens) == {run.workload.visual_tokens + run.workload.text_tokens}
    assert plain.document()["method"] == {"name": "none", "convention": "paper"}


def test_the_file_of_a_run_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="document"):
        assert load_run(RUN).file.model == RUN["model"]


def test_the_source_is_the_path_of_the_file(tmp_path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: llava-1.5-7b\nworkload: {images: 1}\n", encoding="utf-8")
    assert load_run(path).source == str(path)
    assert load_run(RUN).source == ""
    assert aimcost.schedule(path).tokens[0] == load_run(path).with_(batch=2).schedule.tokens[0]
