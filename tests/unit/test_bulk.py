"""The bulk path gives what the estimator gives, schedule by schedule."""

from __future__ import annotations

import numpy as np
import pytest

import aimcost
from aimcost.errors import InvalidValueError
from aimcost.inputs.run import load_run
from aimcost.search.bulk import LayerTable, layer_table


def run_with(method: dict, **changes) -> dict:
    return {
        "model": "llava-onevision-qwen2-7b",
        "workload": {"frames": 4, "text_tokens": 60},
        "hardware": "nvidia_a100_sxm_80gb",
        "method": method,
        **changes,
    }


@pytest.mark.parametrize("estimator", ["roofline"])
@pytest.mark.parametrize(
    "method",
    [
        {"name": "none"},
        {"name": "aim"},
        {"name": "aim", "l1": 7, "l2": 8},
        {"name": "fastv"},
        {"name": "pyramiddrop"},
        {"name": "vtw"},
        {"name": "explicit", "tokens_per_layer": [[845, 10], [300, 10], [60, 8]]},
    ],
    ids=lambda m: m["name"],
)
def test_equals_the_estimate(method: dict, estimator: str) -> None:
    run = load_run(run_with(method, estimator=estimator))
    table = layer_table(run)
    tokens = np.array([run.schedule.tokens])
    expected = aimcost.estimate(run_with(method, estimator=estimator)).stages["prefill"].time_s
    # the embedding is of text alone in both; what lies outside the layers is the same
    assert table.prefill_seconds(tokens)[0] == pytest.approx(expected, rel=1e-12)


def test_flops_equal_the_estimate_without_selection() -> None:
    method = {"name": "explicit", "tokens_per_layer": [[845, 10], [300, 10], [60, 8]]}
    run = load_run(run_with(method))
    flops = layer_table(run).prefill_flops(np.array([run.schedule.tokens]))[0]
    assert flops == pytest.approx(aimcost.estimate(run_with(method)).stages["prefill"].flops, rel=1e-12)


@pytest.mark.parametrize("name", ["none", "fastv"])
def test_a_table_of_some_counts_holds_the_same_bits(name: str) -> None:
    run = load_run(run_with({"name": name}))
    whole, some = layer_table(run), layer_table(run, counts=[60, 452, 453])
    at = [1, 60, 452, 453, 845]
    assert np.flatnonzero(np.isfinite(some.seconds)).tolist() == [0, *at]
    for column in ("seconds", "flops", *(("cut_from", "cut_to") if name == "fastv" else ())):
        assert getattr(some, column)[at].tobytes() == getattr(whole, column)[at].tobytes()


@pytest.mark.parametrize(
    "tokens",
    [np.zeros((1, 28), int), np.full((1, 28), 846), np.ones((1, 28)), np.ones(28, int), [["a"]]],
    ids=["zero", "above the table", "floats", "one dimension", "text"],
)
def test_refuses_what_is_no_schedule(tokens) -> None:
    table = layer_table(load_run(run_with({"name": "none"})))
    with pytest.raises(InvalidValueError, match="tokens"):
        table.prefill_seconds(tokens)


def test_many_at_once_equal_one_by_one() -> None:
    table = layer_table(load_run(run_with({"name": "aim"})))
    rng = np.random.default_rng(1)
    tokens = np.sort(rng.integers(1, table.max_tokens, (20_000, 28)), axis=1)[:, ::-1]
    together = table.prefill_seconds(tokens)
    picked = rng.integers(0, len(tokens), 50)
    alone = [table.prefill_seconds(tokens[i : i + 1])[0] for i in picked]
    np.testing.assert_allclose(together[picked], alone, rtol=1e-12)


@pytest.mark.parametrize("counts", [3, 40, 800], ids="of {} counts".format)
@pytest.mark.parametrize("layers", [1, 2, 28])
def test_a_cut_costs_where_the_count_falls_and_nowhere_else(counts: int, layers: int) -> None:
    """Runs of equal counts, falls and rises in any order: the definition, layer by layer."""
    rng = np.random.default_rng(2)
    seconds, cut_from, cut_to = rng.random((3, 801))
    table = LayerTable(seconds=seconds, flops=seconds, fixed_s=0.25, fixed_flops=0.0, cut_from=cut_from, cut_to=cut_to)
    tokens = rng.integers(1, counts + 1, (9_000, layers))  # more than one chunk
    falls = tokens[:, :-1] > tokens[:, 1:]
    cuts = falls * (cut_from[tokens[:, :-1]] + cut_to[tokens[:, 1:]])
    expected = 0.25 + seconds[tokens].sum(axis=1) + cuts.sum(axis=1)
    np.testing.assert_allclose(table.prefill_seconds(tokens), expected, rtol=1e-13)
