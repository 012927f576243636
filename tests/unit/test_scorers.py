"""Every scorer that a plan can name is registered, priced and, where the runtime can run it, applied."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest

import aimcost
from aimcost.errors import AimcostError, UnknownNameError, UnsupportedModelError
from aimcost.inputs.discover import method_names
from aimcost.inputs.hardware import load_hardware
from aimcost.inputs.run import load_run
from aimcost.methods import registry
from aimcost.methods.registry import Scorer, all_scorers, find_scorer, reduction_ops, register
from aimcost.ops.reduction import Cut, ScoreContext, positional
from aimcost.pricing.pricing import estimate_run
from aimcost.types import DecoderSpec, ModelSpec, ReductionEvent
from aimcost.types.formats import Widths
from aimcost.types.strict import pydantic_model

DECODER = DecoderSpec(hidden=8, intermediate=20, layers=3, heads=4, kv_heads=2, head_dim=3, vocab=50)
MODEL = ModelSpec(name="tiny", family="test", decoder=DECODER)
CONTEXT = ScoreContext(model=MODEL, batch=1, widths=Widths(weights=2.0, activations=2.0, kv=2.0), text_tokens=4)
REQUIRED: dict[str, dict[str, Any]] = {
    "explicit": {"tokens_per_layer": [[4000, 4], [1000, 24]]},
    "pre_llm": {"ratio": 0.5},
}


def choices(method: str) -> Iterator[dict[str, Any]]:
    """A method's parameters with every value of those that are a choice among names."""
    base = {"name": method, **REQUIRED.get(method, {})}
    yield base
    params = importlib.import_module(f"aimcost.methods.{method}.plan").Params
    for key, field in pydantic_model(params).model_fields.items():
        for literal in (field.annotation, *get_args(field.annotation)):
            if get_origin(literal) is Literal:
                yield from ({**base, key: value} for value in get_args(literal))


def planned() -> dict[tuple[str, str, bool], ReductionEvent]:
    """Events by (scorer, action, whether inside the language model), over all methods and choices."""
    found = {}
    for method in method_names():
        for params in choices(method):
            for model in ("llava-onevision-qwen2-7b", "llava-1.5-7b"):
                visual = {"images": 1} if model == "llava-1.5-7b" or method == "tome" else {"frames": 32}
                given = dict(params)
                if method == "explicit" and model == "llava-1.5-7b":
                    given["tokens_per_layer"] = [[400, 16], [200, 16]]
                run = {"model": model, "workload": {**visual, "text_tokens": 100}, "method": given}
                try:
                    schedule = aimcost.schedule(run)
                except AimcostError:  # ToMe needs a tower without pooling
                    continue
                for event in schedule.events:
                    found[event.scorer, event.action, event.after_layer is not None] = event
    return found


def test_plans_name_every_scorer_and_none_that_is_not_registered() -> None:
    assert {name for name, _, _ in planned()} == set(all_scorers())


def test_every_scorer_that_a_plan_names_is_priced() -> None:
    for event in planned().values():
        cut = Cut(
            tokens_in=float(event.tokens_in),
            tokens_out=float(event.tokens_out),
            groups=float(event.groups),
            counts=dict(event.counts),
        )
        costs = reduction_ops(event.scorer, cut, CONTEXT)
        assert sum(float(np.sum(cost.bytes)) for _, cost in costs) > 0


def test_every_scorer_that_a_plan_names_is_applied_where_the_runtime_can() -> None:
    pytest.importorskip("torch")
    policies = importlib.import_module("aimcost.runtime.policies").all_policies()
    for (name, action, inside), event in planned().items():
        table = policies.layer if inside else policies.merge if action == "merge" else policies.prune
        if find_scorer(name).reads == "inside_tower":
            assert event.tower_layer is not None
            table = policies.tower
        assert name in table, f"{name} is planned to {action}, and nothing runs it"
    runnable = policies.layer.keys() | policies.merge.keys() | policies.prune.keys() | policies.tower.keys()
    assert runnable <= set(all_scorers()), "a policy whose scorer no method registers"


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="pagerank"):
        register(Scorer(name="pagerank", cost=positional, reads="positions"))
    assert find_scorer("pagerank").cost is not positional


def test_the_old_name_of_a_cost_warns() -> None:
    with pytest.warns(DeprecationWarning, match="use cost="):
        old = Scorer(name="of_before", price=positional, reads="positions")
    assert old.cost is positional
    with pytest.raises(TypeError, match="cost"):
        Scorer(name="of_nothing", reads="positions")


def test_an_unknown_scorer_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown scorer 'page_rank'; did you mean 'pagerank'") as caught:
        find_scorer("page_rank")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scorer", "hint"),
    [("pagerank_v2", "did you mean 'pagerank'?"), ("zzzz", "known: bipartite_cosine, cls_attention, ")],
)
@pytest.mark.parametrize("layer", [13, None])
def test_a_scorer_that_no_method_registers_is_one_line(scorer: str, hint: str, layer: int | None) -> None:
    """As a method without its cost.py, or a schedule made by hand, would have it."""
    run = load_run("llava15_aim_a100", {"method": {"name": "none"}})
    event = ReductionEvent(action="prune", scorer=scorer, after_layer=layer, tokens_in=640, tokens_out=320)
    schedule = replace(run.schedule, events=(event,))
    for estimator in ("calibrated", "roofline"):
        with pytest.raises(AimcostError) as caught:
            estimate_run(replace(run, schedule=schedule, estimator=estimator))
        assert str(caught.value).startswith(f"unknown scorer {scorer!r}; {hint}")
        assert "\n" not in str(caught.value)


def test_what_the_model_alone_cannot_do_is_refused_with_its_reason() -> None:
    run = {"model": "llava-1.5-7b", "workload": {"images": 1, "text_tokens": 40}, "method": {"name": "cdpruner"}}
    with pytest.raises(UnsupportedModelError, match=r"'cdpruner' ranks with CLIP's text tower.*\(question=\)"):
        aimcost.apply(object(), aimcost.schedule(run))


def test_an_estimate_loads_the_prices_of_its_own_method_alone() -> None:
    run = {
        "model": "llava-onevision-qwen2-7b",
        "workload": {"frames": 8, "text_tokens": 100},
        "method": {"name": "fastv"},
        "hardware": "nvidia_a100_sxm_40gb",
    }
    code = (
        f"import sys, aimcost; aimcost.estimate({run!r}).to_dict(); "
        "print(sorted(m for m in sys.modules if m.startswith('aimcost.methods.') and m.endswith('.cost')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['aimcost.methods.fastv.cost']"
    assert registry.__name__ == "aimcost.methods.registry"


def test_a_loop_over_the_kept_tokens_launches_its_kernels_one_after_another() -> None:
    """DivPrune, 32 frames: 615 of 6,272 tokens, each chosen after the one before it.

    Six launches a token (`methods/divprune/apply.py`: compare, mask, take the farthest, mark it, read its
    row, lower the minima) are 3,690, each with its latency on the device and its launch on the host.
    """
    run = {
        "model": "llava-onevision-qwen2-7b",
        "workload": {"frames": 32, "text_tokens": 100},
        "method": {"name": "divprune"},
        "hardware": "nvidia_a100_sxm_40gb",
    }
    estimate = aimcost.estimate(run)
    assert estimate.run.schedule.events[0].tokens_out == 615
    (row,) = (s.start for s in estimate.table.segments if (s.stage, s.name) == ("merge", "select"))
    assert estimate.table.launches[row] == 3690
    assert estimate.device_seconds is not None
    assert estimate.host_seconds is not None
    assert estimate.host_seconds[row] == pytest.approx(3690 * estimate.run.stack.host_s.value)
    # no kernel of a GPU takes less than a microsecond, and none of these moves enough to take five
    assert 3690 * 1e-6 < estimate.device_seconds[row] < 3690 * 5e-6
    # captured in a graph, the device still runs every kernel; the host issues none
    graph = aimcost.estimate({**run, "execution": "cuda_graph"})
    (row,) = (s.start for s in graph.table.segments if (s.stage, s.name) == ("merge", "select"))
    assert graph.table.launches[row] == 3690
    assert graph.host_seconds is not None
    assert graph.host_seconds[row] == 0
    assert graph.seconds[row] > 3690 * 1e-6


def test_a_loop_that_waits_for_the_host_ends_one_kernel_after_its_last_launch() -> None:
    """One frame on a small model: the tower is done long before 176 choices of six launches are issued."""
    run = {
        "model": "llava-onevision-qwen2-0.5b",
        "workload": {"frames": 1, "text_tokens": 20},
        "method": {"name": "divprune", "ratio": 0.9},
        "hardware": "nvidia_a100_sxm_80gb",
        "include": ["merge"],
    }
    estimate = aimcost.estimate(run)
    (row,) = (s.start for s in estimate.table.segments if (s.stage, s.name) == ("merge", "select"))
    assert estimate.table.launches[row] == 6 * 176
    assert estimate.device_seconds is not None
    assert estimate.host_seconds is not None
    device, host = float(estimate.device_seconds[row]), float(estimate.host_seconds[row])
    assert device < host / 2
    # the row ends at its last launch + the last kernel; the row before it ended at its own launch + its work
    assert host - device < float(estimate.seconds[row]) <= host + device / (6 * 176)


def test_a_machine_that_measured_itself_counts_each_kernel_as_its_shortest() -> None:
    curve = {"form": "grid", "along": "bytes", "source": "test", "date": "2026-11-21", "band": [0.9, 1.1]}
    times = {"curves": [{"flops_per_byte": 0.1, "bytes": [1e3, 1e9], "us": [4.0, 1000.0]}], **curve}
    base = load_hardware("nvidia_a100_sxm_80gb")
    assert base.calibration is not None
    kinds = dict.fromkeys(("pointwise", "select", "score", "gather", "merge"), times)
    block = {**base.calibration, "bandwidth": {**base.calibration.get("bandwidth", {}), **kinds}}
    run = load_run(
        {
            "model": "llava-onevision-qwen2-7b",
            "workload": {"frames": 32, "text_tokens": 100},
            "method": {"name": "divprune"},
            "hardware": "nvidia_a100_sxm_80gb",
            "execution": "cuda_graph",
        }
    )
    estimate = estimate_run(replace(run, hardware=replace(base, calibration=block)))
    (row,) = (s.start for s in estimate.table.segments if (s.stage, s.name) == ("merge", "select"))
    assert estimate.seconds[row] == pytest.approx(3690 * 4e-6)
