"""What every method's schedule must be, on every model, whatever it was planned for."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aimcost
from aimcost.errors import AimcostError, InvalidValueError, UnsupportedModelError
from aimcost.inputs import discover
from aimcost.inputs.model import load_model
from aimcost.methods.registry import all_scorers
from aimcost.types import Schedule

# What a method cannot plan without.
REQUIRED: dict[str, dict[str, Any]] = {
    "explicit": {"tokens_per_layer": None},  # filled from the model's depth
    "pre_llm": {"ratio": 0.5},
}
METHODS = discover.method_names()
MODELS = list(discover.names("model"))
# These plan on every prompt that has visual tokens, whatever they came from.
UNIVERSAL = {"none", "explicit", "aim", "fastv", "pyramiddrop", "vtw", "prumerge", "prumerge_plus", "pre_llm"}
TEXT = {"system": 35, "question": 40}
WORKLOADS: list[dict[str, Any]] = [
    {"visual_tokens": 1152, "text_tokens": TEXT},
    {"images": 2, "text_tokens": TEXT},
    {"frames": 8, "text_tokens": TEXT, "batch": 3},
]
FIXED = settings(max_examples=60, derandomize=True, deadline=None, database=None)


def run_of(model: Any, method: str, workload: dict[str, Any], layers: int, prompt: int) -> dict[str, Any]:
    params = dict(REQUIRED.get(method, {}))
    if method == "explicit":
        params["tokens_per_layer"] = [[prompt, 1], [max(1, prompt // 2), layers - 1]]
    return {"model": model, "workload": workload, "method": {"name": method, **params}}


def plan_or_error(run: dict[str, Any]) -> Schedule | AimcostError:
    try:
        return aimcost.schedule(run)
    except AimcostError as error:
        return error


def check(schedule: Schedule, layers: int) -> None:
    """Counts never rise, and events tell the same story as the counts."""
    tokens = schedule.tokens
    assert len(tokens) == layers
    assert min(tokens) >= 1
    assert all(later <= earlier for earlier, later in itertools.pairwise(tokens))
    assert tokens[0] == schedule.visual_tokens + schedule.text_tokens
    for event in schedule.events:
        assert 0 <= event.tokens_out < event.tokens_in
        assert event.scorer in all_scorers()
    for event in schedule.layer_events:
        layer = event.after_layer
        assert event.groups == 1
        assert layer < layers - 1, "a cut after the last layer is no event"
        assert event.tokens_out == tokens[layer + 1]
        assert layer < 0 or event.tokens_in == tokens[layer]
    drops = {index for index in range(layers - 1) if tokens[index + 1] < tokens[index]}
    assert drops == {event.after_layer for event in schedule.layer_events if event.after_layer >= 0}
    assert list(schedule.events) == [*schedule.pre_llm_events, *schedule.layer_events]
    between = [event for event in schedule.pre_llm_events if getattr(event, "tower_layer", None) is None]
    for event, following in itertools.pairwise(between):
        assert following.groups * following.tokens_in == event.groups * event.tokens_out
    if between:
        left = between[-1].groups * between[-1].tokens_out
        assert schedule.visual_tokens == left + schedule.newline_tokens


def depth_and_visuals(model: str, workload: dict[str, Any]) -> tuple[int, int]:
    schedule = aimcost.schedule({"model": model, "workload": workload})
    return len(schedule.tokens), schedule.visual_tokens


@pytest.mark.parametrize("method", METHODS)
def test_defaults_on_every_model(method: str) -> None:
    """Where a method cannot plan it says why; where it can, the schedule is sound."""
    reduced = 0
    for model in MODELS:
        for workload in WORKLOADS:
            try:
                layers, visual = depth_and_visuals(model, workload)
            except AimcostError:
                continue  # no vision tower
            schedule = plan_or_error(run_of(model, method, workload, layers, visual + 75))
            if isinstance(schedule, AimcostError):
                assert "\n" not in str(schedule)
                assert isinstance(schedule, InvalidValueError | UnsupportedModelError)
                # a model that attends to visual tokens across, outside its sequence, has none to drop
                crossing = bool(load_model(model).decoder.cross_layers)
                assert crossing or method not in UNIVERSAL, f"{model}, {workload}: {schedule}"
                continue
            check(schedule, layers)
            assert schedule.method == schedule.params["name"] == method
            assert (schedule.text_before, schedule.text_after) == (35, 40)
            assert schedule.visual_tokens <= visual
            reduced += bool(schedule.events)
            if method in UNIVERSAL:
                assert bool(schedule.events) == (method != "none")
    assert (reduced > 0) == (method != "none")


@pytest.mark.parametrize("method", sorted(UNIVERSAL - {"explicit"}))
def test_events_of_groups_join_up(method: str) -> None:
    """32 frames of 196 tokens and a newline: groups are the frames, the newline belongs to none."""
    run = run_of("llava-onevision-qwen2-7b", method, {"frames": 32, "text_tokens": 100}, 28, 6373)
    schedule = aimcost.schedule(run)
    check(schedule, 28)
    left = 196
    for event in schedule.pre_llm_events:
        assert (event.groups, event.tokens_in) == (32, left)
        left = event.tokens_out
    assert schedule.visual_tokens == 32 * left + 1
    assert schedule.newline_tokens == 1


@pytest.mark.parametrize("method", sorted(UNIVERSAL))
@FIXED
@given(
    layers=st.integers(2, 64),
    visual=st.integers(1, 9000),
    system=st.integers(0, 50),
    question=st.integers(1, 300),
    newline=st.booleans(),
)
def test_any_depth_and_prompt(method: str, layers: int, visual: int, system: int, question: int, newline: bool) -> None:
    model = {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
    }
    workload = {
        "visual_tokens": visual,
        "text_tokens": {"system": system, "question": question},
        "newline": newline,
    }
    run = run_of(model, method, workload, layers, visual + system + question)
    schedule = plan_or_error(run)
    if isinstance(schedule, AimcostError):  # a prompt that the defaults cannot serve is said, not mis-planned
        assert "\n" not in str(schedule)
        assert visual < 64
        return
    check(schedule, layers)
    assert schedule.tokens[0] <= visual + system + question


@pytest.mark.parametrize("method", METHODS)
def test_a_method_says_what_it_is(method: str) -> None:
    module = importlib.import_module(f"aimcost.methods.{method}.plan")
    assert isinstance(module.SUMMARY, str)
    assert 10 < len(module.SUMMARY) < 120
    assert set(module.Params.names()) >= {"name", "convention"}
