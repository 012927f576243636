"""A user's mistake in a run is one readable line and exit status 2: never a traceback, never a NaN."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from bad_input import INFINITY, INTERNALS, NAN, estimate_or_error, message, put

import aimcost
from aimcost.errors import AimcostError, InvalidValueError, ScheduleError, UnknownNameError


def test_the_run_that_is_spoilt_below_is_good(run: dict[str, Any]) -> None:
    assert aimcost.estimate(run).totals.flops > 0


@pytest.mark.parametrize(
    ("path", "value", "nearest"),
    [
        ("model", "llava-onevision-qwen2-7", "llava-onevision-qwen2-7b"),
        ("model", "LLaVA_OneVision_Qwen2_7B", "llava-onevision-qwen2-7b"),
        ("hardware", "nvidia_a100", "nvidia_a100_sxm_80gb"),
        ("hardware", "a100-sxm-80gb", "nvidia_a100_sxm_80gb"),
        ("method/name", "fast_v", "fastv"),
        ("method/name", "piramiddrop", "pyramiddrop"),
        ("estimator", "rooffline", "roofline"),
        ("estimator", "llmviewer", "llm_viewer"),
        ("model/model_type", "qwen_2", "qwen2"),
    ],
)
def test_unknown_names_offer_the_nearest(run: dict[str, Any], path: str, value: str, nearest: str) -> None:
    text = message(put(run, path, value), UnknownNameError)
    assert repr(value) in text
    assert repr(nearest) in text


@pytest.mark.parametrize("name", ["../aim", "base", "__init__", "aim.plan", ""])
@pytest.mark.parametrize("what", ["method/name", "estimator", "hardware", "model"])
def test_names_reach_nothing_but_what_is_listed(run: dict[str, Any], what: str, name: str) -> None:
    message(put(run, what, name))


@pytest.mark.parametrize("what", ["hardware", "model"])
@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 3000 + "b", "a" * 5000 + ".yaml", "x/\0y", "\0"])
def test_names_that_no_file_can_have(run: dict[str, Any], what: str, name: str) -> None:
    assert len(message(put(run, what, name))) < 400


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("wrokload", "workload"),
        ("attn", None),
        ("workload/frame", "frames"),
        ("workload/text_token", "text_tokens"),
        ("precision/weight", "weights"),
        ("method/ratio", None),
        ("hardware/memory_gbps", "memory_gb_per_s"),
        ("hardware/dense_tflop", "dense_tflops"),
        ("estimator_options/skip_mlp", "skip_mlp_add"),
        ("parallel/tpp", "tp"),
        ("budgets/max_ttft", "max_ttft_ms"),
    ],
)
def test_misspelt_keys_at_every_level(run: dict[str, Any], path: str, nearest: str | None) -> None:
    text = message(put(run, path, 1), UnknownNameError)
    assert path.rpartition("/")[2] in text
    assert nearest is None or nearest in text


def test_misspelt_keys_of_nested_text_tokens(run: dict[str, Any]) -> None:
    text = message(put(run, "workload/text_tokens", {"sistem": 1, "question": 2}), UnknownNameError)
    assert "sistem" in text
    assert "text_tokens.system" in text


def test_a_key_misspelt_and_thereby_missing(run: dict[str, Any], machine: dict[str, Any]) -> None:
    renamed = {("memory_gb_per_sec" if key == "memory_gb_per_s" else key): v for key, v in machine.items()}
    assert "memory_gb_per_s" in message({**run, "hardware": renamed}, UnknownNameError)


COUNTS = ["workload/batch", "workload/visual_tokens", "workload/text_tokens", "workload/new_tokens"]
SIZES = ["model/hidden_size", "model/num_hidden_layers", "model/vocab_size", "model/head_dim"]
AMOUNTS = ["hardware/memory_gb_per_s", "hardware/dense_tflops/fp16", "hardware/memory_gb"]


@pytest.mark.parametrize("path", [*COUNTS, *SIZES, *AMOUNTS, "price_per_hour", "budgets/max_ttft_ms"])
@pytest.mark.parametrize(
    "value",
    [-1, -0.5, NAN, INFINITY, -INFINITY, 10**30, "989e12", "16", True, [1], {"a": 1}, "", "many"],
    ids=repr,
)
def test_numbers_that_cannot_be(run: dict[str, Any], path: str, value: Any) -> None:
    if value == 10**30 and path in [*AMOUNTS, "price_per_hour", "budgets/max_ttft_ms"]:
        value = 1e31
    assert path.rpartition("/")[2] in message(put(run, path, value))


@pytest.mark.parametrize("path", [*COUNTS, *SIZES])
@pytest.mark.parametrize("value", [1.5, 2.0, 1e308])
def test_counts_are_whole(run: dict[str, Any], path: str, value: float) -> None:
    assert "whole number" in message(put(run, path, value), InvalidValueError)


@pytest.mark.parametrize("path", ["workload/batch", "workload/visual_tokens", "workload/frames", *SIZES, *AMOUNTS])
def test_zero_where_there_must_be_some(run: dict[str, Any], path: str) -> None:
    message(put(run, path, 0), InvalidValueError)


@pytest.mark.parametrize("path", AMOUNTS)
@pytest.mark.parametrize("value", [1e-320, 1e-300, 1e-200])
def test_vanishing_amounts_give_no_infinity(run: dict[str, Any], path: str, value: float) -> None:
    assert_refused_or_finite(put(run, path, value))


@pytest.mark.parametrize("estimator", ["roofline", "llm_viewer", "calibrated"])
@pytest.mark.parametrize("attention", ["flash", "eager"])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hardware/onchip_buffer_kb", 1e-320),
        ("hardware/onchip_buffer_kb", 1e-300),
        ("hardware/memory_gb_per_s", 1e30),
        ("hardware/dense_tflops/fp16", 1e-320),
        ("workload/batch", 100_000_000),
        ("workload/visual_tokens", 100_000_000),
        ("model/hidden_size", 10_000_000),
        ("model/vocab_size", 10_000_000),
        ("model/head_dim", 10_000_000),
        ("model/head_dim", 1),
    ],
)
def test_extremes_stay_finite(run: dict[str, Any], path: str, value: Any, attention: str, estimator: str) -> None:
    assert_refused_or_finite({**put(run, path, value), "attention": attention, "estimator": estimator})


@pytest.mark.parametrize("onchip_kb", [None, 27648])
@pytest.mark.parametrize("estimator", ["roofline", "llm_viewer", "calibrated"])
def test_more_heads_than_hidden_units(run: dict[str, Any], estimator: str, onchip_kb: int | None) -> None:
    """hidden // heads is 0 where a head_dim is given: llm_viewer's d."""
    run["model"].update(num_attention_heads=128, num_key_value_heads=128, head_dim=16)
    if onchip_kb:
        run["hardware"]["onchip_buffer_kb"] = onchip_kb
    assert_refused_or_finite({**run, "estimator": estimator})


def assert_refused_or_finite(run: dict[str, Any]) -> None:
    document = estimate_or_error(run)
    if isinstance(document, AimcostError):
        assert "\n" not in str(document)
        return
    json.dumps(document, allow_nan=False)
    totals = document["totals"]
    assert all(math.isfinite(totals[key]) and totals[key] > 0 for key in ("flops", "bytes", "time_s"))


@pytest.mark.parametrize(("layers", "new_tokens"), [(4, 100_000_000), (10_000_000, 0), (10_000, 100_000)], ids=str)
def test_sizes_that_would_exhaust_memory(
    cli: Any, tmp_path: Path, run: dict[str, Any], layers: int, new_tokens: int
) -> None:
    """In a process of its own, with 4 GB of address space: a refusal or an answer, no MemoryError."""
    put(put(run, "workload/new_tokens", new_tokens), "model/num_hidden_layers", layers)
    (tmp_path / "r.json").write_text(json.dumps(run))
    done = cli("estimate", "r.json", "--json", address_space=4_000_000_000)
    if done.returncode:
        assert done.returncode == 2
        assert re.search("new_tokens|num_hidden_layers", done.stderr)
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("attention", "most"), [("flash", "14,980"), ("eager", "4,993")])
@pytest.mark.parametrize("estimator", ["calibrated", "roofline", "llm_viewer"])
def test_decode_longer_than_memory_is_refused_before_it_is_priced(
    machine: dict[str, Any], attention: str, most: str, estimator: str
) -> None:
    """1,200,000 rows over 80 layers: 15,000 a layer, 20 of them in the prefill; eager attention is 3 rows a step."""
    run = {"model": "llama-3.1-70b", "workload": {"text_tokens": 10, "new_tokens": 100_000}, "hardware": machine}
    text = message({**run, "attention": attention, "estimator": estimator}, InvalidValueError)
    assert f"at most {most} with 80 layers" in text
    assert "new_tokens" in text


@pytest.mark.parametrize("attention", ["flash", "eager"])
def test_a_converted_cache_counts_among_the_rows_of_a_decode_step(machine: dict[str, Any], attention: str) -> None:
    """Each read of a cache that is narrower than attention computes has a row beside it, at every step."""
    run = {"model": "llama-3.1-8b", "workload": {"text_tokens": 10}, "hardware": machine, "attention": attention}
    run["precision"] = {"kv": "fp8"}
    few, more = (len(aimcost.estimate(run, workload={"new_tokens": steps}).priced.table) for steps in (11, 21))
    a_step = (more - few) // (10 * 32)
    assert a_step == {"flash": 2, "eager": 5}[attention]
    text = message({**run, "workload": {"text_tokens": 10, "new_tokens": 100_000}}, InvalidValueError)
    assert f"at most {(1_200_000 // 32 - 20) // a_step:,} with 32 layers" in text


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ([70, 70, 70], "covers 3 layers"),
        ([[70, 5]], "covers 5 layers"),
        ([[70, 2], [10, 1]], "covers 3 layers"),
        ([70, 60, 61, 10], "layer 2 has 61 tokens, more than layer 1 (60)"),
        ([70, 70, 70, 0], "layer 3 has 0 tokens"),
        ([0, 0, 0, 0], "0 tokens"),
        ([71, 70, 70, 70], "71 tokens, but the workload has 70"),
    ],
)
def test_schedules_that_no_model_could_run(run: dict[str, Any], tokens: Any, says: str) -> None:
    method = {"name": "explicit", "tokens_per_layer": tokens}
    assert says in message({**run, "method": method}, ScheduleError)


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        {},
        "70",
        70,
        None,
        [[]],
        [[70]],
        [[70, 4, 1]],
        [[70, 0], [70, 4]],
        [70, [70, 3]],
        [[70, 3], 70],
        ["70", 70, 70, 70],
        [70.0, 70, 70, 70],
        [-70, -70, -70, -70],
        [[70, -4]],
        [NAN] * 4,
        [[70, 10**12]],
        [True, True, True, True],
    ],
    ids=str,
)
def test_notations_that_are_none(run: dict[str, Any], tokens: Any) -> None:
    method = {"name": "explicit", "tokens_per_layer": tokens}
    assert "tokens_per_layer" in message({**run, "method": method})


@pytest.mark.parametrize(
    "method",
    [
        {},
        {"name": None},
        {"name": 3},
        {"name": "explicit"},
        {"name": "pre_llm"},
        {"name": "pre_llm", "ratio": 0.5, "keep_tokens": 3},
        {"name": "pre_llm", "keep_tokens": 61},
        {"name": "pre_llm", "ratio": 0.5, "scorer": "best"},
        {"name": "fastv", "ratio": 1.0},
        {"name": "fastv", "ratio": "0.5"},
        {"name": "fastv", "k": 0},
        {"name": "fastv", "k": 5},
        {"name": "fastv", "keep_tokens": 61},
        {"name": "fastv", "ratio": NAN},
        {"name": "vtw", "k": 5},
        {"name": "vtw", "k": 2.0},
        {"name": "pyramiddrop", "layers": [1, 2, 3], "ratios": [0.5]},
        {"name": "pyramiddrop", "layers": [2, 1], "ratios": [0.5, 0.2]},
        {"name": "pyramiddrop", "layers": [1, 9], "ratios": [0.5, 0.2]},
        {"name": "pyramiddrop", "layers": [1, 2], "ratios": [0.2, 0.5]},
        {"name": "prumerge", "ratio": 1.1},
        {"name": "aim", "convention": "published"},
        {"name": "aim", "merge_ratio": 0.3},
        {"name": "aim", "merge_ratio": 0},
        {"name": "aim", "merge_ratio": 1.5},
        {"name": "aim", "merge_ratio": 0.5, "merge_r": [30]},
        {"name": "aim", "merge_r": [-1]},
        {"name": "aim", "merge_r": 30},
        {"name": "aim", "l1": 5},
        {"name": "aim", "l1": 2, "l2": 2},
        {"name": "aim", "l1": -1},
        {"name": "aim", "decay": -0.1},
        {"name": "aim", "decay": INFINITY},
    ],
    ids=str,
)
def test_parameters_of_methods(run: dict[str, Any], method: dict[str, Any]) -> None:
    message({**run, "method": method})


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        ({"images": 1}, "no vision tower"),
        ({"frames": 1, "visual_tokens": 3}, "frames"),
        ({"images": 1, "frames": 3}, "images"),
        ({"text_tokens": 0}, "at least 1"),
        ({"text_tokens": 5, "newline": True}, "without visual tokens"),
        ({"text_tokens": {"system": -1}}, "system"),
        ({"text_tokens": [1, 2]}, "text_tokens"),
        ({"batch": None}, "batch"),
        ([], "workload"),
        (None, "workload"),
        ("8 frames", "workload"),
    ],
    ids=str,
)
def test_workloads(run: dict[str, Any], workload: Any, says: str) -> None:
    assert says in message({**run, "workload": workload})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("precision/weights", 12),
        ("precision/weights", "bf17"),
        ("precision/kv", "16"),
        ("precision/activations", 16.5),
        ("attention", "paged"),
        ("include", ["prefil"]),
        ("include", "prefill"),
        ("execution", "jit"),
        ("implementation", "triton"),
        ("confidence", 1),
        ("parallel/tp", 0),
        ("estimator_options/skip_mlp_add", "yes"),
        ("estimator_options/skip_mlp_add", 1),
        ("estimator", 3),
        ("hardware/dense_tflops", {}),
        ("hardware/dense_tflops", {"fp17": 1}),
        ("hardware/dense_tflops", 312),
        ("hardware/dense_tflops", {"fp64": 1}),
        ("hardware/usable_memory_gb", -1),
        ("hardware/name", ""),
        ("hardware/name", None),
        ("hardware", 7),
        ("hardware", []),
        ("hardware", None),
        ("model", None),
        ("model", []),
        ("model", {}),
    ],
    ids=str,
)
def test_other_values(run: dict[str, Any], path: str, value: Any) -> None:
    message(put(run, path, value))


@pytest.mark.parametrize("given", [5, None, [], 1.5, b"run"])
def test_what_is_no_run_at_all(given: Any) -> None:
    message(given)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["estimate", "nosuchrun"], "nosuchrun"),
        (["estimate"], "RUN"),
        (["estimate", "--model", "qwen2-7", "--text-tokens", "5"], "qwen2-7b"),
        (["estimate", "--model", "qwen2-7b", "--hardware", "a100"], "nvidia_a100"),
        (["estimate", "--model", "qwen2-7b", "--text-tokens", "-5", "--hardware", "nvidia_t4"], "text_tokens"),
        (["estimate", "--model", "qwen2-7b", "--text-tokens", "many"], "many"),
        (["estimate", "--model", "qwen2-7b", "--set", "method.l1"], "--set"),
        (["estimate", "--model", "qwen2-7b", "--set", "method={name: [}"], "--set"),
        (["estimate", "--model", "qwen2-7b", "--set", "workload.batch=1e400"], "batch"),
        (["estimate", "--model", "qwen2-7b", "--nonsense"], "--nonsense"),
        (["estimat"], "estimat"),
        (["list", "gpus"], "hardware"),
        (["show", "nvidia_a10o"], "nvidia_a10"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_says_it_in_one_line(cli: Any, arguments: list[str], says: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not INTERNALS.search(done.stderr)


def test_the_command_on_a_bad_file(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("model: qwen2-7b\nmodel: qwen2-0.5b\n")
    done = cli("estimate", "bad.yaml", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"aimcost: \S*bad\.yaml: line 2: duplicate key 'model'\n", done.stderr)


@pytest.mark.parametrize(
    "flags",
    [
        ["--images", "[1"],
        ["--images", "*a"],
        ["--images", ""],
        ["--images", "null"],
        ["--images", "2020-13-45"],
        ["--images", "9" * 5000],
        ["--set", "workload.frames=2020-13-45"],
        ["--set", "workload.frames=" + "[" * 3000],
        ["--set", "workload={1: 5}"],
        ["--set", "method=&x {name: none, a: *x}"],
        ["--set", "workload={images: 3, images: 5}"],
    ],
    ids=lambda flags: " ".join(flags)[:40],
)
def test_a_flag_that_holds_no_value_is_one_line(flags: list[str], cli: Any) -> None:
    """Read as strictly as a file; nothing is left out without a word."""
    done = cli("estimate", "--model", "llava-1.5-7b", "--hardware", "nvidia_l4", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("aimcost: ")
    assert done.stderr.count("\n") == 1
