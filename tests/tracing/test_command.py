"""`aimcost trace`, and types without a reader that trace by themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import aimcost
from aimcost.errors import UnsupportedModelError
from aimcost.inputs import autotrace
from aimcost.inputs.model import load_model

pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

# Two windowed layers and a global one, at sizes that trace in a second.
GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "sliding_window": 100,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}


def test_a_file_and_its_estimate(cli, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GEMMA))
    done = cli("trace", "config.json", "-o", "gemma.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gemma.json: gemma3_text, ")
    assert "3 layers of 2 kinds" in done.stdout
    written = json.loads((tmp_path / "gemma.json").read_text())
    assert [layer["repeat"] for layer in written["parts"]["decoder"]["layers"]] == [2, 1]
    assert written["config"] == GEMMA
    assert not any("defaults assumed" in note for note in written["notes"])
    shown = cli("estimate", "--model", "gemma.json", "--hardware", "nvidia_l4", "--text-tokens", "500", "--json")
    assert shown.returncode == 0, shown.stderr
    # a window of 100 keeps the 99 keys that the next token sees beside itself; two heads of 16, keys and values
    estimate = json.loads(shown.stdout)
    assert estimate["memory"]["kv_by_layer"] == [128.0 * n for n in (99, 99, 500)]
    # max_position_embeddings of its class
    assert estimate["summary"]["context_limit"] == 131072


def test_an_unknown_type_traces_once(tmp_path, monkeypatch):
    # as configurations of Mamba 2 say that a step has no upper limit
    config = {**GEMMA, "intermediate_size": 112, "time_step_limit": [0.0, float("inf")]}
    del config["num_key_value_heads"]
    first = load_model(config)
    assert first.decoder.traced is not None
    assert "sizes not in config.json, transformers' defaults assumed: num_key_value_heads 4" in first.notes
    (cached,) = [path for path in autotrace.cache_folder().iterdir() if '"intermediate_size": 112' in path.read_text()]
    monkeypatch.setattr(autotrace, "torch_module", lambda *_: pytest.fail("traced twice"))
    assert load_model(config).decoder.layers == 3
    # another release of transformers may run other ops: its trace is another one
    cached.write_text(cached.read_text().replace('"transformers": "', '"transformers": "0.'))
    with pytest.raises(pytest.fail.Exception, match="traced twice"):
        load_model(config)


@pytest.mark.check
def test_experts_that_all_run_are_told():
    """Llama 4 multiplies every token by all experts, and those that it was not routed to by zero."""
    sizes = {"hidden_size": 64, "intermediate_size": 32, "intermediate_size_mlp": 96, "vocab_size": 128, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1, "attention_chunk_size": 100}
    config = {"model_type": "llama4_text", **sizes, **heads, "num_local_experts": 16, "interleave_moe_layer_step": 1}
    run = {"model": config, "hardware": "nvidia_l4", "workload": {"text_tokens": 50, "batch": 2}}
    whole, routed = (aimcost.estimate({**run, "stack": stack}) for stack in ("transformers", "vllm"))
    assert any("all 16 experts run on every token, which is routed to 1" in note for note in whole.notes)
    assert any("1 of 16 experts run on a token, as stack vllm routes it" in note for note in routed.notes)
    # gate, up and down of 100 tokens by 15 experts less
    idle = 15 * 100 * 2 * 3 * 64 * 32
    assert whole.matrix_flops(["prefill"]) - routed.matrix_flops(["prefill"]) == idle
    # what surrounds them: copies of every token for an expert, their scores, SiLU and product, and the sum
    by_name = [{op["name"]: op for op in each.ops() if op["stage"] == "prefill"} for each in (whole, routed)]
    for name in ("feed_forward_repeat", "feed_forward_mul", "mlp_act_2", "feed_forward_sum"):
        assert by_name[0][name]["flops"] == 16 * by_name[1][name]["flops"], name
    for name in ("router", "mlp_act", "gate_proj", "mlp_act_3", "down_proj", "feed_forward_add"):
        assert by_name[0][name]["flops"] == by_name[1][name]["flops"], name
    for each in (whole, routed):
        summary = each.to_dict()["summary"]
        assert summary["parameters"] - summary["active_parameters"] == 15 * 3 * 64 * 32
    # and by one rank of two: half of each
    half = aimcost.estimate({**run, "stack": "vllm", "parallel": {"tp": 2}})
    assert half.matrix_flops(["prefill"]) < 0.6 * routed.matrix_flops(["prefill"])


@pytest.mark.check
def test_a_cut_acts_on_a_traced_decoder():
    run = {"model": GEMMA, "hardware": "nvidia_l4", "workload": {"visual_tokens": 300, "text_tokens": 20}}
    whole, cut = (
        aimcost.estimate({**run, "method": method}) for method in ({"name": "none"}, {"name": "fastv", "k": 2})
    )
    before, after = whole.to_dict()["layers"], cut.to_dict()["layers"]
    assert [layer["tokens"] for layer in before] == [320, 320, 320]
    assert [layer["tokens"] for layer in after[:2]] == [320, 320]
    assert after[2]["tokens"] < 320
    assert after[2]["flops"] < before[2]["flops"]


@pytest.mark.check_all
@pytest.mark.parametrize(
    ("kind", "k", "refused"), [("deepseek_v2", 2, None), ("lfm2_moe", 2, None), ("lfm2_moe", 1, 0)]
)
def test_a_cut_on_a_compressed_cache_and_on_a_hybrid(kind, k, refused, comparison):
    workload = {"visual_tokens": 300, "text_tokens": 20}
    run = {"model": comparison.config_of(kind), "hardware": "nvidia_a100_sxm_80gb", "workload": workload}
    whole = aimcost.estimate(run)
    cut_run = {**run, "method": {"name": "fastv", "k": k}}
    if refused is not None:
        # its first layer is a convolution
        with pytest.raises(aimcost.errors.InvalidValueError, match="layer 0 of inline has none"):
            aimcost.estimate(cut_run)
        return
    cut = aimcost.estimate(cut_run)
    left = cut.to_dict()["layers"][k]["tokens"]
    # layers after the cut are those of a shorter prompt: FLOPs and cache, states and convolutions included
    short = aimcost.estimate({**run, "workload": {"text_tokens": left}})
    for before, after, shorter in zip(*(e.to_dict()["layers"] for e in (whole, cut, short)), strict=True):
        ranked = after["index"] == k - 1  # ranking is charged there
        expected = before if after["index"] < k else shorter
        assert after["tokens"] == expected["tokens"]
        assert ranked or after["flops"] == expected["flops"]
    assert cut.memory.kv_by_layer == (*whole.memory.kv_by_layer[:k], *short.memory.kv_by_layer[k:])


def test_an_encoder_is_no_decoder():
    with pytest.raises(UnsupportedModelError, match="causal"):
        load_model({"model_type": "bert", "num_hidden_layers": 1})


def test_without_torch_one_line_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(autotrace, "_known", frozenset)
    with pytest.raises(aimcost.errors.AimcostError, match="model_type"):
        load_model({**GEMMA, "intermediate_size": 48})


@pytest.mark.check_all
@pytest.mark.parametrize("kind", ["gemma3", "falcon_h1", "deepseek_v2"])
def test_files_that_the_browser_tests_read_are_what_is_traced(cli, tmp_path, kind):
    """Where the same transformers is installed; ``aimcost trace`` of a file's `config` writes it again."""
    file = Path(__file__).parents[1] / "browser" / "traced" / f"{kind}.json"
    known = json.loads(file.read_text())
    (tmp_path / "config.json").write_text(json.dumps(known["config"]))
    done = cli("trace", "config.json", "-o", "again.json")
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "again.json").read_text())
    if again["transformers"] != known["transformers"]:
        pytest.skip(f"traced with transformers {known['transformers']}")
    assert again == known
