"""Every scorer that a plan can name is registered, priced and, where the runtime can run it, applied."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest

import aimcost
from aimcost.errors import AimcostError, UnknownNameError
from aimcost.inputs.discover import method_names
from aimcost.methods import registry
from aimcost.methods.registry import Scorer, all_scorers, find_scorer, reduction_ops, register
from aimcost.ops.reduction import REDUCTION_OPS, Cut, ScoreContext, positional
from aimcost.types import DecoderSpec, ModelSpec, ReductionEvent
from aimcost.types.formats import Widths

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
    for key, field in params.model_fields.items():
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
        cut = Cut(tokens_in=float(event.tokens_in), tokens_out=float(event.tokens_out), groups=float(event.groups))
        costs = reduction_ops(event.scorer, cut, CONTEXT)
        assert {name for name, _ in costs} <= set(REDUCTION_OPS)
        assert sum(float(np.sum(cost.bytes)) for _, cost in costs) > 0


def test_every_scorer_that_a_plan_names_is_applied_where_the_runtime_can() -> None:
    pytest.importorskip("torch")
    policies = importlib.import_module("aimcost.runtime.policies").all_policies()
    for (name, action, inside), event in planned().items():
        if find_scorer(name).reads == "inside_tower":
            assert event.tower_layer is not None
            continue
        table = policies.layer if inside else policies.merge if action == "merge" else policies.prune
        assert name in table, f"{name} is planned to {action}, and nothing runs it"
    runnable = policies.layer.keys() | policies.merge.keys() | policies.prune.keys()
    assert runnable <= set(all_scorers()), "a policy whose scorer nobody priced"


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="pagerank"):
        register(Scorer(name="pagerank", price=positional, reads="positions"))
    assert find_scorer("pagerank").price is not positional


def test_an_unknown_scorer_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown scorer 'page_rank'; did you mean 'pagerank'") as caught:
        find_scorer("page_rank")
    assert "\n" not in str(caught.value)


def test_an_estimate_loads_the_prices_of_its_own_method_alone() -> None:
    run = {
        "model": "llava-onevision-qwen2-7b",
        "workload": {"frames": 8, "text_tokens": 100},
        "method": {"name": "fastv"},
        "hardware": "nvidia_a100_sxm_40gb",
    }
    code = (
        f"import sys, aimcost; aimcost.estimate({run!r}).to_dict(); "
        "print(sorted(m for m in sys.modules if m.startswith('aimcost.methods.') and m.endswith('.price')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['aimcost.methods.fastv.price']"
    assert registry.__name__ == "aimcost.methods.registry"
