"""A traced model's file: expressions, what is refused, and every command on it without torch."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import aimcost
from aimcost.errors import InvalidValueError
from aimcost.inputs.model import load_model
from aimcost.inputs.processors import processor_keys
from aimcost.inputs.traced_file import traced_model
from aimcost.models.visual_tokens import images_layout
from aimcost.ops.attention import chunked_pairs
from aimcost.types.expression import Expression

MACHINE = "nvidia_a100_sxm_80gb"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096),
        ("3/2*batch*tokens + 7", 1.5 * 3 * 47 + 7),
        ("min(16, tokens)*batch - 2", 46),
        ("ceil(tokens/64)", 1),
        ("max(0, 2 - batch)*(5*tokens) + min(1, batch - 1)*(tokens)", 47),
    ],
)
def test_expressions(text, value):
    assert Expression(text)({"batch": 3.0, "tokens": 47.0}) == value


def test_an_expression_of_arrays_has_an_entry_a_layer():
    found = Expression("min(8, tokens)")({"tokens": np.array([4.0, 8.0, 100.0])})
    assert list(found) == [4.0, 8.0, 8.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "layers",
        "tokens**9",
        "__import__('os')",
        "tokens.real",
        "min(1)",
        "1/tokens",
        "tokens/0",
        "1e999",
        "'a'",
    ],
)
def test_what_is_no_expression(text):
    with pytest.raises(ValueError, match="expression"):
        Expression(text)


def test_pairs_of_a_mask_by_blocks():
    # counted one by one: a query sees the keys of its own block of four, up to itself
    for q_len, kv_len in ((10, 10), (1, 10), (4, 9)):
        places = range(kv_len - q_len, kv_len)
        assert chunked_pairs(float(q_len), float(kv_len), 4.0) == sum(place % 4 + 1 for place in places)


def _layer(repeat=1, *, window=0, hidden=8):
    """Attention of two heads of four over a cache, and one product."""
    heads = {"batch": "batch", "heads": 2, "kv_heads": 1, "head_dim": 4}
    mask = {"mask": "window", "window": window} if window else {"mask": "causal"}
    seen = f"min({window}, kv)" if window else "kv"

    def ops(tokens, keys):
        return [
            {
                "name": "fused_attention",
                "kind": "attention",
                "group": "attention",
                "dims": {**heads, "q_len": tokens, "kv_len": keys},
                "read_cached_bytes": f"16*batch*{keys}",
                **mask,
            },
            {
                "name": "up_proj",
                "kind": "gemm",
                "group": "mlp",
                "dims": {"m": f"batch*{tokens}", "n": hidden, "k": hidden},
                "weight_bytes": 2 * hidden * hidden,
            },
        ]

    return {
        "repeat": repeat,
        "parameters": hidden * hidden,
        "ops": ops("tokens", "tokens"),
        "decode": ops("1", seen),
        "cache_bytes": f"16*batch*min({window - 1}, tokens)" if window else "16*batch*tokens",
        "alive": ["48*batch*tokens"],
        "decode_alive": ["48*batch"],
    }


def _file(*layers):
    return {
        "schema": 1,
        "architecture": "written by hand",
        "transformers": "5.24.0",
        "parameters": 1000.0,
        "format": "bf16",
        "parts": {
            "decoder": {
                "hidden": 8,
                "heads": 2,
                "kv_heads": 1,
                "head_dim": 4,
                "vocab": 10,
                "layers": list(layers),
                "before": [],
                "after": [],
                "outer_parameters": 80,
            }
        },
    }


@pytest.fixture
def model():
    """Two windowed layers, a global one, two windowed ones."""
    return _file(_layer(2, window=16), _layer(1), {"repeat": 2, "same_as": 0})


def _tower(side, pixels):
    """A tower of one layer of patches of 14 pixels that leaves 81 tokens an image."""
    products = [entry for entry in _layer()["ops"] if entry["kind"] == "gemm"]
    ops = [{**entry, "dims": {**entry["dims"], "m": "images*patches"}} for entry in products]
    return {
        "hidden": 8,
        "intermediate": 8,
        "heads": 2,
        "patch_size": 14,
        "image_size": pixels,
        "side": side,
        "merge": 1,
        "parameters": 100,
        "tokens": "81*images",
        "layers": [{"repeat": 1, "ops": ops, "alive": ["48*images"]}],
        "before": [],
        "after": [],
    }


# SmolVLM-Instruct's files, as shipped; of `size` alone; none
SMOLVLM_FILES = (
    {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}, "do_image_splitting": True},
    {"size": {"longest_edge": 1536}},
    None,
)


@pytest.mark.torch
@pytest.mark.parametrize("shipped", SMOLVLM_FILES)
def test_tiles_are_as_large_as_the_configuration_says(shipped, tmp_path):
    """27 patches of 14 pixels fill 378 of 384."""
    module = pytest.importorskip("transformers.models.smolvlm.image_processing_pil_smolvlm")
    sizes = {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}}
    processor = module.SmolVLMImageProcessorPil(**sizes)
    if shipped is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(shipped), encoding="utf-8")
    data = {**_file(_layer()), "architecture": "smolvlm"}
    data["parts"]["tower"] = _tower(27, 384)
    model = traced_model(data, name="smolvlm", where="smolvlm", preprocessor=processor_keys(tmp_path, "smolvlm"))
    for size in ((1280, 720), (384, 384), (379, 379), (1537, 1153), (720, 1281), (4000, 40)):
        views = max(1, processor.get_number_of_image_patches(size[1], size[0])[0])
        layout = images_layout(model, [(size, 1)], newline=None)
        assert layout.sizes == ((1, 81 * views),), size
        assert (layout.load.sequences, layout.load.rows, layout.load.columns) == (views, 27, 27)
    # 13 views of 1280 x 720
    assert images_layout(model, [((1280, 720), 1)], newline=None).sizes == ((1, 1053),)


@pytest.mark.parametrize(
    ("family", "like", "patch"),
    [
        ("qwen3_5", "qwen3-vl-8b", 16),
        ("qwen3_5_moe", "qwen3-vl-8b", 16),
        ("qwen2_5_omni_thinker", "qwen2.5-vl-7b", 14),
    ],
)
@pytest.mark.parametrize("shown", [{"frames": 7}, {"seconds": 1000, "fps": 2}, {"frames": 64, "max_pixels": 200_000}])
def test_videos_are_those_of_the_processor(family, like, patch, shown):
    """Which transformers names for the family; our counts are held to it in tests/golden/processors."""
    data = {**_file(_layer()), "architecture": family}
    data["parts"]["tower"] = {**_tower(0, 0), "patch_size": patch, "merge": 2, "tokens": "1/4*images*patches"}
    found, expected = (
        aimcost.estimate(
            {
                "model": model,
                "hardware": MACHINE,
                "workload": {"image_size": [1280, 720], "text_tokens": 5, **shown},
            }
        ).run.workload
        for model in (data, like)
    )
    for count in ("frames", "groups", "tokens_per_group", "template_tokens", "tower"):
        assert getattr(found, count) == getattr(expected, count), count


@pytest.mark.parametrize(("side", "pixels", "found"), [(27, 384, 384), (27, 0, 378), (27, 448, 378), (0, 1540, 0)])
def test_pixels_of_an_image_are_those_of_its_patches_where_a_file_gives_no_others(side, pixels, found):
    data = _file(_layer())
    data["parts"]["tower"] = {**_tower(side, pixels), "tokens": "images*patches"}
    vision = load_model(data).vision
    assert (vision.image_size, vision.patches) == (found, side**2)


def _estimate(model, **run):
    return aimcost.estimate({"model": model, "hardware": MACHINE, "workload": {"text_tokens": 50}, **run})


def test_layers_of_two_kinds(model):
    layers = _estimate(model).to_dict()["layers"]
    product = 2 * 50 * 8 * 8
    # 4·d a pair and head: 16 the first queries see fewer than 16 keys, 34 see all of them
    windowed = 16 * 2 * (16 * 17 / 2 + 34 * 16)
    whole = 16 * 2 * (50 * 51 / 2)
    assert [layer["flops"] for layer in layers] == [
        product + each for each in (windowed,) * 2 + (whole,) + (windowed,) * 2
    ]


def test_parameters_and_a_cache_by_layer(model):
    estimate = _estimate(model, workload={"text_tokens": 50, "new_tokens": 4, "batch": 3}).to_dict()
    assert estimate["summary"]["parameters"] == 5 * 64 + 80
    assert estimate["memory"]["weights_bytes"] == 2 * (5 * 64 + 80)
    # 50 tokens and three of the four generated; a window keeps 15
    assert estimate["memory"]["kv_by_layer"] == [3 * 16 * n for n in (15, 15, 53, 15, 15)]


def test_decode_reads_what_a_window_holds(model):
    ops = _estimate(model, workload={"text_tokens": 50, "new_tokens": 2}).to_dict()["ops"]
    read = {
        op["layer"]: op["read_kv_bytes"] for op in ops if op["stage"] == "decode" and op["name"] == "fused_attention"
    }
    assert read == {0: 16 * 16, 1: 16 * 16, 2: 16 * 51, 3: 16 * 16, 4: 16 * 16}


def test_one_rank_of_several(model):
    """The product over its input, of which sums are reduced; attention over its heads, whose one KV head is on both."""
    model["parts"]["decoder"]["ranks"] = {"sizes": {"num_attention_heads": 2}}
    for layer in model["parts"]["decoder"]["layers"]:
        for stage in ("ops", "decode") if "ops" in layer else ():
            layer[stage][0]["split"] = {"heads": [1, 0]}
            layer[stage][1]["split"] = {"k": [1, 0], "weight_bytes": [1, 0]}
            layer[stage][1]["exchange"] = "all_reduce"
            layer["split"] = {"parameters": [1, 0], "alive": [0.5, 0]}
    run = {"parallel": {"tp": 2}, "workload": {"text_tokens": 50, "new_tokens": 2}}
    estimate = _estimate(model, **run)
    first = [op for op in estimate.to_dict()["ops"] if op["layer"] == 2]
    assert {(op["stage"], op["name"]): op["flops"] for op in first if op["name"] != "all_reduce_mlp"} == {
        ("prefill", "fused_attention"): 16 * 50 * 51 / 2,
        ("prefill", "up_proj"): 2 * 50 * 8 * 4,
        ("decode", "fused_attention"): 16 * 51,
        ("decode", "up_proj"): 2 * 8 * 4,
    }
    # 50 rows of eight bf16 sums
    assert [op["bytes"] for op in first if (op["stage"], op["name"]) == ("prefill", "all_reduce_mlp")] == [50 * 16]
    assert estimate.memory.weights_bytes == 2 * (5 * 32 + 80)
    assert estimate.memory.kv_by_layer == _estimate(model, workload=run["workload"]).memory.kv_by_layer
    with pytest.raises(InvalidValueError, match="num_attention_heads of 2"):
        _estimate(model, parallel={"tp": 4})


def test_a_cached_prefix(model):
    """50 new tokens after 30. A window of 16 holds 15 keys of the prefix, all of which some query sees."""
    estimate = _estimate(model, workload={"text_tokens": 80, "cached_tokens": 30})
    layers = estimate.to_dict()["layers"]
    product = 2 * 50 * 8 * 8
    windowed, whole = 16 * 2 * 50 * 16, 16 * 2 * (50 * 30 + 50 * 51 / 2)
    assert [layer["flops"] for layer in layers] == [
        product + each for each in (windowed,) * 2 + (whole,) + (windowed,) * 2
    ]
    assert estimate.memory.cached_bytes == 16 * (4 * 15 + 30)


@pytest.mark.parametrize(
    ("whole", "step", "expected"),
    [
        ("8*batch*tokens", "8*batch", 8 * 3 * 50),  # by new tokens
        ("8*batch*tokens", "8*batch*kv", 8 * 3 * 80),  # by all keys, as what a compressed cache is expanded with
        ("8*batch*tokens", "6*batch + 2*batch*kv", 3 * (6 * 50 + 2 * 80)),
        ("8*batch*tokens*tokens", "8*batch*kv", 8 * 3 * 50 * 80),  # by pairs
        ("ceil(tokens/64)*batch", "batch", 3),  # new tokens in one block
    ],
)
def test_an_op_after_a_prefix(model, whole, step, expected):
    for key, size in (("ops", whole), ("decode", step)):
        gate = {"name": "gate", "kind": "pointwise", "group": "rest", "dims": {}, "write_bytes": 0, "flops": size}
        model["parts"]["decoder"]["layers"][1][key].append({**gate, "read_bytes": 0})
    ops = _estimate(model, workload={"batch": 3, "text_tokens": 80, "cached_tokens": 30}).to_dict()["ops"]
    assert [op["flops"] for op in ops if op["name"] == "gate"] == [expected]


def test_an_op_that_does_not_say_what_it_does_after_a_prefix_is_refused(model):
    gate = {"name": "gate", "kind": "bmm", "group": "rest", "read_bytes": 0, "write_bytes": 0}
    sizes = {"groups": "batch", "m": "tokens", "n": "min(16, tokens)", "k": 4}
    layer = model["parts"]["decoder"]["layers"][1]
    layer["ops"].append({**gate, "dims": sizes})
    layer["decode"].append({**gate, "dims": {**sizes, "m": 1, "n": "min(16, kv)"}})
    with pytest.raises(InvalidValueError, match="how gate grows with the prefix"):
        _estimate(model, workload={"text_tokens": 80, "cached_tokens": 30})


def test_a_cut_changes_the_layers_after_it(model):
    schedule = {"name": "explicit", "tokens_per_layer": [[50, 2], [20, 3]]}
    whole = _estimate(model, workload={"visual_tokens": 40, "text_tokens": 10}).to_dict()
    cut = _estimate(model, workload={"visual_tokens": 40, "text_tokens": 10}, method=schedule).to_dict()
    assert [layer["tokens"] for layer in cut["layers"]] == [50, 50, 20, 20, 20]
    assert [layer["flops"] for layer in cut["layers"][:2]] == [layer["flops"] for layer in whole["layers"][:2]]
    assert cut["layers"][2]["flops"] == 2 * 20 * 64 + 16 * 2 * (20 * 21 / 2)
    assert cut["memory"]["kv_by_layer"] == [240, 240, 320, 240, 240]


def test_tokens_are_ranked_where_there_is_attention(model):
    layer = model["parts"]["decoder"]["layers"][1]  # the third layer, say one of a recurrent state
    layer["ops"] = [op for op in layer["ops"] if op["kind"] != "attention"]
    workload = {"visual_tokens": 40, "text_tokens": 10}
    cut = _estimate(model, workload=workload, method={"name": "fastv", "k": 2}).to_dict()
    assert [layer["tokens"] for layer in cut["layers"]] == [50, 50, 30, 30, 30]
    with pytest.raises(InvalidValueError, match="ranks at layers with attention: layer 2 of inline has none"):
        _estimate(model, workload=workload, method={"name": "fastv", "k": 3})


def test_a_copy_that_one_request_does_not_need(model):
    copy = {
        "name": "clone",
        "kind": "move",
        "group": "rest",
        "dims": {"elements": "8*batch*tokens"},
        "count": "min(1, batch - 1)",
        "read_bytes": "min(1, batch - 1)*(16*batch*tokens)",
        "write_bytes": "min(1, batch - 1)*(16*batch*tokens)",
    }
    model["parts"]["decoder"]["layers"][1]["ops"].append(copy)
    one, two = (_estimate(model, workload={"text_tokens": 50, "batch": batch}).to_dict() for batch in (1, 2))
    assert [op["bytes"] for op in one["ops"] if op["name"] == "clone"] == []
    assert [op["bytes"] for op in two["ops"] if op["name"] == "clone"] == [2 * 16 * 2 * 50]


def test_formats_follow_the_run(model):
    eight = _estimate(model, precision={"weights": 8, "activations": 16, "kv": 16}).to_dict()
    # the layers' products in 8 bits, what lies outside them in 16
    assert eight["memory"]["weights_bytes"] == 5 * 64 + 2 * 80


def test_images_of_a_tower_that_was_not_traced(model):
    model["notes"] = ["traced without its tower (it has no patch_size): workload.visual_tokens says how many tokens"]
    said = r"inline is traced without its tower \(it has no patch_size\) \(use visual_tokens\)"
    with pytest.raises(InvalidValueError, match=said):
        _estimate(model, workload={"images": 1, "text_tokens": 5})


def test_what_a_trace_does_not_say_is_refused(model):
    with pytest.raises(InvalidValueError, match=r"tp.*does not say what ranks divide"):
        _estimate(model, parallel={"tp": 2})
    model["parts"]["decoder"]["ranks"] = {"refused": "up_proj is wider where heads are fewer"}
    with pytest.raises(InvalidValueError, match=r"tp.*up_proj is wider"):
        _estimate(model, parallel={"tp": 2})
    with pytest.raises(InvalidValueError, match="LLM-Viewer"):
        _estimate(model, estimator="llm_viewer")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda d: d["layers"].__delitem__(slice(2)), "same_as"),
        (lambda d: d["layers"][0]["ops"].clear(), "layers.0.ops"),
        (lambda d: d["layers"][0]["ops"][0]["dims"].pop("q_len"), "dims.q_len"),
        (lambda d: d["layers"][0]["ops"][0].update(mask=""), "mask"),
        (lambda d: d["layers"][0]["ops"][1]["dims"].update(m="batch*layers"), "dims.m"),
        (lambda d: d["layers"][0]["ops"][1].update(kind="matmul"), "kind"),
        (lambda d: d["layers"][0].update(cache_bytes="eval(1)"), "cache_bytes"),
        (lambda d: d.update(hidden=0), "hidden"),
    ],
)
def test_a_broken_file_names_its_key(model, change, part):
    change(model["parts"]["decoder"])
    with pytest.raises(aimcost.errors.AimcostError) as error:
        load_model(model)
    assert part in str(error.value)


def test_commands_read_a_file_without_torch(model, cli, tmp_path, monkeypatch):
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "configs" / "models").mkdir(parents=True)
    path = tmp_path / "configs" / "models" / "mine.json"
    path.write_text(json.dumps(model))
    for given in (str(path), "mine"):
        done = cli("estimate", "--model", given, "--hardware", MACHINE, "--text-tokens", "50", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["totals"]["flops"] > 0
    listed = json.loads(cli("list", "models", "--json").stdout)["models"]
    assert {row["name"]: row["layers"] for row in listed if row["name"] == "mine"} == {"mine": 5}
    assert "written by hand" in cli("show", "mine").stdout
