"""A small model and grid on which every candidate can be estimated one by one."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import pytest

from aimcost.errors import AimcostError
from aimcost.inputs.run import load_run
from aimcost.methods.aim.plan import reachable_ratios
from aimcost.pricing.pricing import estimate_run
from aimcost.pricing.result import Estimate
from aimcost.search.plan.budgets import upper_end

LAYERS, FIRST = 6, 2
LEVELS = (1.0, 0.5, 0.25, 0.0)
SMALL = {
    "model": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
    "workload": {"visual_tokens": 600, "text_tokens": 40, "new_tokens": 4},
    "hardware": "nvidia_a100_sxm_80gb",
    "method": {"name": "aim"},
}


class Candidate(NamedTuple):
    """One schedule, estimated on its own."""

    method: dict[str, Any]
    estimate: Estimate
    kept: int
    ttft: float
    upper: float


def estimated(run: dict[str, Any], method: dict[str, Any]) -> Candidate | None:
    try:
        result = estimate_run(load_run({**run, "method": method}))
    except AimcostError:
        return None
    tokens, text = result.run.schedule.tokens, result.run.schedule.text_tokens
    if any(count != tokens[0] for count in tokens[:FIRST]):
        return None
    return Candidate(method, result, sum(tokens) - text * len(tokens), result.ttft_s, upper_end(result, 1.0))


def everything(run: dict[str, Any]) -> list[Candidate]:
    """All of the grid by itertools and `estimate`: no code of the planner's own."""
    methods: list[dict[str, Any]] = []
    workload = load_run(run).workload
    for ratio in reachable_ratios(workload):
        merge = {"merge_ratio": ratio}
        for l1 in range(LAYERS + 1):
            methods += [{"name": "aim", **merge, "l1": l1, "l2": l2} for l2 in range(l1 + 1, LAYERS + 2)]
        whole = load_run({**run, "method": {"name": "aim", **merge, "l1": LAYERS, "l2": LAYERS + 1}}).schedule
        counts = [whole.text_tokens + int(whole.visual_tokens * level) for level in LEVELS]
        for rest in itertools.combinations_with_replacement(sorted(set(counts), reverse=True), LAYERS - FIRST):
            tokens = [whole.tokens[0]] * FIRST + list(rest)
            methods.append({"name": "explicit", "tokens_per_layer": tokens, "select": "aim", **merge})
    found = [estimated(run, method) for method in methods]
    return [candidate for candidate in found if candidate is not None]


@functools.cache
def brute_force(execution: str = "eager") -> list[Candidate]:
    """Launched one by one, the device waits for the host; in a graph it never does."""
    return everything({**SMALL, "execution": execution})


@pytest.fixture
def brute() -> list[Candidate]:
    return brute_force()
