"""A user's mistake is one readable line and exit status 2: never a traceback, never a NaN."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aimcost
from aimcost.errors import AimcostError, FileFormatError, InvalidValueError, ScheduleError, UnknownNameError
from aimcost.loading.files import MAX_FILE_BYTES, read_mapping

Edit = Callable[[dict[str, Any]], None]
NAN, INFINITY = float("nan"), float("inf")
# A pydantic or Python internal that must not reach a user.
INTERNALS = re.compile(r"Traceback|pydantic|constrained|function-|input_value|<class|\[type=|NoneType")


@pytest.fixture
def run(tiny_model: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
    return json.loads(
        json.dumps(
            {
                "model": tiny_model,
                "workload": {"visual_tokens": 60, "text_tokens": 10},
                "method": {"name": "none"},
                "hardware": machine,
            }
        )
    )


def message(given: Any, kind: type[AimcostError] = AimcostError, **overrides: Any) -> str:
    """The error that `given` raises, checked to be one clean line of exit status 2."""
    with pytest.raises(kind) as caught:
        aimcost.estimate(given, **overrides).to_dict()
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert len(text) < 400
    assert not INTERNALS.search(text), text
    return text


def put(run: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split("/")
    inner = run
    for key in parents:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return run


def test_the_run_that_is_spoilt_below_is_good(run: dict[str, Any]) -> None:
    assert aimcost.estimate(run).totals.flops > 0


@pytest.mark.parametrize(
    ("path", "value", "nearest"),
    [
        ("model", "llava-onevision-qwen2-7", "llava-onevision-qwen2-7b"),
        ("model", "LLaVA_OneVision_Qwen2_7B", "llava-onevision-qwen2-7b"),
        ("hardware", "nvidia_a100", "nvidia_a100_sxm_40gb"),
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


def estimate_or_error(run: dict[str, Any]) -> dict[str, Any] | AimcostError:
    try:
        return aimcost.estimate(run).to_dict()
    except AimcostError as error:
        return error


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
        ({"text_tokens": 5, "newline": True}, "no visual tokens"),
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
    "key", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "model_type"]
)
def test_missing_fields_of_a_config_json(
    tmp_path: Path, run: dict[str, Any], tiny_model: dict[str, Any], key: str
) -> None:
    config = {name: value for name, value in tiny_model.items() if name != key}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = message({**run, "model": str(tmp_path)})
    assert key in text
    assert "config.json" in text


WRONG = ["64", None, 0, -4, 2.5, NAN, True, [64], {"a": 1}, 10**12]


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads"])
def test_wrong_types_inside_a_config_json(
    tmp_path: Path, run: dict[str, Any], tiny_model: dict[str, Any], key: str, value: Any
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**tiny_model, key: value}))
    assert key in message({**run, "model": str(path)}, InvalidValueError)


@pytest.mark.parametrize(
    "change",
    [
        {"num_key_value_heads": 3},
        {"num_key_value_heads": 8},
        {"num_attention_heads": 5, "num_key_value_heads": 5},
        {"tie_word_embeddings": "no"},
        {"attention_bias": 1},
        {"head_dim": -1},
        {"model_type": 5},
        {"model_type": "bert"},
        {"model_type": "llava"},
        {"model_type": "llava", "text_config": {}, "vision_config": {}},
        {"model_type": "llava", "text_config": [], "vision_config": 3},
        {"model_type": "qwen", "intermediate_size": 1},
    ],
    ids=str,
)
def test_models_that_cannot_be(run: dict[str, Any], change: dict[str, Any]) -> None:
    run["model"].update(change)
    message(run)


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 5},
        {"patch_size": 30},
        {"patch_size": 0},
        {"num_hidden_layers": 1},
        {"model_type": "dino"},
        {"hidden_size": "32"},
    ],
    ids=str,
)
def test_towers_that_cannot_be(run: dict[str, Any], tiny_model: dict[str, Any], change: dict[str, Any]) -> None:
    message({**run, "model": llava(tiny_model, **change), "workload": {"images": 1}})


@pytest.mark.parametrize("layer", [0, 4, -4, -5, "2", 1.5, None, [-2, -5], True])
def test_feature_layers(run: dict[str, Any], tiny_model: dict[str, Any], layer: Any) -> None:
    model = {**llava(tiny_model), "vision_feature_layer": layer}
    text = message({**run, "model": model, "workload": {"images": 1}})
    assert "vision_feature_layer" in text


def test_pooling_that_leaves_no_token(run: dict[str, Any], tiny_model: dict[str, Any]) -> None:
    model = {**llava(tiny_model), "spatial_pool_stride": 100}
    message({**run, "model": model, "workload": {"images": 1}})


def llava(text: dict[str, Any], **vision: Any) -> dict[str, Any]:
    tower = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
    }
    return {"model_type": "llava", "text_config": text, "vision_config": {**tower, **vision}}


def test_the_llava_that_is_spoilt_above_is_good(run: dict[str, Any], tiny_model: dict[str, Any]) -> None:
    estimate = aimcost.estimate({**run, "model": llava(tiny_model), "workload": {"images": 1}})
    assert estimate.stages["vision"].flops > 0


def nested(depth: int, opening: str, closing: str) -> bytes:
    return (opening * depth + closing * depth).encode()


LAUGHS = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n".encode() for i in range(1, 12)
)

FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("r.yaml", b"", "mapping"),
    "blank": ("r.yaml", b"\n\n# nothing here\n", "mapping"),
    "list": ("r.yaml", b"- model\n- workload\n", "mapping"),
    "text": ("r.yaml", b"just words", "mapping"),
    "number": ("r.yaml", b"42", "mapping"),
    "binary": ("r.yaml", b"\x7fELF\x02\x01\x01\0\0\0\0", "binary"),
    "not UTF-8": ("r.yaml", "model: caf\xe9".encode("latin-1"), "UTF-8"),
    "UTF-16": ("r.yaml", "model: x".encode("utf-16"), "text"),
    "control characters": ("r.yaml", b"model: \x01\x02", "YAML"),
    "tabs": ("r.yaml", b"model:\n\t- x", "YAML"),
    "unclosed": ("r.yaml", b"model: {a: 1", "YAML"),
    "tag": ("r.yaml", b"model: !!python/object/apply:os.system ['true']", "YAML"),
    "two documents": ("r.yaml", b"model: a\n---\nmodel: b\n", "YAML"),
    "unknown alias": ("r.yaml", b"model: *nothing", "YAML"),
    "duplicate key": ("r.yaml", b"model: a\nmodel: b\n", "duplicate key 'model'"),
    "duplicate inner key": ("r.yaml", b"model: a\nworkload:\n  batch: 1\n  batch: 2\n", "duplicate key 'batch'"),
    "mapping as key": ("r.yaml", b"? {a: 1}\n: 2\n", "key"),
    "list as key": ("r.yaml", b"? [a, b]\n: 2\n", "key"),
    "number as key": ("r.yaml", b"5: 2\n", "key"),
    "null as key": ("r.yaml", b"~: 2\n", "key"),
    "impossible date": ("r.yaml", b"model: 2026-99-99\n", ""),
    "digits without end": ("r.yaml", b"model: " + b"9" * 6000, ""),
    "broken JSON": ("r.json", b'{"model": ', "JSON"),
    "duplicate JSON key": ("r.json", b'{"model": "a", "model": "b"}', "duplicate key 'model'"),
    "aliases without end": ("r.yaml", LAUGHS + b"model: *a11\n", ""),
    "alias of itself": ("r.yaml", b"model: &m {text_config: *m}\n", ""),
    "merge keys": ("r.yaml", b"base: &b {model: a}\n<<: *b\n", ""),
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path) -> None:
    filename, content, says = FILES[name]
    path = tmp_path / filename
    path.write_bytes(content)
    text = message(str(path))
    assert says in text


@pytest.mark.parametrize("name", FILES)
def test_errors_name_the_file(name: str, tmp_path: Path) -> None:
    filename, content, _ = FILES[name]
    (tmp_path / filename).write_bytes(content)
    assert str(tmp_path / filename) in message(str(tmp_path / filename))


@pytest.mark.parametrize(
    "line",
    [
        "wrokload: {batch: 1}",
        "workload: {batch: 0}",
        "workload: {images: 2}",
        "method: {name: vtw, k: 99}",
        "method: {name: fast_v}",
        "estimator: rooffline",
        "hardware: {name: x}",
        "hardware: nvidia_a10o",
    ],
)
def test_errors_in_a_run_file_name_it(line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"model: qwen2-7b\n{line}\n")
    assert str(path) in message(str(path))


DEEP = {
    "YAML lists": ("r.yaml", b"model: " + nested(5000, "[", "]")),
    "YAML mappings": ("r.yaml", b"model: " + nested(5000, "{a: ", "}")),
    "very deep YAML": ("r.yaml", b"model: " + nested(100_000, "[", "]")),
    "dashes": ("r.yaml", b"model:\n  " + b"- " * 100_000),
    "JSON lists": ("r.json", nested(100_000, "[", "]")),
    "JSON mappings": ("r.json", nested(100_000, '{"a":', "}")),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting(name: str, cli: Any, tmp_path: Path) -> None:
    """In a process of its own: a parser that recurses in C would take the tests with it."""
    filename, content = DEEP[name]
    (tmp_path / filename).write_bytes(content)
    done = cli("estimate", filename)
    assert done.returncode == 2
    assert filename in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("what", ["model", "hardware"])
@pytest.mark.parametrize("name", FILES)
def test_the_same_files_as_model_and_profile(name: str, what: str, tmp_path: Path, run: dict[str, Any]) -> None:
    _, content, _ = FILES[name]
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    message(put(run, what, str(path)))


def test_a_file_of_100_mb(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    assert "100 MB is too big" in message(str(path), FileFormatError)
    assert MAX_FILE_BYTES < 10_000_000


def test_a_folder_and_a_file_that_is_not_there(tmp_path: Path, run: dict[str, Any]) -> None:
    for given in (tmp_path, tmp_path / "missing.yaml"):
        assert str(given) in message(str(given), FileFormatError)
        message({**run, "hardware": str(given)}, FileFormatError)
        message({**run, "model": str(given)}, FileFormatError)
    with pytest.raises(FileFormatError, match="folder"):
        read_mapping(tmp_path)


def test_files_that_never_end(run: dict[str, Any]) -> None:
    for what in ("model", "hardware"):
        message(put(dict(run), what, "/dev/zero"), FileFormatError)


@pytest.mark.parametrize("value", ["989e12", "1_000", "0x10", "1e3", "12:30:45", "0o17", ".5e3", "+1"])
def test_numbers_that_yaml_reads_in_its_own_way(tmp_path: Path, value: str) -> None:
    """PyYAML takes 989e12 for text and 12:30:45 for a number of base 60: neither may pass unseen."""
    path = tmp_path / "gpu.yaml"
    path.write_text(f"name: x\nmemory_gb_per_s: 1000\ndense_tflops: {{fp16: {value}}}\n")
    run = {"model": "qwen2-0.5b", "workload": {"text_tokens": 10}, "hardware": str(path), "estimator": "roofline"}
    document = estimate_or_error(run)
    if isinstance(document, AimcostError):
        assert "fp16" in str(document)
    else:
        assert value in ("1_000", "0x10", "+1"), f"{value} was read as a number"


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
